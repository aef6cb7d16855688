import math
from functools import partial
from itertools import islice

import pytest
import torch
from exact import Mixture, energy_distance, gaussian_flow
from torch import nn

from minidiff.data import noise
from minidiff.denoiser import Denoiser
from minidiff.samplers import (
    ancestral_step,
    ddim_step,
    dpmpp_path,
    heun_path,
    last,
    noise_like,
    sample,
    sample_path,
    slope,
)
from minidiff.schedules import DiscreteSchedule, add_noise, rectified, times, trigonometric

LINEAR, COSINE = DiscreteSchedule.linear(), DiscreteSchedule.cosine()
SCHEDULES = {"linear": LINEAR, "cosine": COSINE, "trigonometric": trigonometric, "rectified": rectified}
MIXTURE = Mixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.7, 1.0], [0.2, -1.2]], [0.15, 0.3, 0.2])
LARGE = partial(ancestral_step, large=True)
PAIRS = [(0.9, 0.5), (0.5, 0.45), (0.03, 0.01), (0.999, 0.2)]


def walk(step):
    """A path of random steps, all from one stream."""
    generator = torch.Generator().manual_seed(3)
    randn_like = partial(torch.randn, generator=generator, dtype=torch.float64)
    return partial(sample_path, step=partial(step, randn_like=lambda x: randn_like(x.shape)))


# a name: the number of steps, and a function that gives the path
SAMPLERS = {
    "ddim": (80, lambda: sample_path),
    "ddim, eta 0.5": (120, lambda: walk(partial(ddim_step, eta=0.5))),
    "ddim, eta 1": (150, lambda: walk(partial(ddim_step, eta=1.0))),
    "ancestral": (150, lambda: walk(ancestral_step)),
    "ancestral, large": (500, lambda: walk(LARGE)),
    "heun": (40, lambda: heun_path),
    "dpm++": (60, lambda: dpmpp_path),
}


def pair(schedule, t):
    return schedule(torch.as_tensor(t, dtype=torch.float64))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- every sampler makes the distribution


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_sampler_reproduces_the_mixture(name, sampler):
    """Shares, means and spreads of the components, and the energy distance to fresh exact samples."""
    schedule, (steps, path) = SCHEDULES[name], SAMPLERS[sampler]
    n, grid = 1500, times(steps, getattr(schedule, "T", None))
    x = last(path()(MIXTURE.denoise(schedule), noise((n, 2), 3).double(), grid, schedule))
    component = MIXTURE.joint(x).argmax(1)
    for k, (share, mean, std) in enumerate(zip(MIXTURE.weights, MIXTURE.means, MIXTURE.std, strict=True)):
        mine = x[component == k]
        assert abs(len(mine) / n - share) < 4 * math.sqrt(share * (1 - share) / n) + 0.01
        assert (mine.mean(0) - mean).abs().max() < 4 * std / math.sqrt(len(mine)) + 0.01
        assert (mine.std(0) / std - 1).abs().max() < 4 / math.sqrt(2 * len(mine)) + 0.03
    assert energy_distance(x, MIXTURE.sample(n, torch.Generator().manual_seed(4))) < 0.005


def test_the_tolerance_of_the_energy_distance_means_something():
    """Two exact sets are closer than the bound above; a share moved by 6 % or a spread off by 20 % is farther."""
    drawn, other = (MIXTURE.sample(1500, torch.Generator().manual_seed(seed)) for seed in (5, 6))
    assert abs(energy_distance(drawn, other)) < 0.005
    shifted = Mixture([0.24, 0.56, 0.2], MIXTURE.means, MIXTURE.std).sample(1500, torch.Generator().manual_seed(7))
    assert energy_distance(drawn, shifted) > 0.005
    assert energy_distance(drawn + 0.1, other) > 0.005


# ---- deterministic solvers: order


@pytest.mark.parametrize("schedule", [trigonometric, rectified])
@pytest.mark.parametrize("path, order", [(sample_path, 1), (heun_path, 2), (dpmpp_path, 2)])
def test_solvers_show_their_order(schedule, path, order):
    """The ODE of one Gaussian has a closed solution; twice the steps, 2^order times less error."""
    for mean, std in [(0.7, 0.4), (0.2, 1.5)]:
        data, x = Mixture([1.0], [[mean]], [std]), normal(50, 1)
        exact = gaussian_flow(x, mean, std, pair(schedule, 0.9), pair(schedule, 0.2))
        errors = []
        for n in (20, 40, 80):
            grid = torch.linspace(0.9, 0.2, n + 1, dtype=torch.float64)
            errors.append((last(path(data.denoise(schedule), x, grid, schedule)) - exact).abs().mean())
        orders = [torch.log2(errors[i] / errors[i + 1]).item() for i in range(2)]
        assert all(abs(seen - order) < 0.12 for seen in orders), orders


@pytest.mark.parametrize("schedule", [trigonometric, rectified])
def test_heun_keeps_its_order_from_pure_noise_to_data(schedule):
    """alpha = 0 at one end, sigma = 0 at the other, and still second order; DPM-Solver++ comes close to it."""
    mean, std = 0.7, 0.4
    data, x = Mixture([1.0], [[mean]], [std]), normal(50, 1)
    exact = gaussian_flow(x, mean, std, pair(schedule, 1), pair(schedule, 0))

    def error(path, n):
        return (last(path(data.denoise(schedule), x, times(n), schedule)) - exact).abs().mean()

    assert math.log2(error(heun_path, 40) / error(heun_path, 160)) / 2 == pytest.approx(2, abs=0.15)
    assert error(heun_path, 40) < error(sample_path, 80) / 5  # at equal evaluations
    assert error(dpmpp_path, 80) < error(sample_path, 80) / 5


def test_dpm_solver_takes_uneven_steps():
    """Long and short steps in turn: second order needs the right ratio of this step to the one before."""
    mean, std = 0.2, 1.5
    data, x = Mixture([1.0], [[mean]], [std]), normal(50, 1)
    exact, errors = gaussian_flow(x, mean, std, pair(trigonometric, 0.9), pair(trigonometric, 0.2)), []
    for n in (40, 80, 160):
        grid = 0.9 - 0.7 * torch.cat([torch.zeros(1), torch.tensor([1.0, 4.0]).repeat(n // 2).cumsum(0)]).double() / (
            2.5 * n
        )
        errors.append((last(dpmpp_path(data.denoise(trigonometric), x, grid, trigonometric)) - exact).abs().mean())
    assert all(math.log2(errors[i] / errors[i + 1]) == pytest.approx(2, abs=0.15) for i in range(2))


@pytest.mark.parametrize("path, calls", [(sample_path, 10), (heun_path, 19), (dpmpp_path, 10)])
def test_evaluations_are_counted(path, calls):
    asked = []
    end = last(path(lambda x, t: asked.append(t.item()) or x / 2, normal(3, 2), times(10), rectified))
    assert len(asked) == calls and min(asked) > 0 and end.isfinite().all()


def test_a_wise_denoiser_is_right_in_one_step():
    """When x0_hat is the truth, DDIM and DPM-Solver++ stay on the line alpha x0 + sigma eps, whatever the steps."""
    x0, eps, grid = normal(5, 3), normal(5, 3, seed=1), torch.tensor([0.97, 0.6, 0.55, 0.1, 0.0]).double()
    for schedule in SCHEDULES.values():
        for path in (sample_path, dpmpp_path):
            x = add_noise(schedule, x0, grid[0], eps)
            for (y, _), s in zip(path(lambda x, t: x0, x, grid, schedule), grid[1:], strict=True):
                torch.testing.assert_close(y, add_noise(schedule, x0, s, eps), rtol=0, atol=1e-12)


def test_slope_is_the_direction_in_which_x_turns():
    """Move x0 and eps along the angle by hand and take finite differences of x / r."""
    x0, eps, h = normal(5, 3), normal(5, 3, seed=1), 1e-5
    for alpha, sigma in [(0.9, 0.1), (0.3, 0.7), (0.0, 1.0), (0.5, 0.5), (1.0, 20.0)]:
        at = torch.tensor(alpha).double(), torch.tensor(sigma).double()
        phi = math.atan2(at[1], at[0])
        moved = [math.cos(p) * x0 + math.sin(p) * eps for p in (phi - h, phi + h)]
        by_hand = (moved[1] - moved[0]) / (2 * h)
        torch.testing.assert_close(slope(at[0] * x0 + at[1] * eps, x0, at), by_hand, rtol=1e-7, atol=1e-7)


# ---- one stochastic step


def chain(schedule, t, s):
    """(a, variance) of q(x_t | x_s) = N(a x_s, variance), by walking the noising process in small moves.

    On a table: its own betas. On a continuous schedule: the SDE dx = f x dt + g dw with f = (log alpha)' and
    g^2 = (sigma^2)' - 2 f sigma^2, its two moments integrated by the midpoint rule.
    """
    a, variance = 1.0, 0.0
    if isinstance(schedule, DiscreteSchedule):
        for k in range(round(s * schedule.T) + 1, round(t * schedule.T) + 1):
            kept = (schedule.alpha_bar[k] / schedule.alpha_bar[k - 1]).item()
            a, variance = a * math.sqrt(kept), kept * variance + 1 - kept
        return a, variance
    edges = torch.linspace(s, t, 20001, dtype=torch.float64)
    (alpha, sigma), (_, middle), h = schedule(edges), schedule((edges[1:] + edges[:-1]) / 2), (t - s) / 20000
    drift = alpha.log().diff() / h
    g2 = (sigma**2).diff() / h - 2 * drift * middle**2
    to_the_end = alpha[-1] / torch.exp((alpha[1:].log() + alpha[:-1].log()) / 2)
    return torch.exp(drift.sum() * h).item(), (g2 * to_the_end**2).sum().item() * h


@pytest.mark.parametrize("name", SCHEDULES)
def test_ancestral_step_is_the_posterior_of_bayes_on_a_grid(name):
    """q(x_s | x_t, x0) ~ q(x_t | x_s) q(x_s | x0), multiplied and normalised on a grid, for near and far s."""
    schedule, x0, x = SCHEDULES[name], torch.tensor([[0.8]]).double(), torch.tensor([[-0.4]]).double()
    for t, s in PAIRS:
        (a, variance), (alpha_s, sigma_s) = chain(schedule, t, s), pair(schedule, s)
        grid = torch.linspace(-6, 6, 400_001, dtype=torch.float64)
        log_posterior = -((x - a * grid) ** 2) / (2 * variance) - (grid - alpha_s * x0) ** 2 / (2 * sigma_s**2)
        posterior = log_posterior.softmax(1)
        mean = (posterior * grid).sum()
        std = (posterior * (grid - mean) ** 2).sum().sqrt()
        at, to = pair(schedule, t), pair(schedule, s)
        mine = [ancestral_step(x, x0, at, to, randn_like=lambda x, z=z: torch.full_like(x, z)) for z in (0, 1, -2)]
        assert mine[0].item() == pytest.approx(mean.item(), rel=1e-4, abs=1e-5)
        assert (mine[1] - mine[0]).item() == pytest.approx(std.item(), rel=1e-4)
        assert (mine[2] - mine[0]).item() == pytest.approx(-2 * std.item(), rel=1e-4)
        large = [ancestral_step(x, x0, at, to, large=True, randn_like=lambda x, z=z: x * 0 + z) for z in (0.0, 1.0)]
        assert large[0] == mine[0] and (large[1] - large[0]).item() == pytest.approx(math.sqrt(variance), rel=1e-4)


def test_ancestral_step_has_the_coefficients_printed_in_the_ddpm_paper():
    """mu = (sqrt(abar_{k-1}) beta x0 + sqrt(1 - beta) (1 - abar_{k-1}) x) / (1 - abar_k), and both stds."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = torch.cumprod(1 - beta, 0)
    for k in (1, 2, 10, 500, 1000):
        b, now, before = beta[k - 1], abar[k - 1], abar[k - 2] if k > 1 else torch.tensor(1.0).double()
        for x0, x in [(1.0, 0.0), (0.0, 1.0), (0.375, -2.0)]:
            mean = (before.sqrt() * b * x0 + (1 - b).sqrt() * (1 - before) * x) / (1 - now)
            for large, variance in [(False, (1 - before) / (1 - now) * b), (True, b if k > 1 else b * 0)]:
                arguments = (
                    torch.full((1, 1), x).double(),
                    torch.full((1, 1), x0).double(),
                    *(pair(LINEAR, j / 1000) for j in (k, k - 1)),
                )
                for z in (0.0, 1.0):
                    mine = ancestral_step(*arguments, large=large, randn_like=lambda x, z=z: x * 0 + z)
                    assert mine.item() == pytest.approx((mean + z * variance.sqrt()).item(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_eta_keeps_the_noise_level(name, eta):
    """From x_t = alpha x0 + sigma eps to x_s with the same x0: kept eps and fresh z must add up to sigma_s^2."""
    schedule, zero, one = SCHEDULES[name], torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    for t, s in [*PAIRS, (0.5, 0.0)]:
        at, to = pair(schedule, t), pair(schedule, s)

        def respond(x0, eps, z, at=at, to=to):
            x = at[0] * x0 + at[1] * eps
            return ddim_step(x, x0, at, to, eta=eta, randn_like=lambda x: z).item()

        kept, fresh = respond(zero, one, zero), respond(zero, zero, one)
        assert respond(one, zero, zero) == pytest.approx(to[0].item(), rel=1e-9)
        assert kept >= 0 and kept**2 + fresh**2 == pytest.approx((to[1] ** 2).item(), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_eta_one_is_the_ancestral_step_and_eta_scales_its_noise(name):
    schedule, x, x0, z = SCHEDULES[name], normal(6, 2), normal(6, 2, seed=1), normal(6, 2, seed=2)
    for t, s in [*PAIRS, (0.01, 0.0)]:
        at, to = pair(schedule, t), pair(schedule, s)
        one = ddim_step(x, x0, at, to, eta=1.0, randn_like=lambda x: z)
        torch.testing.assert_close(one, ancestral_step(x, x0, at, to, randn_like=lambda x: z), rtol=1e-9, atol=1e-9)

        def fresh(eta, at=at, to=to):
            drawn = (ddim_step(x, x0, at, to, eta=eta, randn_like=lambda x, z=z: z) for z in (z, 0 * z))
            return next(drawn) - next(drawn)

        torch.testing.assert_close(fresh(0.25), fresh(1.0) / 4, rtol=1e-7, atol=1e-12)


def test_eta_zero_draws_nothing():
    def refuse(x):
        raise AssertionError("drew noise")

    x = normal(4, 2)
    ddim_step(x, x / 2, pair(LINEAR, 0.5), pair(LINEAR, 0.4), eta=0.0, randn_like=refuse)


@pytest.mark.parametrize("step", [ddim_step, partial(ddim_step, eta=1.0), ancestral_step, LARGE])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_last_step_lands_on_the_guess(name, step):
    x, x0 = normal(4, 2), normal(4, 2, seed=1)
    schedule = SCHEDULES[name]
    torch.testing.assert_close(step(x, x0, pair(schedule, 0.01), pair(schedule, 0.0)), x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("step", [ddim_step, partial(ddim_step, eta=0.7), ancestral_step])
@pytest.mark.parametrize("shape", [(4, 2), (4, 1, 5), (4, 3, 2, 2)])
def test_each_row_may_stand_at_its_own_time(step, shape):
    x, x0, z = normal(*shape), normal(*shape, seed=1), normal(*shape, seed=2)
    t, s = torch.tensor(PAIRS).double().unbind(1)
    whole = step(x, x0, rectified(t), rectified(s), randn_like=lambda x: z)
    for i in range(4):
        single = step(x[i][None], x0[i][None], rectified(t[i]), rectified(s[i]), randn_like=lambda x, i=i: z[i][None])
        torch.testing.assert_close(whole[i], single[0], rtol=1e-12, atol=1e-12)


# ---- inversion


def test_ddim_walks_back_the_way_it_came():
    """Inversion is the list backwards: from a sample to the noise it came from, and the more steps the closer."""
    x, errors = normal(200, 2), []
    for n in (100, 400):
        grid = torch.linspace(0.98, 0.02, n + 1, dtype=torch.float64)
        denoise = MIXTURE.denoise(trigonometric)
        there = sample(denoise, x, grid, trigonometric)
        errors.append((sample(denoise, there, grid.flip(0), trigonometric) - x).norm() / x.norm())
    assert errors[1] < 0.05 and errors[1] < errors[0] / 3


def test_impossible_steps_are_refused():
    x = normal(3, 2)
    with pytest.raises(ValueError, match="first time must be above 0"):
        ddim_step(x, x, pair(rectified, 0.0), pair(rectified, 0.1))
    for step in (partial(ddim_step, eta=1.0), ancestral_step):
        with pytest.raises(ValueError, match="eta = 0"):
            step(x, x, pair(rectified, 0.4), pair(rectified, 0.5))
    with pytest.raises(ValueError, match="at least two"):
        sample(lambda x, t: x, x, torch.tensor([1.0]), rectified)


# ---- the loop


def test_a_path_is_lazy_and_its_end_is_the_sample():
    asked, x = [], normal(5, 2)

    def denoise(x, t):
        asked.append(t.item())
        return MIXTURE.posterior_mean(x, *trigonometric(t))

    first = list(islice(sample_path(denoise, x, times(8), trigonometric), 3))
    assert asked == [1.0, 0.875, 0.75]  # an early stop asks for no more
    path = list(sample_path(denoise, x, times(8), trigonometric))
    assert len(path) == 8
    for (a, a0), (b, b0) in zip(first, path, strict=False):
        assert torch.equal(a, b) and torch.equal(a0, b0)
    end, guess = path[-1]
    assert torch.equal(end, guess) and torch.equal(end, sample(denoise, x, times(8), trigonometric))


def test_sampling_keeps_no_graph_but_a_guide_may_ask_for_gradients():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x, t, cond):
            return self.linear(x)

    denoiser = Denoiser(Net(), LINEAR)

    def guided(x, t):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return denoiser(x, t).detach() - torch.autograd.grad(x.square().sum(), x)[0]

    for path in (sample_path, heun_path, dpmpp_path):
        assert not last(path(denoiser, noise((3, 2), 0), times(5, 1000), LINEAR)).requires_grad
        last(path(guided, noise((3, 2), 0), times(5, 1000), LINEAR))
    for _ in sample_path(denoiser, noise((3, 2), 0), times(5, 1000), LINEAR):
        assert torch.is_grad_enabled()  # outside the loop nothing has changed


@pytest.mark.parametrize("path", [sample_path, heun_path, dpmpp_path])
def test_pictures_sounds_and_points_go_through_the_same_loop(path):
    """Any shape must give what the flattened rows give."""
    x = noise((3, 48), 0).double()
    whole = last(path(lambda x, t: torch.tanh(x) * (1 - t), x, times(6), rectified))
    for shape in [(3, 3, 4, 4), (3, 1, 48)]:
        shaped = last(path(lambda x, t: torch.tanh(x) * (1 - t), x.reshape(shape), times(6), rectified))
        torch.testing.assert_close(shaped.reshape(3, 48), whole, rtol=1e-12, atol=1e-12)


# ---- seeds


def test_a_picture_depends_on_its_seed_and_place_and_not_on_the_batch():
    """Sample 5 pictures at once, then each alone, then 2 and 3: the same pictures, start and steps included."""

    def draw(n, first):
        x = noise((n, 2), 7, first=first).double()
        step = partial(ancestral_step, randn_like=noise_like(7, first=first))
        return sample(MIXTURE.denoise(LINEAR), x, times(20, 1000), LINEAR, step=step)

    whole = draw(5, 0)
    torch.testing.assert_close(whole, torch.cat([draw(1, i) for i in range(5)]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole, torch.cat([draw(2, 0), draw(3, 2)]), rtol=1e-9, atol=1e-9)


def test_streams_of_noise_are_normal_and_unrelated():
    """Rows, seeds, steps, and the start against the steps: correlations within 5 standard errors of 0."""
    n, randn_like = 20_000, noise_like(7)
    start = noise((2, n), 7)
    drawn = [*start, *noise((1, n), 8), *randn_like(start), *randn_like(start), *noise_like(8)(start[:1])]
    correlations = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert correlations.abs().max() < 5 / math.sqrt(n)
    for z in drawn:
        assert abs(z.mean()) < 5 / math.sqrt(n) and abs(z.std() - 1) < 5 / math.sqrt(2 * n)
        assert abs(z.pow(4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert torch.equal(noise((2, n), 7), start)
