"""Losses against the divergences they stand for, penalties against closed forms, the duel against a loop by hand."""
import copy
import math
import os
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from minidiff import gan, train, weights
from minidiff.data import rng
from minidiff.gan import Discriminator, DiscriminatorConfig, Duel, Generator, GeneratorConfig, play, rules

COUNTS = torch.tensor([[1, 2, 3, 4, 0, 10], [4, 3, 2, 1, 6, 4]])              # two distributions over six points, of 20


@pytest.fixture(autouse=True)
def no_bar(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


def normal(shape, *key) -> torch.Tensor:
    return torch.randn(shape, generator=rng("gan", *key))


def drawn(build, *key) -> nn.Module:
    """A network with weights from a key; in tests it is small."""
    with train.seeded(*key):
        return build()


def points(n: int = 2, d: int = 3, spectral: bool = False, minibatch: bool = False) -> tuple[Generator, Discriminator]:
    """Two small players for points [b n]."""
    return drawn(lambda: (Generator(GeneratorConfig((n,), d=d, widths=(16, 16))),
                          Discriminator(DiscriminatorConfig((n,), (16, 16), spectral, minibatch))), "points")


def kl(p, q) -> float:
    return float(torch.special.xlogy(p, p / q).sum())


def jsd(p, q) -> float:
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


# ---- the losses


def test_cross_entropy_at_the_best_d_is_log_4_less_two_jsd():
    """Exact: samples that hold each point as often as its probability says; then two Gaussians, JSD by a grid."""
    p, q = COUNTS.double() / 20
    x, y = (torch.repeat_interleave(torch.arange(6), c) for c in COUNTS)
    best = gan.optimal_discriminator(lambda x: p.log()[x], lambda x: q.log()[x])
    assert float(gan.cross_entropy(best(x), best(y))) == pytest.approx(math.log(4) - 2 * jsd(p, q), abs=1e-9)
    one, two = torch.distributions.Normal(0., 1.), torch.distributions.Normal(1.5, 1.4)
    middle = (torch.arange(20_000) + .5) / 20_000
    best = gan.optimal_discriminator(one.log_prob, two.log_prob)
    found = float(gan.cross_entropy(best(one.icdf(middle)), best(two.icdf(middle))))
    grid = torch.linspace(-12, 14, 20_001, dtype=torch.float64)
    p, q = (n.log_prob(grid).exp() * (grid[1] - grid[0]) for n in (one, two))
    assert found == pytest.approx(math.log(4) - 2 * jsd(p, q), abs=1e-4) and found < math.log(4)
    flat = torch.zeros(5)
    assert float(gan.cross_entropy(flat, flat)) == pytest.approx(math.log(4))


def test_no_discriminator_does_better_than_the_optimal_one():
    p, q = COUNTS[:, :4].double() / COUNTS[:, :4].sum(1, keepdim=True)
    x, y = (torch.repeat_interleave(torch.arange(4), c[:4]) for c in COUNTS)
    best = gan.optimal_discriminator(lambda x: p.log()[x], lambda x: q.log()[x])(torch.arange(4)).requires_grad_()
    loss = gan.cross_entropy(best[x], best[y])
    (slope,) = torch.autograd.grad(loss, best)
    assert slope.abs().max() < 1e-12
    for i in range(50):
        other = best.detach() + .5 * normal(4, i)
        assert gan.cross_entropy(other[x], other[y]) > loss


def test_what_the_generator_minimises_is_steep_where_its_pictures_are_found_out():
    """By the definitions with log and sigmoid; the slopes at logit -10 are -5e-5 and -1, and at 0 the same."""
    fake = torch.tensor([-10., -1., 0., 3.], dtype=torch.float64, requires_grad=True)
    p = torch.sigmoid(fake)
    assert torch.allclose(gan.caught(fake), torch.log(1 - p).mean())
    assert torch.allclose(gan.believed(fake), -torch.log(p).mean())
    flat, steep = (4 * torch.autograd.grad(f(fake), fake)[0] for f in (gan.caught, gan.believed))
    assert torch.allclose(flat, -p) and torch.allclose(steep, p - 1)
    assert -1e-4 < flat[0] < 0 and steep[0] < -.9999 and flat[2] == steep[2] == -.5
    assert gan.cross_entropy(torch.tensor([3.]), torch.tensor([-2.])) == pytest.approx(
        -math.log(1 / (1 + math.exp(-3))) - math.log(1 - 1 / (1 + math.exp(2))))


def test_the_least_hinge_loss_is_two_less_twice_the_total_variation():
    """The best d of each point by trying a grid of values: sum 2 min(p, q)."""
    p, q = COUNTS.double() / 20
    tried = torch.linspace(-3, 3, 61, dtype=torch.float64)
    each = p[:, None] * (1 - tried).clamp(min=0) + q[:, None] * (1 + tried).clamp(min=0)
    best = tried[each.argmin(1)]
    x, y = (torch.repeat_interleave(torch.arange(6), c) for c in COUNTS)
    assert float(gan.margins(best[x], best[y])) == pytest.approx(2 - float((p - q).abs().sum()))
    for i in range(50):
        other = 2 * normal(6, i).double()
        assert gan.margins(other[x], other[y]) >= gan.margins(best[x], best[y])


def test_the_wasserstein_loss_of_the_steepest_critic_is_scipys_distance():
    """In one dimension the best critic climbs with slope sign(F_made - F_real); a linear one sees means alone."""
    x, y = normal((300,), "x"), 1.5 * normal((200,), "y") + .7
    edges = torch.cat([x, y]).sort().values
    cdf = [(s[:, None] <= edges).float().mean(0) for s in (x, y)]
    climb = torch.cat([torch.zeros(1), (edges.diff() * (cdf[1] - cdf[0])[:-1].sign()).cumsum(0)])
    value = [climb[torch.searchsorted(edges, s)] for s in (x, y)]
    assert -float(gan.distance(*value)) == pytest.approx(stats.wasserstein_distance(x, y), rel=1e-4)
    assert float(gan.distance(-x, -y)) == pytest.approx(float(x.mean() - y.mean()), rel=1e-4)
    assert float(gan.disliked(x)) == pytest.approx(-x.numpy().mean(), rel=1e-4)


def test_games_pair_the_right_losses():
    """One step of gradient on the made logits: every G pulls them up where its D pushed them down."""
    for game in gan.SATURATING, gan.NON_SATURATING, gan.HINGE, gan.WASSERSTEIN:
        real, fake = (torch.zeros(4, requires_grad=True) for _ in range(2))
        up, down = torch.autograd.grad(game.d_loss(real, fake), (real, fake))
        (pull,) = torch.autograd.grad(game.g_loss(fake), fake)
        assert (up < 0).all() and (down > 0).all() and (pull < 0).all()
    assert gan.SATURATING.g_loss(torch.tensor([-20.])) > -1e-6 and gan.NON_SATURATING.g_loss(torch.tensor([-20.])) > 19
    assert gan.HINGE.d_loss(torch.tensor([2.]), torch.tensor([-2.])) == 0
    assert gan.WASSERSTEIN.d_loss(torch.tensor([2.]), torch.tensor([-2.])) == -4


# ---- penalties


def quadratic(x):
    """d(x) = x^T A x + b^T x, whose gradient is (A + A^T) x + b."""
    return (x @ QUADRATIC * x).sum(1) + x @ SLOPE


QUADRATIC, SLOPE = normal((3, 3), "A").double(), normal((3,), "b").double()


def test_slopes_are_those_of_a_quadratic_and_of_finite_differences():
    x = normal((5, 3), 0).double()
    by_hand = (x @ (QUADRATIC + QUADRATIC.T) + SLOPE).norm(dim=1)
    assert torch.allclose(gan.slopes(quadratic, x), by_hand)
    _, d = points(3)
    d = d.double().inner
    f = lambda x: d(x).sum(1)  # noqa: E731
    steps = [(f(x + 1e-6 * e) - f(x - 1e-6 * e)) / 2e-6 for e in torch.eye(3, dtype=torch.float64)]
    assert torch.allclose(gan.slopes(f, x).double(), torch.stack(steps, 1).norm(dim=1), rtol=1e-4)
    assert torch.allclose(gan.slopes(lambda x: x.square().sum((1, 2, 3)), normal((2, 3, 4, 4), 1)),
                          2 * normal((2, 3, 4, 4), 1).flatten(1).norm(dim=1))


def test_penalties_are_those_of_a_quadratic_at_the_right_points():
    real, fake = normal((6, 3), 1).double(), 3 + normal((6, 3), 2).double()
    at = torch.rand(6, generator=rng(3)).double()

    def steep(x):
        return (x @ (QUADRATIC + QUADRATIC.T) + SLOPE).norm(dim=1)
    between = torch.stack([fake[i] + at[i] * (real[i] - fake[i]) for i in range(6)])
    assert torch.allclose(gan.gradient_penalty(quadratic, real, fake, at), (steep(between) - 1).square().mean())
    for u, there in (torch.zeros(6), fake), (torch.ones(6), real):
        found = gan.gradient_penalty(quadratic, real, fake, u.double())
        assert torch.allclose(found, (steep(there) - 1).square().mean())
    assert torch.allclose(gan.r1(quadratic, real), steep(real).square().mean())


def test_penalties_can_be_followed_down():
    """For d(x) = w x: R1 = |w|^2 pulls w to 0, the gradient penalty (|w| - 1)^2 to length 1; a flat d is no trouble."""
    w, x, y = normal(3, 4).requires_grad_(), normal((5, 3), 5), normal((5, 3), 6)
    (pull,) = torch.autograd.grad(gan.r1(lambda x: x @ w, x), w)
    assert torch.allclose(pull, 2 * w)
    (pull,) = torch.autograd.grad(gan.gradient_penalty(lambda x: x @ w, x, y, torch.rand(5, generator=rng(1))), w)
    assert torch.allclose(pull, 2 * (1 - 1 / w.norm()) * w, atol=1e-6)
    flat = torch.zeros(3, requires_grad=True)
    (pull,) = torch.autograd.grad(gan.gradient_penalty(lambda x: x @ flat, x, y, torch.zeros(5)), flat)
    assert pull.isfinite().all()


def test_the_losses_of_a_linear_discriminator_with_penalties_by_hand():
    """Of d(x) = w x: the game's loss + gamma/2 |w|^2 + lambda (|w| - 1)^2, by the same noise."""
    g, d = points(2)
    d.inner, d.head = nn.Identity(), nn.Linear(2, 1)
    w, real = d.head.weight[0], normal((8, 2), 7)
    with train.seeded("z"):
        z = torch.randn(8, 3)
    fake = g(z)
    for game, r1, gp in (gan.HINGE, 0., 0.), (gan.WASSERSTEIN, 0., 10.), (gan.NON_SATURATING, 3., 0.):
        loss = rules(g, d, game, r1_weight=r1, gp_weight=gp)
        with train.seeded("z"):
            said = loss["d"](real)
        assert torch.allclose(said["game"], game.d_loss(d(real), d(fake)))
        assert torch.allclose(said["penalty"], r1 / 2 * w.square().sum() + gp * (w.norm() - 1) ** 2, atol=1e-6)
        assert torch.allclose(said["loss"], said["game"] + said["penalty"])
        assert torch.allclose(said["real"], d(real).mean()) and torch.allclose(said["fake"], d(fake).mean())
        with train.seeded("z"):
            assert torch.allclose(loss["g"](real)["loss"], game.g_loss(d(fake)))


# ---- the players


def test_spectral_norm_bounds_how_far_a_logit_can_run():
    """A discriminator with weights made ten times as large: singular values by SVD, logits of pairs of points."""
    plain, bound = (points(2, spectral=s)[1] for s in (False, True))
    for d in plain, bound:
        for layer in (m for m in d.modules() if isinstance(m, nn.Linear)):
            weight = layer.parametrizations.weight.original if d is bound else layer.weight
            weight.data.mul_(10)
        x = 3 * normal((400, 2), 8)
        for _ in range(100):                                # each pass in training takes a step of power iteration
            d.train()(x)
        d.eval()
    for layer in (m for m in bound.modules() if isinstance(m, nn.Linear)):
        assert float(torch.linalg.svdvals(layer.weight.detach())[0]) == pytest.approx(1, abs=1e-3)
    far = (x[:200] - x[200:]).norm(dim=1)
    run = [((d(x[:200]) - d(x[200:])).abs() / far).max() for d in (plain, bound)]
    assert run[0] > 10 and run[1] < 1.001 and gan.slopes(bound, x).max() < 1.001 and gan.slopes(plain, x).max() > 10


def test_spectral_norm_of_a_convolution_is_that_of_its_matrix_so_each_at_most_doubles():
    """As a linear map of the picture (all its columns): <= kernel / stride times 1. Miyato's norm is of the kernel."""
    d = drawn(lambda: Discriminator(DiscriminatorConfig((3, 8, 8), (6, 8), spectral=True)), 9)
    for _ in range(100):
        d.train()(normal((4, 3, 8, 8), 10))
    d.eval()
    for layer, side in (d.inner[0], 8), (d.inner[2], 4), (d.head[0], 2):
        c = layer.in_channels
        columns = F.conv2d(torch.eye(c * side ** 2).view(-1, c, side, side), layer.weight, None, layer.stride,
                           layer.padding)
        size = torch.linalg.svdvals(columns.flatten(1))[0]
        assert float(torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]) == pytest.approx(1, abs=1e-3)
        assert .5 < size <= layer.kernel_size[0] / layer.stride[0] + 1e-3


def test_variety_is_the_mean_standard_deviation_and_tells_a_collapsed_batch():
    h = normal((7, 4, 2, 2), 11)
    by_hand = np.mean([np.std(column) for column in h.flatten(1).numpy().T])
    assert float(gan.variety(h)) == pytest.approx(by_hand, rel=1e-5)
    assert gan.variety(h[:1].expand(7, 4, 2, 2)) < 1e-3
    for minibatch in False, True:
        d = drawn(lambda m=minibatch: Discriminator(DiscriminatorConfig((3, 8, 8), (4, 6), minibatch=m)), 12)
        x = normal((6, 3, 8, 8), 13)
        alone = torch.cat([d(x[i:i + 1]) for i in range(6)])
        assert torch.allclose(d(x), alone, atol=1e-5) != minibatch
        shift = 3 * normal((1, 3, 8, 8), 14)
        assert not torch.allclose(d(x), d(x + shift))
    _, d = points(2, minibatch=True)
    x = normal((6, 2), 15)
    same = torch.stack([d(torch.stack([row] * 6))[0] for row in x])
    assert not torch.allclose(d(x), same) and torch.allclose(d.inner(x), d.features(x))


def test_pictures_lie_in_the_range_and_each_depends_on_its_seed_and_place_alone():
    g = drawn(lambda: Generator(GeneratorConfig((3, 16, 8), d=5, widths=(8, 8), grid=4)), 16).eval()
    x = g.sample(6, seed=3)
    assert x.shape == (6, 3, 16, 8) and x.abs().max() < 1
    assert torch.allclose(g.sample(2, seed=3, first=4), x[4:], atol=1e-6)
    assert torch.allclose(torch.cat([g.sample(1, seed=3, first=i) for i in range(6)]), x, atol=1e-6)
    assert (g.sample(6, seed=4) - x).abs().amax((1, 2, 3)).min() > .01
    z = torch.stack([torch.randn(5, generator=rng("start", 3, i)) for i in range(6)])
    assert torch.allclose(g(z), x, atol=1e-6) and not x.requires_grad
    far = 100 * normal((2, 2), 17)
    assert points(2, d=2)[0](far).abs().max() > 1                              # points in the plane have no range


def test_a_generator_survives_its_file(tmp_path):
    g = drawn(lambda: Generator(GeneratorConfig()), 18).eval()
    path = tmp_path / "g.safetensors"
    weights.save(path, g, dtype=torch.float16)
    assert path.stat().st_size <= 1_000_000
    assert torch.allclose(weights.load(path).sample(3, seed=0), g.sample(3, seed=0), atol=.02)


@pytest.mark.parametrize("make, sentence", [
    (lambda: Generator(GeneratorConfig((3, 20, 20), widths=(8, 8, 8))), "3 widths are for .* divisible by 8, not .*20"),
    (lambda: Discriminator(DiscriminatorConfig((3, 32))), "pictures .* not for the shape"),
    (lambda: Discriminator(DiscriminatorConfig((3, 32, 32), ())), "0 widths"),
    (lambda: points()[0](torch.zeros(2, 5)), "for 3 numbers of noise a picture, not 5"),
    (lambda: points()[1](torch.zeros(2, 5)), r"judges pictures \(2,\), not \(5,\)"),
    (lambda: duel(d_steps=0), "d_steps >= 1 and lr_d > 0"), (lambda: duel(lr_d=0.), "d_steps >= 1 and lr_d > 0"),
    (lambda: Duel(nn.ModuleDict({"d": points()[1]}), {"d": len, "g": len}, target, steps=1), "the players and losses"),
    (lambda: Duel(nn.ModuleDict(dict(zip("dg", points()[::-1], strict=True))), {"d": len}, target, steps=1),
     "the players and losses"),
    (lambda: duel(steps=0), "steps >= 1")])
def test_bad_input_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


# ---- the duel


def target(k: int) -> torch.Tensor:
    return .3 * torch.randn(32, 2, generator=rng("target", k)) + torch.tensor([1., -1.])


def duel(path=None, loss=None, **changes) -> Duel:
    """A small duel with all that can go wrong on resuming: running statistics in both players, an average."""
    g, d = points(spectral=True)
    g.net.insert(2, nn.BatchNorm1d(16))
    settings = {"steps": 5, "lr": .01, "lr_d": .02, "d_steps": 2, "ema": .8, "seed": 4, "warmup": 2} | changes
    made = rules(g, d, r1_weight=1.) if loss is None else loss(rules(g, d, r1_weight=1.))
    return Duel(nn.ModuleDict({"d": d, "g": g}), made, target, checkpoint=path, **settings)


def everything(run: Duel) -> dict:
    tensors = {f"m.{k}": v for k, v in run.model.state_dict().items()}
    tensors |= {f"e.{k}": v for k, v in run.averaged.state_dict().items()}
    for name, p in run.parameters.items():
        tensors |= {f"o.{name}.{k}": v for k, v in run.optimizer.state[p].items()}
    return {k: v.clone() for k, v in tensors.items()}


def assert_equal(a: dict, b: dict):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def scalars(run: Duel) -> list:
    return [(log.step, log.losses, log.lr, log.grad_norm) for log in run.logs]


@pytest.fixture(scope="module")
def unbroken() -> Duel:
    run = duel()
    list(run)
    return run


def test_a_duel_is_two_optimizers_that_take_turns():
    """The loop that everybody writes: two Adams with rates of their own, backward, step; an average of G by hand."""
    g, d = points()
    mine_g, mine_d = copy.deepcopy(g), copy.deepcopy(d)
    run = Duel(nn.ModuleDict({"d": d, "g": g}), rules(g, d, r1_weight=2.), target, steps=6, lr=.01, lr_d=.03, d_steps=2,
               betas=(.5, .9), ema=.7, seed=9, lr_schedule=train.constant, warmup=0, grad_clip=math.inf)
    list(run)
    adam_g = torch.optim.Adam(mine_g.parameters(), lr=.01, betas=(.5, .9))
    adam_d = torch.optim.Adam(mine_d.parameters(), lr=.03, betas=(.5, .9))
    mean = [p.detach().clone() for p in mine_g.parameters()]
    turn = 0
    for k in range(6):
        for player in "ddg":
            with train.seeded(9, "noise", turn, 0):
                fake, real = mine_g(torch.randn(32, 3)), target(turn).requires_grad_()
            adam_d.zero_grad()
            adam_g.zero_grad()
            if player == "d":
                logits = mine_d(real)
                (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
                loss = -F.logsigmoid(logits).mean() - F.logsigmoid(-mine_d(fake.detach())).mean()
                (loss + slope.square().sum(1).mean()).backward()
                adam_d.step()
            else:
                (-F.logsigmoid(mine_d(fake)).mean()).backward()
                adam_g.step()
            turn += 1
        keep = min(.7, (1 + k) / (10 + k))
        mean = [keep * m + (1 - keep) * p.detach() for m, p in zip(mean, mine_g.parameters(), strict=True)]
    for ours, theirs in (g, mine_g), (d, mine_d):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a, b, atol=2e-5)
    for a, b in zip(run.averaged.parameters(), mean, strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def test_neither_player_moves_the_other():
    """Even with losses through which the other's gradient would flow."""
    def leaky(loss):
        g, d = points()
        return {"d": lambda x: {"loss": run.model["d"](run.model["g"](torch.randn(8, 3))).mean()}, "g": loss["g"]}
    run = duel(loss=leaky)
    for player, other in ("d", "g"), ("g", "d"):
        before = {name: {k: v.clone() for k, v in run.model[name].named_parameters()} for name in "dg"}
        run.turn(player, 0)
        assert all(p.grad is None for p in run.model[other].parameters())
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in run.model[player].parameters())
        run.move(.1)
        for name in "dg":
            moved = [not torch.equal(v, before[name][k]) for k, v in run.model[name].named_parameters()]
            assert any(moved) == (name == player)


def test_the_loss_of_d_holds_no_gradient_of_g():
    g, d = points()
    rules(g, d)["d"](target(0))["loss"].backward()
    assert all(p.grad is None for p in g.parameters()) and all(p.grad is not None for p in d.parameters())


def test_only_the_generator_is_averaged_and_both_are_at_rest_between_steps():
    run = duel()
    modes = []
    for _ in run:
        modes += [run.model["d"].training, run.model["g"].training]
    assert not any(modes) and isinstance(run.averaged, Generator) and not run.averaged.training
    assert torch.equal(run.averaged.net[2].running_mean, run.model["g"].net[2].running_mean)
    history = run.history()
    assert history.ema is run.averaged and set(history.losses) == {
        "d_loss", "d_game", "d_real", "d_fake", "d_penalty", "g_loss"}
    assert all(p.grad is None for p in run.model.parameters())


class Point(nn.Module):
    """The smallest generator: one number, whatever the noise; its discriminator is w x (Mescheder's Dirac-GAN)."""

    class Config(NamedTuple):
        d: int = 1

    def __init__(self):
        super().__init__()
        self.config, self.at = self.Config(), nn.Parameter(torch.tensor([1.5]))

    def forward(self, z):
        return self.at.expand(len(z), 1)


class Slope(nn.Module):
    """d(x) = w x."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([.5]))

    def forward(self, x):
        return x @ self.w


def dirac(r1_weight: float) -> np.ndarray:
    """Where the point is after each step, the data being at 0."""
    g, d = Point(), Slope()
    loss = rules(g, d, r1_weight=r1_weight)
    run = Duel(nn.ModuleDict({"d": d, "g": g}), loss, lambda k: torch.zeros(4, 1), steps=160, lr=.05,
               lr_d=.05, betas=(0., .999), lr_schedule=train.constant, warmup=0)
    return np.array([float(g.at.detach()) for _ in run])


def test_a_point_finds_the_other_with_r1_and_circles_it_without():
    """Mescheder et al. 2018, section 2: the plain game turns around its equilibrium, R1 makes it a spiral inwards."""
    with_r1, without = dirac(2.), dirac(0.)
    assert np.abs(with_r1[-30:]).max() < .1
    assert np.abs(without[-80:]).max() > .5 and without.min() < -.3


def test_a_game_learns_the_mean_and_spread_of_gaussian_points():
    g, d = points(d=2)
    history = play(g, d, target, steps=160, lr_g=.01, lr_d=.01, r1_weight=.2, ema=.97)
    x = history.ema.sample(2000, seed=0)
    assert torch.allclose(x.mean(0), torch.tensor([1., -1.]), atol=.1) and (x.std(0) - .3).abs().max() < .15
    assert abs(history.smooth("d_game")[-1] - math.log(4)) < .1 and len(history.steps) == 160


@pytest.mark.parametrize("stop", range(9))
def test_ctrl_c_in_any_half_of_a_step_loses_nothing(tmp_path, unbroken, stop):
    """Three losses a step: D's two and G's one; the call after the interruption ends where an unbroken one does."""
    path, calls = tmp_path / "run.ckpt", []

    def interrupted(loss):
        def wrap(f):
            def g(batch):
                said = f(batch)                        # running statistics and power iterations have moved already
                calls.append(1)
                if len(calls) == stop + 1:
                    raise KeyboardInterrupt
                return said
            return g
        return {name: wrap(f) for name, f in loss.items()}
    run = duel(path, interrupted)
    with pytest.raises(KeyboardInterrupt, match=f"stopped after {stop // 3} of 5 steps: make the same call again"):
        list(run)
    assert len(run.open_step) == stop % 3 and not run.model.training
    again = duel(path)
    assert (len(again.logs), len(again.open_step)) == divmod(stop, 3)
    list(again)
    assert_equal(everything(again), everything(unbroken))
    assert scalars(again) == scalars(unbroken)
    assert os.listdir(tmp_path) == ["run.ckpt"]


def test_a_checkpoint_of_another_duel_is_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    next(iter(duel(path)))
    for change, sentence in ({"d_steps": 1}, "d_steps is 2 there, 1 here"), ({"lr_d": .01}, "lr_d is 0.02 there"):
        with pytest.raises(ValueError, match=f"belongs to another run .*{sentence}"):
            duel(path, **change)


@pytest.mark.parametrize("player", ["d", "g"])
def test_a_loss_that_is_not_finite_stops_the_duel_and_changes_nothing(player):
    def bad(loss):
        def f(batch):
            said = loss[player](batch)
            return said | {"loss": said["loss"] * math.nan} if len(run.logs) == 2 else said
        return loss | {player: f}
    run = duel(loss=bad)
    states = []
    with pytest.raises(FloatingPointError, match="stopped at step 2 because loss is nan; the model keeps"):
        for _ in run:
            states.append(everything(run))
    assert len(states) == 2
    now = everything(run)
    same = [name for name in now if torch.equal(now[name], states[-1][name])]
    if player == "d":
        assert len(same) == len(now)
    assert {name for name in now if name.startswith(("m.g", "o.g", "e.")) and ".2." not in name} <= set(same)
    assert all(v.isfinite().all() for v in now.values())


def test_play_hands_its_settings_on(tmp_path):
    g, d = points()
    path = tmp_path / "run.ckpt"
    settings = {"steps": 3, "lr_g": .01, "lr_d": .02, "d_steps": 2, "betas": (.5, .9), "warmup": 2, "ema": .8,
                "seed": 5, "r1_weight": 1., "lr_schedule": train.cosine, "autocast": torch.bfloat16}
    history = play(g, d, target, checkpoint=path, **settings)
    twin_g, twin_d = points()
    settings |= {"lr": settings.pop("lr_g"), "grad_clip": math.inf}
    loss = rules(twin_g, twin_d, gan.NON_SATURATING, r1_weight=settings.pop("r1_weight"))
    run = Duel(nn.ModuleDict({"d": twin_d, "g": twin_g}), loss, target, checkpoint=path, **settings)
    assert len(run.logs) == 3 and torch.equal(run.averaged.net[0].weight, history.ema.net[0].weight)
    assert history.losses["d_penalty"].min() > 0
    plain = play(*points(), target, game=gan.HINGE, steps=1, ema=None)
    assert plain.ema is None and plain.losses["d_penalty"].max() == 0
