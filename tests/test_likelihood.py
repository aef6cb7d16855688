"""The bound against its definition by Monte Carlo, the ODE against exact densities, divergences against Jacobians."""
import itertools
import math

import pytest
import torch
from exact import Mixture, gaussian_flow
from scipy import stats
from torch.distributions import Normal
from torch.func import jacrev, vmap

from minidiff import likelihood
from minidiff.data import rng
from minidiff.likelihood import (
    bound,
    by_autograd,
    by_probes,
    carry,
    exact,
    log_last,
    ode_log_prob,
    signs,
    step_kl,
    strata,
)
from minidiff.mixture import GaussianMixture
from minidiff.schedules import DiscreteSchedule, rectified, times, trigonometric

WEIGHTS, MEANS, STD = [.3, .5, .2], [[-1., .5], [.7, 1.], [.2, -1.2]], [.15, .3, .2]
MIXTURE = Mixture(WEIGHTS, MEANS, STD)
OURS = GaussianMixture.of(torch.tensor(WEIGHTS), torch.tensor(MEANS), torch.tensor(STD) ** 2, "spherical")
SCHEDULES = [trigonometric, rectified, DiscreteSchedule.linear(), DiscreteSchedule.cosine()]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=rng("likelihood", seed), dtype=torch.float64)


def step(schedule, t, s, width):
    """The variance of a step by the formulas of the DDPM paper: beta, or beta-tilde, with alpha_bar and beta."""
    bar_t, bar_s = (float(schedule(c)[0]) ** 2 for c in (t, s))
    beta = 1 - bar_t / bar_s
    return beta if width == "beta" else (1 - bar_s) / (1 - bar_t) * beta


def model(denoise, schedule, width, last):
    """A `Reverse` made by hand; the variance of the last step is given."""
    def reverse(x, t, s):
        return denoise(x, t), torch.tensor(step(schedule, t, s, width) if s > 0 else last).double()
    return reverse


# --- the bound --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("width", ["beta", "beta-tilde"])
def test_the_terms_add_up_to_the_bound_by_its_definition(width):
    """E_q[log q(x_1 ... x_T | x0) - log p(x0 ... x_T)], the chain drawn step by step, densities written out."""
    n, T, last = 30_000, 3, .08
    schedule = DiscreteSchedule(torch.tensor([1., .9, .6, .2]).double())
    x0 = torch.tensor([[-.8, .6]]).double().expand(n, 2)
    def guess(x, t):
        return torch.tanh(x + .3 * t)                                               # any function will do
    found = bound(model(guess, schedule, width, last), x0, times(T, T), schedule)
    bar, x, difference, noise = schedule.alpha_bar, x0, 0., normal(T, n, 2)
    for k in range(1, T + 1):
        beta = 1 - bar[k] / bar[k - 1]
        q = Normal((1 - beta).sqrt() * x, beta.sqrt())
        before, x = x, q.mean + q.stddev * noise[k - 1]
        difference = difference + q.log_prob(x).sum(1)
        hat, t = guess(x, torch.tensor(k / T).double()), torch.tensor([k, k - 1]).double() / T
        mean = (bar[k - 1].sqrt() * beta * hat + (1 - beta).sqrt() * (1 - bar[k - 1]) * x) / (1 - bar[k])   # eq. 7
        var = torch.tensor(step(schedule, *t, width) if k > 1 else last).double()
        difference = difference - Normal(mean, var.sqrt()).log_prob(before).sum(1)
    difference = difference - Normal(0., 1.).log_prob(x).sum(1)
    error = math.hypot(*(float(v.std()) / n ** .5 for v in (difference, found.total)))
    assert abs(float(difference.mean() - found.total.mean())) < 4 * error and error < .03


def test_for_normal_data_beta_is_right_and_the_bound_is_the_density():
    """The model is then the true way back, at any number of steps: nothing is lost."""
    schedule, x0 = DiscreteSchedule.linear(20), 1.5 * normal(1, 2)
    def best(x, t):
        return float(schedule(t)[0]) * x
    found = bound(model(best, schedule, "beta", 1e-4), x0.expand(40_000, 2), times(20, 20), schedule)
    wanted = float(Normal(0., 1.).log_prob(x0).sum())
    assert abs(float(found.total.mean()) + wanted) < 4 * float(found.total.std()) / 200 < .05


def test_for_a_single_picture_beta_tilde_is_right_and_no_step_costs_anything():
    schedule, x0 = DiscreteSchedule.cosine(20), normal(5, 3)
    found = bound(model(lambda x, t: x0, schedule, "beta-tilde", .01), x0, times(20, 20), schedule)
    assert float(found.steps.abs().max()) < 1e-12 and found.steps.shape == (5, 19)
    torch.testing.assert_close(found.last, torch.full((5,), 3 * math.log(.1 * math.sqrt(2 * math.pi))).double())
    bar = schedule.alpha_bar[-1]
    wanted = ((bar * x0.square() + (1 - bar) - 1 - (1 - bar).log()) / 2).sum(1)
    torch.testing.assert_close(found.prior, wanted)


def test_the_gap_falls_with_the_number_of_steps():
    """For the optimal denoiser of a mixture: about as 1/T, down to nothing."""
    x0, gaps = MIXTURE.sample(1000, rng("gap")), []
    for T in (8, 32, 128):
        schedule = DiscreteSchedule.cosine(T)
        last = 1 - float(schedule.alpha_bar[1])
        reverse = model(MIXTURE.denoise(schedule), schedule, "beta", last)
        gap = MIXTURE.log_prob(x0) + bound(reverse, x0, times(T, T), schedule).total
        gaps.append(float(gap.mean()))
    assert gaps[0] > 1.5 * gaps[1] > 2 * gaps[2] > 0


def test_drawn_terms_have_the_right_mean():
    schedule, x0 = DiscreteSchedule.linear(40), MIXTURE.sample(2, rng("drawn"))
    def reverse(x, t, s):
        """A cost of every step that depends on the step alone: x0_hat is off by a number."""
        at, to = schedule(t), schedule(s)
        return x0.repeat(2000, 1)[:len(x)] + t.reshape(-1, 1), likelihood.added_variance(at, to)
    every = torch.stack([step_kl(reverse(x0, t, s), schedule(t), schedule(s), x0)
                         for t, s in itertools.pairwise(times(40, 40)[:-1])]).sum(0)
    torch.testing.assert_close(bound(reverse, x0, times(40, 40), schedule).steps.sum(1), every)
    some = bound(reverse, x0.repeat(2000, 1), times(40, 40), schedule, terms=3)
    assert some.steps.shape == (4000, 3)
    means, errors = some.steps.sum(1).reshape(2000, 2).mean(0), some.steps.sum(1).reshape(2000, 2).std(0) / 2000 ** .5
    assert ((means - every).abs() < 4 * errors).all() and (errors < .05 * every).all()


def test_strata_are_one_of_each_stretch_and_all_equally_likely():
    which = strata(10, 4, range(20_000), 0)
    assert all(((j * 2.5 - 1 < row) & (row < (j + 1) * 2.5)).all() for j, row in enumerate(which))
    shares = which.flatten().bincount(minlength=10) / 80_000
    assert (shares - .1).abs().max() < .005
    assert strata(10, 4, range(7, 9), 0).equal(which[:, 7:9])
    with pytest.raises(ValueError, match="1 to 10"):
        strata(10, 11, range(2), 0)


def test_a_term_is_the_divergence_of_two_normals():
    """Against torch.distributions, the means by Ho et al.'s equation 7; one variance a number."""
    at, to = (torch.tensor((b, 1 - b)).double().sqrt() for b in (.3, .5))
    x, x0, hat = normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2)
    var, beta = normal(4, 3, seed=3).exp() / 10, 1 - .3 / .5
    def mean(guess):
        return (.5 ** .5 * beta * guess + (1 - beta) ** .5 * .5 * x) / .7
    q = Normal(mean(x0), torch.tensor(.5 / .7 * beta).double().sqrt())
    wanted = torch.distributions.kl_divergence(q, Normal(mean(hat), var.sqrt())).sum(1)
    torch.testing.assert_close(step_kl((hat, var), tuple(at), tuple(to), x0), wanted)


def test_the_last_term_of_rounded_pictures_is_a_probability():
    """Of five levels, by scipy's normal distribution; all levels together have probability 1."""
    levels, mean, std = torch.linspace(-1, 1, 5).double(), -.7, .6
    edges = [-math.inf, -.75, -.25, .25, .75, math.inf]
    wanted = [stats.norm.cdf(b, mean, std) - stats.norm.cdf(a, mean, std) for a, b in itertools.pairwise(edges)]
    guess = torch.full((5, 1), mean).double(), torch.tensor(std ** 2).double()
    torch.testing.assert_close(log_last(guess, levels[:, None], 5).exp(), torch.tensor(wanted).double())
    pairs = torch.cartesian_prod(levels, levels)
    both = log_last((torch.tensor([[mean, .2]]).double().expand(25, 2), torch.tensor([std ** 2, .1]).double().expand(
        25, 2)), pairs, 5)
    assert float(both.exp().sum()) == pytest.approx(1, abs=1e-12)
    far = log_last((torch.full((1, 1), 1.).double(), torch.tensor(1e-3).double()), torch.tensor([[-1.]]).double(), 256)
    assert float(far) == pytest.approx(stats.norm.logcdf((-1 + 1 / 255 - 1) / 1e-3 ** .5), rel=1e-6)
    with pytest.raises(ValueError, match="even steps"):
        log_last(guess, levels[:, None] + .1, 5)


def test_the_last_term_without_levels_is_a_density():
    guess, x0 = (normal(6, 2), normal(6, seed=1).exp()), normal(6, 2, seed=2)
    wanted = Normal(guess[0], guess[1][:, None].sqrt()).log_prob(x0).sum(1)
    torch.testing.assert_close(log_last(guess, x0), wanted)


def test_a_row_has_its_own_noise_and_terms():
    schedule, x0 = DiscreteSchedule.linear(50), MIXTURE.sample(6, rng("rows"))
    def reverse(x, t, s):
        return x / 2, likelihood.added_variance(schedule(t), schedule(s))
    for terms in (None, 4):
        whole = bound(reverse, x0, times(50, 50), schedule, terms=terms, seed=3)
        part = bound(reverse, x0[2:5], times(50, 50), schedule, terms=terms, seed=3, first=2)
        for a, b in zip(whole, part, strict=True):
            torch.testing.assert_close(a[2:5], b)
        assert not bound(reverse, x0, times(50, 50), schedule, terms=terms, seed=4).last.equal(whole.last)


def test_a_list_that_does_not_end_at_the_picture_is_refused():
    for few in (times(10)[:-1], times(10)[-1:]):
        with pytest.raises(ValueError, match="down to 0"):
            bound(lambda x, t, s: (x, torch.ones(())), normal(2, 2), few, trigonometric)


# --- the ODE ----------------------------------------------------------------------------------------------------------

MEAN, WIDTH = torch.tensor([.5, -1., .2]).double(), torch.tensor([.4, 1., 1.7]).double()


def regression(schedule):
    """E[x0 | x_t] for one Gaussian, N(MEAN, diag(WIDTH^2)), and its divergence."""
    def traced(x, t):
        alpha, sigma = schedule(t)
        gain = alpha * WIDTH ** 2 / (alpha ** 2 * WIDTH ** 2 + sigma ** 2)
        return MEAN + gain * (x - alpha * MEAN), gain.sum().expand(len(x))
    return traced


@pytest.mark.parametrize("schedule", [trigonometric, rectified])
def test_the_density_of_one_gaussian_at_second_order(schedule):
    """Its logarithm and the place in noise: half the step, a quarter of the error."""
    x0 = MEAN + WIDTH * normal(50, 3)
    wanted = Normal(MEAN, WIDTH).log_prob(x0).sum(1)
    ends = (torch.tensor(1.).double(), torch.tensor(0.).double())
    arrival = gaussian_flow(x0, MEAN, WIDTH, ends, ends[::-1])
    errors = []
    for n in (20, 40, 80):
        z, _ = carry(regression(schedule), x0, times(n), schedule)
        density = ode_log_prob(regression(schedule), x0, times(n), schedule)
        errors.append([float((z - arrival).abs().max()), float((density - wanted).abs().max())])
    for (a, b), (c, d) in itertools.pairwise(errors):
        assert 3.2 < a / c < 5 and 3.2 < b / d < 5
    assert max(errors[-1]) < .02


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_density_of_a_mixture(schedule):
    x0 = MIXTURE.sample(100, rng("density"))
    T = getattr(schedule, "T", None)
    gaps = MIXTURE.log_prob(x0) - ode_log_prob(exact(OURS, schedule), x0, times(200, T), schedule)
    assert abs(float(gaps.mean())) < .001 and float(gaps.square().mean()) ** .5 < .006


def test_the_density_of_any_denoiser_adds_up_to_one():
    """A denoiser of nothing in particular: the integral over a grid, by its own divergence, in one dimension."""
    x0 = torch.linspace(-9, 9, 2001).double()[:, None]
    def guess(x, t):
        alpha, sigma = trigonometric(t)
        return (alpha * x + sigma * torch.tanh(x)) / (alpha ** 2 + sigma ** 2 / 2)
    mass = ode_log_prob(by_autograd(guess), x0, times(100), trigonometric).exp().sum() * 18 / 2000
    assert float(mass) == pytest.approx(1, abs=1e-3)


def test_the_log_determinant_is_that_of_the_map():
    schedule, x0 = trigonometric, MIXTURE.sample(4, rng("map"))
    def mapped(row):
        return carry(lambda x, t: (MIXTURE.posterior_mean(x, *schedule(t)), torch.zeros(len(x)).double()), row[None],
                     times(60), schedule)[0][0]
    wanted = torch.linalg.slogdet(torch.stack([jacrev(mapped)(row) for row in x0])).logabsdet
    torch.testing.assert_close(carry(exact(OURS, schedule), x0, times(60), schedule)[1], wanted, rtol=0, atol=.01)


def test_a_schedule_of_another_scale_is_the_same_model():
    """Twice the table, (2 alpha, 2 sigma), is the same model of pictures half as large."""
    def doubled(t):
        alpha, sigma = trigonometric(t)
        return 2 * alpha, 2 * sigma
    x0 = MIXTURE.sample(5, rng("doubled"))
    inner = exact(OURS, trigonometric)
    def traced(x, t):
        return inner(x / 2, t)[0], inner(x / 2, t)[1] / 2
    one, two = (ode_log_prob(traced if s is doubled else inner, x, times(20), s)
                for s, x in ((trigonometric, x0), (doubled, 2 * x0)))
    torch.testing.assert_close(two, one - 2 * math.log(2))


# --- divergences ------------------------------------------------------------------------------------------------------

def curl(x, t):
    """Something with a full Jacobian, row by row, of any shape."""
    y = x.flatten(1)
    return (torch.sin(y @ torch.arange(y.shape[1] ** 2).double().reshape(y.shape[1], -1).cos()) * t + y ** 2).reshape(
        x.shape)


def traces(f, x, t):
    return vmap(jacrev(lambda row: f(row[None], t)[0]))(x).flatten(1).reshape(len(x), x[0].numel(), -1).diagonal(
        dim1=1, dim2=2).sum(1)


def test_by_autograd_is_the_trace_of_the_jacobian():
    x, t = normal(3, 1, 2, 2), torch.tensor(.4).double()
    with torch.no_grad():
        value, div = by_autograd(curl)(x, t)
    torch.testing.assert_close(div, traces(curl, x, t))
    torch.testing.assert_close(value, curl(x, t))
    assert not value.requires_grad and not div.requires_grad


def test_the_mean_over_all_probes_is_the_trace():
    """All 2^4 patterns of signs: the expectation itself. One probe alone is off."""
    x, t = normal(3, 1, 2, 2), torch.tensor(.4).double()
    every = torch.tensor(list(itertools.product([-1., 1.], repeat=4))).reshape(16, 1, 1, 2, 2).expand(-1, 3, -1, -1, -1)
    value, div = by_probes(curl, every)(x, t)
    torch.testing.assert_close(div, traces(curl, x, t))
    torch.testing.assert_close(value, curl(x, t))
    assert (by_probes(curl, every[:1])(x, t)[1] - div).abs().min() > 1e-3


def test_probes_are_signs_that_stay_with_their_row():
    probes = signs(50, (40, 3, 4), 7)
    assert probes.shape == (50, 40, 3, 4) and set(probes.unique().tolist()) == {-1., 1.}
    assert abs(float(probes.mean())) < .03
    rows = probes.reshape(50, -1)
    assert (rows.T @ rows / 50 - torch.eye(480)).abs().mean() < .15
    assert signs(50, (2, 3, 4), 7, first=5).equal(probes[:, 5:7]) and not signs(50, (40, 3, 4), 8).equal(probes)


@pytest.mark.parametrize("kind", ["spherical", "diag"])
def test_the_divergence_of_the_optimal_denoiser(kind):
    """Against autograd through `posterior_mean`, and alpha/sigma^2 times the posterior's variance on a grid."""
    wide = torch.tensor(STD) ** 2 if kind == "spherical" else torch.tensor([[.02, .3], [.1, .05], [.2, .2]])
    mixture = GaussianMixture.of(torch.tensor(WEIGHTS), torch.tensor(MEANS), wide, kind)
    x = normal(6, 2)
    for schedule in SCHEDULES:
        for t in (.02, .5, .98):
            t = torch.tensor(t).double()
            mean, div = exact(mixture, schedule)(x, t)
            wanted = by_autograd(lambda x, t, s=schedule: mixture.posterior_mean(x, *s(t)))(x, t)
            torch.testing.assert_close(mean, wanted[0])
            torch.testing.assert_close(div, wanted[1], rtol=1e-6, atol=1e-8)


def test_the_divergence_is_the_posterior_variance():
    """On a grid of x0 in one dimension, by Bayes."""
    mixture = GaussianMixture.of(torch.tensor([.4, .6]), torch.tensor([[-1.], [.5]]), torch.tensor([.04, .1]),
                                 "spherical")
    grid, t, x = torch.linspace(-4, 4, 4001).double(), torch.tensor(.4).double(), normal(4, 1)
    alpha, sigma = trigonometric(t)
    p = (mixture.log_prob(grid[:, None]) - ((x - alpha * grid) / sigma) ** 2 / 2).softmax(1)
    variance = (p * grid ** 2).sum(1) - (p * grid).sum(1) ** 2
    torch.testing.assert_close(exact(mixture, trigonometric)(x, t)[1], alpha / sigma ** 2 * variance)


def test_full_covariances_are_sent_to_autograd():
    full = GaussianMixture.of(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], "full")
    with pytest.raises(ValueError, match="by_autograd"):
        exact(full, trigonometric)(normal(2, 2), torch.tensor(.5).double())
