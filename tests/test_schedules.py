import math
from decimal import Decimal, getcontext

import pytest
import torch
from torch import nn

from minidiff.denoiser import Denoiser
from minidiff.schedules import DiscreteSchedule, add_noise, like, logit_normal, rectified, times, trigonometric

getcontext().prec = 50
SCHEDULES = [DiscreteSchedule.linear(), DiscreteSchedule.cosine(), trigonometric, rectified]


def decimal_cos(x):
    """cos by its Taylor series with 50 digits."""
    term, total, n = Decimal(1), Decimal(1), 0
    while abs(term) > Decimal(10) ** -45:
        n += 2
        term *= -x * x / (n * (n - 1))
        total += term
    return total


@pytest.mark.parametrize("T", [50, 1000])
def test_linear_table_is_the_product_of_one_minus_beta(T):
    product, wanted = Decimal(1), []
    for k in range(T):
        product *= 1 - (Decimal("0.0001") + Decimal("0.0199") * k / (T - 1))
        wanted.append(float(product))
    table = DiscreteSchedule.linear(T).alpha_bar
    assert table[0] == 1 and len(table) == T + 1
    torch.testing.assert_close(table[1:], torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)


def test_linear_table_at_the_values_of_the_paper():
    assert round(DiscreteSchedule.linear(50).alpha_bar[-1].item(), 2) == 0.60  # far from noise
    assert round(DiscreteSchedule.linear(1000).alpha_bar[-1].item() * 1e5, 1) == 4.0
    assert DiscreteSchedule.linear().alpha_bar[1].item() == pytest.approx(0.9999, abs=1e-15)


def test_cosine_table_against_fifty_digits():
    half_pi = Decimal("1.5707963267948966192313216916397514420985846996875529")
    s, T, table = Decimal("0.008"), 1000, DiscreteSchedule.cosine().alpha_bar

    def f(k):
        return decimal_cos(half_pi * (Decimal(k) / T + s) / (1 + s)) ** 2

    for k in (1, 2, 10, 250, 500, 750, 990, 999):
        assert table[k].item() == pytest.approx(float(f(k) / f(0)), rel=1e-9), k
    assert table[1000].item() == pytest.approx(float(f(999) / f(0)) / 1000, rel=1e-9)  # the last beta is held at 0.999
    assert table[1000].sqrt().item() == pytest.approx(5e-5, rel=0.02)


@pytest.mark.parametrize("schedule", SCHEDULES[:2])
def test_the_table_is_where_the_forward_chain_arrives(schedule):
    """x_k = sqrt(1 - beta) x_{k-1} + sqrt(beta) noise, its mean and variance carried along step by step."""
    beta = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    mean, variance = 1.0, 0.0
    for k in range(1, schedule.T + 1):
        mean, variance = mean * math.sqrt(1 - beta[k - 1]), (1 - beta[k - 1]) * variance + beta[k - 1]
        alpha, sigma = schedule(torch.tensor(k / schedule.T))
        assert abs(alpha - mean) < 1e-12 and abs(sigma**2 - variance) < 1e-12


def test_trigonometric_is_a_quarter_turn():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = trigonometric(t)
    turned = torch.exp(1j * t * math.pi / 2)
    torch.testing.assert_close(torch.complex(alpha, sigma), turned, rtol=0, atol=1e-15)
    assert alpha[0] == 1 and sigma[0] == 0 and alpha[-1] == 0 and sigma[-1] == 1  # exact, not 6e-17


def test_rectified_walks_a_straight_line_from_data_to_noise():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    x0, eps = torch.tensor([2.0, -1.0]).double(), torch.tensor([0.5, 3.0]).double()
    path = torch.stack([add_noise(rectified, x0[None], tk, eps[None])[0] for tk in t])
    torch.testing.assert_close(path[[0, -1]], torch.stack([x0, eps]))
    assert path.diff(n=2, dim=0).abs().max() < 1e-14


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_signal_fades_from_all_to_next_to_nothing(schedule):
    alpha, sigma = schedule(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert alpha.dtype == sigma.dtype == torch.float64
    assert alpha[0] == 1 and sigma[0] == 0 and alpha[-1] < 0.007 and sigma[-1] > 0.9999
    assert (torch.log(alpha / sigma).diff() < 0).all()


@pytest.mark.parametrize("T", [7, 50, 1000, 4000])
def test_every_step_finds_its_own_entry_from_float32(T):
    schedule = DiscreteSchedule.linear(T) if T <= 1000 else DiscreteSchedule.cosine(T)
    k = torch.arange(T + 1)
    alpha, sigma = schedule((k / T).float())
    torch.testing.assert_close(alpha**2, schedule.alpha_bar, rtol=1e-14, atol=0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(T + 1).double(), rtol=0, atol=1e-14)


def test_times_that_make_no_sense_are_refused():
    for schedule in SCHEDULES:
        with pytest.raises(ValueError, match="float32 or float64"):
            schedule(torch.tensor(0.5, dtype=torch.bfloat16))
        for wrong in (-0.01, 1.01, math.nan, 500.0):
            with pytest.raises(ValueError, match="between 0"):
                schedule(torch.tensor([0.5, wrong]))


def test_tables_that_make_no_sense_are_refused():
    for wrong in ([0.9, 0.5], [1.0], [1.0, 0.5, -0.1]):
        with pytest.raises(ValueError, match="T . 1 numbers"):
            DiscreteSchedule(torch.tensor(wrong))
    for wrong in ([1.0, 0.5, 0.6], [1.0, 1.0, 0.5], [1.0, math.nan]):
        with pytest.raises(ValueError, match="fall"):
            DiscreteSchedule(torch.tensor(wrong))
    assert DiscreteSchedule(torch.tensor([1.0, 0.5, 0.0]))(torch.tensor(1.0))[0] == 0  # no picture left at T is legal


def test_half_precision_of_the_model_leaves_the_table_alone():
    schedule = DiscreteSchedule.cosine()
    before = schedule.alpha_bar.clone()
    model = Denoiser(nn.Linear(2, 2), schedule).half().to("meta")
    assert model.schedule.alpha_bar.dtype == torch.float64 and torch.equal(model.schedule.alpha_bar, before)


def test_each_row_has_its_own_noise_level():
    """Mean and variance of x_t, row by row, by Monte Carlo, for pictures and sounds alike."""
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([0.1, 0.5, 0.9])
    for schedule in SCHEDULES:
        x0 = torch.tensor([1.0, -2.0, 3.0]).reshape(3, 1, 1, 1).expand(3, 2, 100, 100)
        x = add_noise(schedule, x0, t, torch.randn(x0.shape, generator=generator))
        alpha, sigma = schedule(t)
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.mean((1, 2, 3)).double(), alpha * x0[:, 0, 0, 0], atol=0.03, rtol=0)
        torch.testing.assert_close(x.std((1, 2, 3)).double(), sigma, atol=0.03, rtol=0)


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 5), (3, 3, 4, 4)])
def test_like_multiplies_row_by_row(shape):
    c, x = torch.tensor([2.0, 3.0, 5.0]).double(), torch.ones(shape)
    product = like(c, x) * x
    assert product.dtype == torch.float32
    for row, value in zip(product, (2.0, 3.0, 5.0), strict=True):
        assert (row == value).all()
    assert (like(torch.tensor(7.0), x) * x == 7).all()
    with pytest.raises(ValueError, match="one number a row"):
        like(c[:, None], x)


def test_times_run_from_noise_to_data_on_the_grid():
    assert times(4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert (times(7, 1000) * 1000).tolist() == [1000, 857, 714, 571, 429, 286, 143, 0]
    for n in (1, 3, 49, 50):
        k = times(n, 50) * 50
        assert len(k) == n + 1 and (k.diff() < 0).all()
        torch.testing.assert_close(k, k.round(), rtol=0, atol=1e-12)
    for wrong in [(0,), (51, 50)]:
        with pytest.raises(ValueError, match="at least 1"):
            times(*wrong)


def test_logit_normal_times_are_normal_behind_the_logistic_function():
    """Shares below some times against SciPy's normal distribution of the logit."""
    from scipy.stats import norm
    torch.manual_seed(0)
    t = logit_normal(40_000, .85, .8)
    for u in (.1, .4, .7, .9):
        share = norm.cdf((math.log(u / (1 - u)) - .85) / .8)
        assert abs(float((t < u).double().mean()) - share) < .01
