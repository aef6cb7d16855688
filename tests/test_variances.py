"""The widths of the model's steps: by the tables of the papers, by what they are best for, and by sampling."""
import math
from functools import partial

import pytest
import torch
from torch import nn

from minidiff.data import rng
from minidiff.likelihood import bound
from minidiff.samplers import ancestral_step, noise_like, sample_path
from minidiff.schedules import DiscreteSchedule, rectified, times, trigonometric
from minidiff.variances import LearnedVariance, fixed, large, reverse_path, small

TABLE = DiscreteSchedule.linear(50)
BETA = torch.linspace(1e-4, .02, 50).double()
BAR = torch.cumprod(1 - BETA, 0)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=rng("variances", seed), dtype=torch.float64)


class Answer(nn.Module):
    """A net that is a given function of (x, t), with one number to learn."""

    def __init__(self, function):
        super().__init__()
        self.function, self.u = function, nn.Parameter(torch.zeros(()).double())

    def forward(self, x, t, cond):
        return torch.cat([self.function(x, t), self.u.expand_as(x)], 1)


def test_widths_of_all_steps_are_those_of_the_paper():
    """beta_k, and (1 - bar_{k-1}) / (1 - bar_k) beta_k, the first of which is replaced by the second."""
    t = torch.arange(1, 51).double() / 50
    wide, narrow = (width(TABLE, t, t - 1 / 50) for width in (large, small))
    torch.testing.assert_close(wide, BETA)
    before = torch.cat([torch.ones(1).double(), BAR])[:-1]
    wanted = (1 - before) / (1 - BAR) * BETA
    assert wanted[0] == 0
    wanted[0] = wanted[1]
    torch.testing.assert_close(narrow, wanted)
    for k in (0, 1, 30):                                               # one time for all rows
        torch.testing.assert_close(small(TABLE, t[k], t[k] - 1 / 50), wanted[k])


def test_a_skip_is_one_step_of_a_shorter_table():
    """From step 30 to 20 of 50, a table with these two entries alone has the same widths."""
    short = DiscreteSchedule(torch.stack([torch.ones(()).double(), BAR[19], BAR[29]]))
    t, s, two = torch.tensor(30 / 50), torch.tensor(20 / 50), times(2, 2)
    for width in (large, small):
        torch.testing.assert_close(width(TABLE, t, s), width(short, two[0], two[1]))


def test_a_single_step_has_nothing_to_borrow():
    one, none = torch.tensor(1.), torch.tensor(0.)
    assert float(large(trigonometric, one, none)) == 1
    with pytest.raises(ValueError, match="use `large`"):
        small(trigonometric, one, none)


@pytest.mark.parametrize("schedule", [TABLE, trigonometric, rectified])
@pytest.mark.parametrize("width", [small, large])
def test_the_path_is_the_ancestral_sampler_s(schedule, width):
    """The same noise, the same pictures: only the variance comes another way."""
    def denoise(x, t):
        return torch.tanh(x + t)
    x, few = normal(4, 1, 3), times(5, getattr(schedule, "T", None))
    step = partial(ancestral_step, large=width is large, randn_like=noise_like(1))
    wanted = list(sample_path(denoise, x, few, schedule, step=step))
    found = list(reverse_path(fixed(denoise, schedule, width), x, few, schedule, randn_like=noise_like(1)))
    for (a, b), (c, d) in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, c)
        torch.testing.assert_close(b, d)


def test_learned_widths_lie_between_the_two():
    """u = -1: beta-tilde, u = 1: beta, u = 0: their geometric mean; number by number, row by row."""
    model, t = LearnedVariance(Answer(lambda x, t: x), TABLE), torch.tensor([1 / 50, .3, 1.])
    s = t - 1 / 50
    low, high = small(TABLE, t, s), large(TABLE, t, s)
    u = torch.tensor([-1., 0., 1.]).double().expand(3, 1, 3)
    found = model.width(u, t, s)
    for i, wanted in enumerate((low, (low * high).sqrt(), high)):
        torch.testing.assert_close(found[:, 0, i], wanted)
    x0, var = model.reverse(normal(3, 1, 3), t, s)
    assert var.shape == x0.shape == (3, 1, 3)
    torch.testing.assert_close(x0, model(normal(3, 1, 3), t))


def hybrid(model, x0, t, weight=1.):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model.hybrid(x0, t, weight)


def test_the_hybrid_s_bound_is_the_bound_a_number():
    """Its mean over all steps, T L_t, is the sum of all terms but the first one, which has no parameters."""
    model, x0 = LearnedVariance(Answer(lambda x, t: x / 2), TABLE), normal(1, 2, 3)
    with torch.no_grad():
        terms = bound(model.reverse, x0.expand(8000, -1, -1), times(50, 50), TABLE)
        k = torch.arange(1, 51).repeat_interleave(3000)
        found = hybrid(model, x0.expand(len(k), -1, -1), k.double() / 50)
    wanted = (terms.total - terms.prior) / 6
    assert float(found["bound"]) == pytest.approx(float(wanted.mean()), rel=.02)
    assert float(wanted.std()) / 8000 ** .5 < .006 * float(wanted.mean())
    assert float(found["loss"]) == pytest.approx(float(found["simple"] + found["bound"]))


def test_the_simple_part_is_the_plain_loss():
    model, x0, t = LearnedVariance(Answer(lambda x, t: torch.sin(3 * x)), TABLE, "v"), normal(5, 2, 3), torch.rand(
        5, generator=rng("t"))
    t = (t * 49).round().add(1) / 50
    torch.manual_seed(0)
    wanted = model.loss(x0, t, eps=torch.randn_like(x0))
    torch.testing.assert_close(hybrid(model, x0, t)["simple"], wanted)


def test_the_bound_teaches_the_width_alone():
    class Both(Answer):
        def __init__(self):
            super().__init__(lambda x, t: self.a * x)
            self.a = nn.Parameter(torch.ones(()).double())
    model, t = LearnedVariance(Both(), TABLE), torch.tensor([1 / 50, .5, 1.])
    out = hybrid(model, normal(3, 1, 2), t)
    bound_slopes = torch.autograd.grad(out["bound"], list(model.net.parameters()), retain_graph=True, allow_unused=True)
    simple_slopes = torch.autograd.grad(out["simple"], list(model.net.parameters()), allow_unused=True)
    named = dict(zip((name for name, _ in model.net.named_parameters()), zip(bound_slopes, simple_slopes, strict=True),
                     strict=True))
    assert named["a"][0] is None or float(named["a"][0]) == 0
    assert named["a"][1] != 0 and named["u"][0] != 0 and (named["u"][1] is None or named["u"][1] == 0)


@pytest.mark.parametrize("data, best", [("N(0, 1)", 1.), ("one picture", -1.)])
def test_the_bound_is_least_at_the_right_width(data, best):
    """The papers' two cases, each with its optimal denoiser: beta for N(0, 1), beta-tilde for a single picture."""
    n, t = 20_000, torch.tensor(.5)
    x0 = normal(n, 1, 1, seed=2) if data == "N(0, 1)" else torch.full((n, 1, 1), .3).double()
    def eps(x, t):
        alpha, sigma = (c.reshape(-1, 1, 1) for c in TABLE(t))
        return sigma * x if data == "N(0, 1)" else (x - alpha * .3) / sigma
    losses = {}
    for u in (-1.5, -1.1, -1., -.9, 0., .9, 1., 1.1, 1.5):
        net = Answer(eps)
        net.u.data.fill_(u)
        with torch.no_grad():
            losses[u] = float(hybrid(LearnedVariance(net, TABLE), x0, t.expand(n))["bound"])
    assert min(losses, key=losses.get) == best and math.isfinite(sum(losses.values()))
