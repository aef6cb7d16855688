"""Flows: every log-determinant against autograd's Jacobian, every map undone, densities against grids and counting."""
import math
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

from minidiff import curves, weights
from minidiff import flow as f
from minidiff.data import rng
from minidiff.flow import Flow, FlowConfig
from minidiff.mixture import GaussianMixture
from minidiff.train import Training, seeded


def shaken(model, seed=0, by=.3):
    """The same model with parameters away from where they start, in eval mode."""
    g = rng("shaken", seed)
    with torch.no_grad():
        for p in model.parameters():
            p += by * torch.randn(p.shape, generator=g) / max(p[0].numel() ** .5, 1)
    return model.eval()


def made(build, seed=0, by=.3):
    """build() with first weights from a seed, then shaken."""
    with seeded("flow", seed):
        return shaken(build(), seed, by)


def points(*shape, seed=0):
    return torch.randn(*shape, generator=rng("points", seed))


def coupling(c, transform, side=2):
    return f.Coupling(f.network(c // 2, transform.numbers * (c // 2), 8, side), transform)


PICTURE, VECTOR, ROW = (4, 2, 2), (4,), (4, 3)
LAYERS = {
    "actnorm": (lambda: f.ActNorm(4), PICTURE), "actnorm of vectors": (lambda: f.ActNorm(4), VECTOR),
    "actnorm of rows": (lambda: f.ActNorm(4), ROW),
    "mix": (lambda: f.Mix(4), PICTURE), "mix of vectors": (lambda: f.Mix(4), VECTOR),
    "mix of rows": (lambda: f.Mix(4), ROW),
    "flip": (f.Flip, PICTURE), "squeeze": (f.Squeeze, (2, 4, 2)), "flat": (lambda: f.Flat(*PICTURE), PICTURE),
    "affine": (lambda: coupling(4, curves.Affine()), PICTURE),
    "spline": (lambda: coupling(4, curves.Spline(5)), PICTURE),
    "affine of vectors": (lambda: coupling(4, curves.Affine(), 0), VECTOR),
    "spline of rows": (lambda: f.Coupling(nn.Conv1d(2, 10, 3, padding=1), curves.Spline(2)), ROW),
    "chain": (lambda: f.Chain([f.Mix(4), coupling(4, curves.Affine()), f.ActNorm(4)]), PICTURE),
    "split": (lambda: f.Split(coupling(4, curves.Affine()), f.Chain([f.Mix(2), f.Flat(2, 2, 2)])), PICTURE),
}
WHOLE = {
    "real nvp": (lambda: Flow(FlowConfig(4, steps=3, width=8)).map, VECTOR),
    "splines": (lambda: Flow(FlowConfig(2, steps=3, width=8, bins=4)).map, (2,)),
    "glow": (lambda: Flow(FlowConfig(3, 4, levels=2, steps=2, width=8)).map, (3, 4, 4)),
    "glow of splines": (lambda: Flow(FlowConfig(2, 4, levels=2, steps=2, width=8, bins=4)).map, (2, 4, 4)),
    "neither norm nor mix": (lambda: Flow(FlowConfig(2, 4, levels=1, steps=2, width=8, norm=False, mix=False)).map,
                             (2, 4, 4)),
}
EVERY = LAYERS | WHOLE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", list(EVERY))
def test_log_det_is_that_of_the_jacobian(name, dtype):
    build, shape = EVERY[name]
    layer, x = made(build).to(dtype), points(3, *shape).to(dtype)
    jacobian = vmap(jacrev(lambda one: layer(one[None])[0][0].flatten()))(x).flatten(2)
    truth = torch.linalg.slogdet(jacobian.double()).logabsdet
    torch.testing.assert_close(layer(x)[1].double(), truth, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-10)
    assert name in ("flip", "squeeze", "flat") or truth.abs().min() > .01       # there is something to get wrong


@pytest.mark.parametrize("name", list(EVERY))
def test_the_inverse_undoes_the_map_and_its_log_det(name):
    """With the sign turned round; tails of the splines included."""
    build, shape = EVERY[name]
    layer, x = made(build).double(), 2.5 * points(20, *shape).double()
    z, log_det = layer(x)
    back, other = layer.inverse(z)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(other, -log_det, rtol=0, atol=1e-9)
    assert name in ("squeeze", "flat") or (z.flatten(1) - x.flatten(1)).abs().max() > .1


@pytest.mark.parametrize("bins", [0, 8])
def test_a_deep_glow_is_undone_in_float32(bins):
    """32x32, 18 couplings: the largest error of any pixel."""
    config = FlowConfig(3, 32, levels=3, steps=6, width=16, bins=bins)
    model, x = made(lambda: Flow(config), by=.15), points(4, 3, 32, 32)
    with torch.no_grad():
        z, _ = model.encode(x)
        assert (model.decode(z) - x).abs().max() < 1e-4 and (z - x.flatten(1)).abs().mean() > .5


def test_a_coupling_keeps_the_first_half_and_moves_the_second():
    """Each number of the second half by itself, by a curve that only the first half knows."""
    layer, x = made(lambda: coupling(4, curves.Affine(), 0)), points(4)
    jacobian = jacrev(lambda one: layer(one[None])[0][0])(x)
    assert jacobian[:2].equal(torch.eye(4)[:2])
    assert jacobian[2:, 2:].equal(jacobian[2:, 2:].diag().diag()) and (jacobian[2:, :2].abs() > 1e-4).all()


def test_a_coupling_begins_as_the_identity():
    for transform in (curves.Affine(), curves.Spline(6)):
        with seeded("identity"):
            layer = coupling(4, transform)
        x = points(5, *PICTURE)
        z, log_det = layer(x)
        torch.testing.assert_close(z, x, rtol=0, atol=1e-6)
        torch.testing.assert_close(log_det, torch.zeros(5), rtol=0, atol=1e-5)


def test_no_network_can_make_an_affine_coupling_explode():
    """By no more than exp(most), whatever it is given; small wishes are granted."""
    wish = torch.tensor([-1e6, -50., -.01, 0., .01, 50., 1e6])
    given, zero = torch.stack([wish, 0 * wish])[None], torch.ones(1, 7)
    y, log_slope = curves.Affine(1.5).forward(zero, given)
    assert log_slope.abs().max() <= 1.5 and y.max() <= math.exp(1.5) + 1e-5
    assert curves.Affine().forward(zero, given)[1].abs().max() == pytest.approx(2)
    torch.testing.assert_close(log_slope[0, 2:5], wish[2:5], rtol=1e-3, atol=0)


def test_a_spline_rises_from_edge_to_edge_and_leaves_the_rest_alone():
    """Through its knots, without jumps; and its slope is that of differences."""
    spline, given = curves.Spline(5, edge=2.), points(1, 14, seed=3)[..., None].double()
    x = torch.linspace(-4, 4, 80_001).double()[None]
    y, log_slope = spline.forward(x, given.expand(-1, -1, x.shape[1]))
    step = y.diff()
    assert step.min() > 0 and step.max() < 2e-3
    torch.testing.assert_close(y[x.abs() >= 2], x[x.abs() >= 2], rtol=0, atol=0)
    torch.testing.assert_close(step / 1e-4, (log_slope[:, 1:].exp() + log_slope[:, :-1].exp()) / 2, rtol=2e-2, atol=0)
    xs, ys, slopes = spline.knots(given)[:, 0, 0]
    at, _ = spline.forward(xs[None], given.expand(-1, -1, 6))
    torch.testing.assert_close(at[0], ys, rtol=0, atol=1e-9)
    i = torch.searchsorted(x[0], xs[1:-1])
    torch.testing.assert_close(log_slope[0, i], slopes[1:-1].log(), rtol=0, atol=1e-2)
    assert (y - x).abs().max() > .3


def test_mix_begins_as_a_rotation():
    with seeded("mix"):
        layer = f.Mix(12)
    torch.testing.assert_close(layer.w @ layer.w.T, torch.eye(12), rtol=0, atol=1e-5)
    assert (layer.w - torch.eye(12)).abs().max() > .3


# --- the first batch of an ActNorm ------------------------------------------------------------------------------------

def test_the_first_batch_comes_out_with_mean_nought_and_std_one():
    layer = f.ActNorm(3)
    x = points(50, 3, 4, 4) * torch.tensor([.1, 3., 20.])[:, None, None] + torch.tensor([5., 0., -7.])[:, None, None]
    with torch.no_grad():
        assert layer.eval()(x)[0].equal(x)                          # in eval mode nothing begins
        z, _ = layer.train()(x)
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3), correction=0)
        torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(std, torch.ones(3), rtol=0, atol=1e-4)
        kept = {name: t.clone() for name, t in layer.state_dict().items()}
        layer(x + 5)
    assert all(t.equal(kept[name]) for name, t in layer.state_dict().items())


def test_a_file_remembers_that_it_has_begun():
    config = FlowConfig(2, steps=1, width=4)
    model = made(lambda: Flow(config), by=0.)
    model.train().log_prob(points(30, 2) * 7)
    with tempfile.TemporaryDirectory() as folder:
        weights.save(Path(folder) / "flow.safetensors", model)
        again = weights.load(Path(folder) / "flow.safetensors")
    x = points(30, 2, seed=1) - 4
    assert again.train().log_prob(x).equal(model.log_prob(x))
    assert again.map.maps[0].log_std.equal(model.map.maps[0].log_std) and bool(again.map.maps[0].begun)


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path):
    def run(checkpoint, steps):
        model = made(lambda: Flow(FlowConfig(2, steps=2, width=8)), by=0.)
        training = Training(model, model.loss, lambda k: 3 * points(16, 2, seed=k) + 1, steps=6, checkpoint=checkpoint,
                            ema=.9)
        logs = iter(training)
        for _ in range(steps):
            next(logs)
        logs.close()                                                # what is done so far goes into the checkpoint
        return training
    whole, broken = run(None, 6), run(tmp_path / "run.safetensors", 2)
    rest = run(tmp_path / "run.safetensors", 4)
    assert (len(broken.logs), len(rest.logs)) == (2, 6)
    for ours, theirs in ((rest.model, whole.model), (rest.averaged, whole.averaged)):
        assert all(a.equal(b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


# --- densities --------------------------------------------------------------------------------------------------------

EDGE = (torch.arange(480).double() + .5) / 24 - 10                              # the middles of cells of [-10, 10]
GRID = torch.cartesian_prod(EDGE, EDGE)


@pytest.mark.parametrize("bins", [0, 6])
def test_the_density_adds_up_to_one_and_samples_fall_where_it_is(bins):
    """On a grid; and 20,000 samples counted in squares against the density added up in them (chi squared)."""
    model, n = made(lambda: Flow(FlowConfig(2, steps=3, width=16, bins=bins)), by=.3).double(), 20_000
    with torch.no_grad():
        p = model.log_prob(GRID).exp().view(480, 480) / 24 ** 2
    assert float(p.sum()) == pytest.approx(1, abs=2e-4)
    expected = n * p.reshape(40, 12, 40, 12).sum((1, 3))                         # in squares of side 1/2
    i, j = ((model.sample(n, seed=1) + 10) * 2).floor().clamp(0, 39).long().unbind(1)
    counted = torch.zeros(1600).index_add_(0, i * 40 + j, torch.ones(n)).view(40, 40)
    big = expected > 20
    squares = ((counted - expected).square() / expected)[big]
    assert big.sum() > 30 and squares.mean() < 1 + 4 * (2 / len(squares)) ** .5
    assert abs(counted[~big].sum() - expected[~big].sum()) < 5 * expected[~big].sum().sqrt()


class Sinh(nn.Module):
    """z = asinh x, whose inverse has a density that is known (Johnson's S_U)."""

    def forward(self, x):
        return x.asinh(), -(x.square() + 1).log().sum(1) / 2

    def inverse(self, z):
        return z.sinh(), z.cosh().log().sum(1)


def test_change_of_variables_against_a_density_from_scipy():
    stats = pytest.importorskip("scipy.stats")
    model = Flow(FlowConfig(2)).double()
    model.map = f.Chain([Sinh(), made(lambda: f.ActNorm(2)).double()])
    mean, std = model.map.maps[1].mean.detach(), model.map.maps[1].log_std.detach().exp()
    x = 3 * points(50, 2).double()
    truth = sum(torch.from_numpy(stats.johnsonsu(-float(mean[i] / std[i]), 1 / float(std[i])).logpdf(x[:, i].numpy()))
                for i in range(2))
    torch.testing.assert_close(model.log_prob(x).detach(), truth, rtol=0, atol=1e-9)


def test_the_loss_is_nats_a_number_and_the_sum_of_its_parts():
    model, x = made(lambda: Flow(FlowConfig(3, 4, levels=2, steps=1, width=8))), points(6, 3, 4, 4)
    with torch.no_grad():
        losses, z, nats = model.loss(x), model.encode(x)[0], model.log_prob(x)
    assert float(losses["loss"]) == pytest.approx(-float(nats.mean()) / 48, rel=1e-5)
    normal = torch.distributions.Normal(0., 1.)
    assert float(losses["code"]) == pytest.approx(-float(normal.log_prob(z).mean()), rel=1e-5)
    assert float(losses["volume"]) == pytest.approx(float(losses["loss"] - losses["code"]), rel=1e-4)


def test_a_flow_learns_a_density():
    """Two narrow Gaussians: KL to the truth, by samples of the truth, is soon a tenth of that of one wide Gaussian."""
    truth = GaussianMixture.of(torch.tensor([.5, .5]), torch.tensor([[-1.5, 0.], [1.5, .5]]),
                               torch.full((2,), .3 ** 2), "spherical")
    x = truth.sample(2000, seed=1)
    wide = GaussianMixture(1).fit(x)
    for bins in (0, 6):
        model = made(lambda bins=bins: Flow(FlowConfig(2, steps=3, width=16, bins=bins)), by=0.)
        for _ in Training(model, model.loss, lambda k: truth.sample(128, seed=k).float(), steps=150, lr=1e-2):
            pass
        kl, error = truth.kl(lambda x, model=model: model.log_prob(x.float()), 2000, seed=1)
        assert -3 * error < kl < truth.kl(wide.log_prob, 2000, seed=1)[0] / 4, kl


# --- samples and codes ------------------------------------------------------------------------------------------------

SMALL = FlowConfig(2, 4, levels=2, steps=2, width=8)


def test_a_picture_depends_on_its_seed_and_row_and_not_on_the_batch():
    model = made(lambda: Flow(SMALL))
    x = model.sample(6, seed=3)
    torch.testing.assert_close(model.sample(2, seed=3, first=4), x[4:], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.sample(2, seed=3), x[:2], rtol=0, atol=1e-5)
    assert (model.sample(6, seed=4) - x).abs().max() > .5 and len(x.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("temperature", [0, .5, 1.])
def test_temperature_is_the_std_of_the_code(temperature):
    model = made(lambda: Flow(SMALL), by=.1)
    with torch.no_grad():
        z, _ = model.encode(model.sample(400, seed=0, temperature=temperature))
    assert float(z.std()) == pytest.approx(temperature, abs=.02)


def test_the_code_goes_from_coarse_to_fine():
    """The first 8 numbers see the whole picture; each other level is where the halves of a level end."""
    model = made(lambda: Flow(FlowConfig(2, 8, levels=3, steps=1, width=8)))
    x = points(1, 2, 8, 8)
    with torch.no_grad():
        z, _ = model.encode(x)
        level = model.map
        y, _ = f.Chain(level.maps[:-1])(x)
        stay, early = level.maps[-1].leave(y)[0].chunk(2, 1)
        assert z[:, 64:].equal(early.flatten(1))                            # the finest half comes last
        torch.testing.assert_close(z[:, :64], level.maps[-1].rest(stay)[0])
    pixels = jacrev(lambda one: model.encode(one[None])[0][0])(x[0]).flatten(1)
    reach = (pixels.abs() > 0).float().mean(1)
    assert reach[:32].mean() > reach[64:].mean() and pixels.shape == (128, 128)


# --- whole numbers ----------------------------------------------------------------------------------------------------

def test_dequantised_pictures_fill_their_steps():
    """Rounding finds the step again, and the spread is uniform: variance step^2 / 12."""
    x = torch.randint(256, (2000, 5), generator=rng("steps")).double() / 127.5 - 1
    u = torch.rand(x.shape, generator=rng("u")).double()
    y = f.dequantise(x, u)
    assert ((y + 1) * 127.5).round().equal(((x + 1) * 127.5).round()) and not y.equal(x)
    assert float((y - x).mean()) == pytest.approx(0, abs=1e-4)
    assert float((y - x).var()) == pytest.approx((1 / 127.5) ** 2 / 12, rel=.03)


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_a_uniform_picture_costs_the_bits_of_its_levels(levels):
    """8 bits for 256: the density is 1 over the volume of the cube of all steps."""
    inside = torch.distributions.Uniform(-1 - 1 / (levels - 1), 1 + 1 / (levels - 1))
    x = torch.zeros(12).double()
    log_p = inside.log_prob(x.float()).sum()
    assert float(f.bits_per_dim(log_p, 12, levels)) == pytest.approx(math.log2(levels), rel=1e-5)
    u = torch.rand(3, 1, 12, generator=rng("u")).double()
    told = f.log_mass(lambda y: inside.log_prob(y.float()).sum(1), x[None], u, levels)
    assert float(f.bits_per_dim(told, 12, None)) == pytest.approx(math.log2(levels), rel=1e-5)


def test_the_bound_on_whole_numbers_lies_below_the_exact_probability_and_closes():
    """A mixture whose density and exact probabilities on 16 steps are both known: E bound(1) < E bound(k) < log P."""
    world = GaussianMixture.of(torch.tensor([.3, .7]), .4 * torch.rand(2, 3, generator=rng("means")).double() - .2,
                               torch.tensor([.08, .12]).square(), "spherical")
    x = ((world.sample(60, seed=1) + 1) * 7.5).round() / 7.5 - 1
    u = torch.rand(512, 60, 3, generator=rng("draws")).double()
    exact = world.log_prob(x, levels=16)
    one = torch.stack([f.log_mass(world.log_prob, x, u[i:i + 1], 16) for i in range(64)]).mean(0)
    eight = torch.stack([f.log_mass(world.log_prob, x, u[i:i + 8], 16) for i in range(0, 512, 8)]).mean(0)
    many = f.log_mass(world.log_prob, x, u, 16)
    gaps = [float((exact - told).mean()) for told in (one, eight, many)]
    assert gaps[0] > gaps[1] + .02 > .04 and abs(gaps[2]) < .02
    torch.testing.assert_close(many, exact, rtol=0, atol=.35)


# --- bad input --------------------------------------------------------------------------------------------------------

def test_what_makes_no_sense_is_refused_in_a_sentence():
    model = made(lambda: Flow(SMALL))
    refused = {
        r"takes x of shape \['b', 2, 4, 4\], not \[5, 3, 4, 4\]": lambda: model.encode(points(5, 3, 4, 4)),
        r"not \[5, 2, 8, 8\]": lambda: model.log_prob(points(5, 2, 8, 8)),
        r"a code of this flow has the shape \['b', 32\], not \[5, 31\]": lambda: model.decode(points(5, 31)),
        "must be even, not 3": lambda: f.Coupling(nn.Identity())(points(5, 3)),
        "temperature .* at least 0, not -0.5": lambda: model.sample(2, seed=0, temperature=-.5),
        "a side of 20 cannot be halved 3 times": lambda: Flow(FlowConfig(3, 20, levels=3)),
        "a side of 0 cannot be halved 2 times": lambda: Flow(FlowConfig(2, levels=2)),
        "must vary in every channel": lambda: f.ActNorm(2).train()(torch.ones(5, 2, 3)),
    }
    for sentence, attempt in refused.items():
        with pytest.raises(ValueError, match=sentence):
            attempt()
