import math

import pytest
import torch
from exact import Mixture
from torch import nn

from minidiff.denoiser import TARGETS, Denoiser
from minidiff.schedules import DiscreteSchedule, add_noise, rectified, trigonometric

SCHEDULES = [DiscreteSchedule.linear(), DiscreteSchedule.cosine(), trigonometric, rectified]
MIXTURE = Mixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.7, 1.0], [0.2, -1.2]], [0.15, 0.3, 0.2])


class Answer(nn.Module):
    """A net that is a given function of (x, t, cond)."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, t, cond):
        return self.function(x, t, cond)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(schedule, x0, eps, t):
    """d x_t / d t by central differences."""
    h = 1e-5
    return (add_noise(schedule, x0, t + h, eps) - add_noise(schedule, x0, t - h, eps)) / (2 * h)


def test_v_is_the_slope_of_x_along_the_angle():
    """On the quarter turn phi = pi t / 2, so dx/dphi = (2 / pi) dx/dt."""
    x0, eps, t = normal(8, 2), normal(8, 2, seed=1), torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    net = Answer(lambda x, t, cond: slope(trigonometric, x0, eps, t) * 2 / math.pi)
    assert Denoiser(net, trigonometric, "v").loss(x0, t, eps=eps) < 1e-18


def test_velocity_is_the_slope_of_x_in_time():
    x0, eps, t = normal(8, 2), normal(8, 2, seed=1), torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    net = Answer(lambda x, t, cond: slope(rectified, x0, eps, t))
    assert Denoiser(net, rectified, "velocity").loss(x0, t, eps=eps) < 1e-18


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_eps_and_x0_are_asked_for_by_name(schedule):
    x0, eps, t = normal(8, 2), normal(8, 2, seed=1), torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    assert Denoiser(Answer(lambda x, t, cond: eps), schedule, "eps").loss(x0, t, eps=eps) == 0
    assert Denoiser(Answer(lambda x, t, cond: x0), schedule, "x0").loss(x0, t, eps=eps) == 0
    assert Denoiser(Answer(lambda x, t, cond: eps - x0), schedule, "velocity").loss(x0, t, eps=eps) == 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tweedie_gives_the_posterior_mean(schedule):
    """E[x0 | x] = (x + sigma^2 grad log p_t(x)) / alpha, the gradient by autograd of the noised density."""
    for t in (0.02, 0.3, 0.7, 0.97):
        alpha, sigma = schedule(torch.tensor(t))
        x = 1.5 * normal(50, 2)
        tweedie = (x + sigma**2 * MIXTURE.noised(alpha, sigma).score(x)) / alpha
        torch.testing.assert_close(MIXTURE.posterior_mean(x, alpha, sigma), tweedie, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_all_four_targets_give_the_posterior_mean(schedule, target):
    """The net answers with the expectation of its target, made from the score; the denoiser must find E[x0 | x]."""
    t = torch.tensor([0.02, 0.3, 0.7, 0.97])
    alpha, sigma = (c[:, None] for c in schedule(t))
    x = 1.5 * normal(4, 2)
    score = torch.cat([MIXTURE.noised(*schedule(tk)).score(row[None]) for tk, row in zip(t, x, strict=True)])
    eps_hat, x0_hat = -sigma * score, (x + sigma**2 * score) / alpha
    answers = {"eps": eps_hat, "x0": x0_hat, "v": alpha * eps_hat - sigma * x0_hat, "velocity": eps_hat - x0_hat}
    denoiser = Denoiser(Answer(lambda *_: answers[target]), schedule, target)
    wanted = torch.cat([MIXTURE.posterior_mean(r[None], *schedule(tk)) for tk, r in zip(t, x, strict=True)])
    torch.testing.assert_close(denoiser(x, t), wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_net_that_knows_the_answer_gives_back_the_picture(schedule, target):
    """Solve for x0 with the exact target of every pair (x0, eps), from t near 0 to t near 1, for any rank."""
    t = torch.linspace(0.01, 0.99, 6, dtype=torch.float64)
    for shape in [(6, 2), (6, 1, 7), (6, 3, 4, 4)]:
        x0, eps, asked = normal(*shape), normal(*shape, seed=1), []
        net = Answer(lambda x, t, cond, asked=asked: asked[0])
        denoiser = Denoiser(net, schedule, target)
        asked.append(torch.zeros(shape).double().requires_grad_())
        denoiser.loss(x0, t, eps=eps).backward()  # d/d answer of mean (answer - target)^2 at 0 is -2 target / n
        asked[0] = -asked[0].grad * x0.numel() / 2
        torch.testing.assert_close(denoiser(add_noise(schedule, x0, t, eps), t), x0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_is_least_at_the_posterior_mean(target):
    """Off by c everywhere, the expected loss grows by c^2 and has no slope: what the net learns is an expectation."""
    n, alpha_sigma = 100_000, trigonometric(torch.tensor(0.5).double())
    x0 = MIXTURE.sample(n, torch.Generator().manual_seed(0))

    def loss(c):
        def net(x, t, cond):
            x0_hat = MIXTURE.posterior_mean(x, *alpha_sigma)
            eps_hat = (x - alpha_sigma[0] * x0_hat) / alpha_sigma[1]
            a, b = TARGETS[target](*alpha_sigma)
            return a * x0_hat + b * eps_hat + c

        denoiser = Denoiser(Answer(net), trigonometric, target)
        return denoiser.loss(x0, torch.tensor(0.5).double(), eps=normal(n, 2, seed=1))

    assert abs(loss(0.2) - loss(0.0) - 0.04) < 0.004 and abs(loss(-0.2) - loss(0.0) - 0.04) < 0.004


@pytest.mark.parametrize("schedule", [trigonometric, rectified, DiscreteSchedule(torch.tensor([1.0, 0.5, 0.0]))])
def test_eps_is_refused_where_no_picture_is_left(schedule):
    x = normal(4, 2)
    with pytest.raises(ValueError, match="alpha = 0"):
        Denoiser(Answer(lambda x, t, cond: x), schedule, "eps")(x, torch.tensor([0.5, 0.5, 1.0, 0.5]))
    for target in ("x0", "v", "velocity"):
        assert Denoiser(Answer(lambda x, t, cond: x), schedule, target)(x, torch.tensor(1.0)).isfinite().all()


def test_on_the_cosine_table_the_first_step_multiplies_an_error_in_eps():
    schedule, x, t = DiscreteSchedule.cosine(), normal(4, 2), torch.tensor(1.0)
    right, wrong = (Denoiser(Answer(lambda x, t, cond, e=e: x + e), schedule)(x, t) for e in (0.0, 1e-3))
    assert 15 < (right - wrong).abs().mean() < 25  # 1e-3 has become 20


@pytest.mark.parametrize("target", TARGETS)
def test_a_clean_picture_is_its_own_answer(target):
    x = normal(4, 2)
    for schedule in SCHEDULES:
        denoiser = Denoiser(Answer(lambda x, t, cond: torch.full_like(x, 9.0)), schedule, target)
        torch.testing.assert_close(denoiser(x, torch.tensor([0.0, 0.5, 0.0, 0.0]))[[0, 2, 3]], x[[0, 2, 3]])


def test_the_net_sees_one_exact_time_a_row_and_the_condition_untouched():
    cond, seen = object(), []
    denoiser = Denoiser(Answer(lambda x, t, cond: seen.append((t, cond)) or x), DiscreteSchedule.linear())
    t = torch.tensor([999, 1000]) / 1000
    denoiser(torch.zeros(2, 3, dtype=torch.bfloat16), t, cond)
    denoiser(torch.zeros(2, 3), torch.tensor(0.25), cond)
    denoiser.loss(torch.zeros(2, 3), t, cond)
    assert all(c is cond for _, c in seen)
    assert torch.equal(seen[0][0], t) and seen[1][0].tolist() == [0.25, 0.25] and torch.equal(seen[2][0], t)


def test_rows_do_not_mix():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    denoiser = Denoiser(Answer(lambda x, t, cond: net(x) * t[:, None]), DiscreteSchedule.linear(), "v")
    x, t = normal(5, 2), torch.tensor([0.001, 0.2, 0.5, 0.8, 1.0])
    single = torch.cat([denoiser(x[i : i + 1], t[i]) for i in range(5)])
    torch.testing.assert_close(denoiser(x, t), single, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_gradients_flow_through_the_loss(target):
    """Autograd against a finite difference in each weight of the net."""
    torch.manual_seed(0)
    inner = nn.Linear(2, 2).double()
    denoiser = Denoiser(Answer(lambda x, t, cond: inner(x) * t[:, None]), DiscreteSchedule.cosine(), target)
    denoiser.net.inner = inner
    x0, eps, t = normal(16, 2), normal(16, 2, seed=1), torch.linspace(0.1, 1, 16)
    denoiser.loss(x0, t, eps=eps).backward()
    assert len(list(denoiser.parameters())) == 2
    for p in denoiser.parameters():
        for i in range(p.numel()):
            losses = []
            for h in (1e-6, -1e-6):
                with torch.no_grad():
                    p.view(-1)[i] += h
                    losses.append(denoiser.loss(x0, t, eps=eps).item())
                    p.view(-1)[i] -= h
            assert p.grad.view(-1)[i].item() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="eps, x0, v, velocity"):
        Denoiser(nn.Identity(), rectified, "noise")
