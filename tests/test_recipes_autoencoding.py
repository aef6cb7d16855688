"""The recipes of chapter 2, small runs from end to end, and the numbers that they measure with."""
import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from minidiff import cups, weights
from minidiff.autoencoder import HIDDEN, VAE, Autoencoder, AutoencoderConfig, hidden
from minidiff.data import noise, pictures, rng
from minidiff.mixture import of_world
from minidiff.recipes import autoencoding, codes
from minidiff.recipes.about import made
from minidiff.scenes import render, single

TINY = AutoencoderConfig(d=2, channels=3, side=16, encoder=(8,), decoder=(8,), neck=2)
overfull = pytest.mark.filterwarnings("ignore:.*components")             # more components than few codes can fill


class Exact(VAE):
    """Stands in for a VAE whose bounds are log p(x) of world `single`, less `short` nats."""

    def __init__(self, short):
        super().__init__(TINY)
        self.short = short

    def elbo(self, x, *, beta=1., closed=True, draw=None):
        return of_world("single", .1, size=16).log_prob(x).float() - self.short

    def iwae(self, x, k, draw=None):
        return self.elbo(x) + .5


def test_nats_of_the_truth_itself_are_nought():
    told = autoencoding.nats(Exact(2.), n=60, ks=[(10, 3)])
    assert told["elbo"]["n"] == 60 and told["iwae"]["10"]["n"] == 20
    assert told["elbo"]["kl"] == pytest.approx(2, abs=.01) and told["iwae"]["10"]["kl"] == pytest.approx(1.5, abs=.01)
    assert told["elbo"]["error"] < .01 and told["-H(p)"] == pytest.approx(670.6, abs=1)


def test_the_weight_of_the_divergence_grows_to_one():
    batches = autoencoding.warmed(pictures(2, 0, 16), 4)
    assert [batches(step)[1] for step in range(6)] == [.25, .5, .75, 1., 1., 1.]
    assert torch.equal(batches(3)[0], pictures(2, 0, 16)(3))


def test_pictures_of_single_are_all_its_scenes_alike():
    every, x = render(single(), 16), autoencoding.clean(4000)(0)
    found = torch.cdist(x.flatten(1), every.flatten(1)).min(1)
    assert found.values.max() < .1 and found.indices.unique().numel() > .6 * len(every)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        grain = autoencoding.grained(300)(0) - autoencoding.clean(300)(0)
    assert float(grain.std()) == pytest.approx(.1, rel=.02)


@overfull
def test_a_fitted_prior_has_the_moments_of_the_codes():
    model, x = made(lambda: Autoencoder(TINY)), pictures(300, 0, 16)(0)
    prior = autoencoding.fitted_prior(model, x, 1)
    with torch.no_grad():
        z = model.encode(x).double()
    assert torch.allclose(prior.means_[0], z.mean(0), atol=1e-4)
    assert torch.allclose(prior.covariances_[0], torch.cov(z.T, correction=0) + 1e-4 * torch.eye(2), atol=1e-4)
    model.decode = lambda z: F.pad(z, (0, 1))[:, :, None, None]          # the code itself, as a picture of one pixel
    drawn = autoencoding.from_prior(model, prior, 4000, 0)[:, :2, 0, 0]
    assert torch.allclose(torch.cov(drawn.T), prior.covariances_[0].float(), rtol=.1, atol=1e-3)
    assert torch.equal(autoencoding.from_normal(model, 300, 3)[:, :2, 0, 0], noise((300, 2), 3))


@overfull
def test_recipes_write_what_they_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(autoencoding, "nats", partial(autoencoding.nats, ks=[(2, 2)]))
    monkeypatch.setattr(autoencoding, "quality", partial(autoencoding.quality, seeds=2, k=2))
    autoencoding.vae_single(tmp_path, steps=2, n=12)
    autoencoding.vae(tmp_path, steps=2, n=6)
    autoencoding.denoising_autoencoder(tmp_path, steps=2, n=6)
    told = {name: weights.describe(tmp_path / f"{name}.safetensors") for name in autoencoding.RECIPES}
    assert {name: about["recipe"] for name, about in told.items()} == {
        name: f"autoencoding.{name.replace('-', '_')}" for name in autoencoding.RECIPES}
    assert told["vae-single"]["quality"]["iwae"]["2"]["n"] == 6
    assert told["vae"]["quality"]["fitted prior"]["codes"] == 120 and "legal" in told["vae"]["quality"]["N(0, I)"]
    assert told["denoising-autoencoder"]["quality"]["psnr"]["1.0"]["damaged"] == pytest.approx(6, abs=.2)
    for name in told:
        model, parameters = weights.load(tmp_path / f"{name}.safetensors"), 0
        for p in model.parameters():
            parameters += p.numel()
        assert parameters < 5e5 and (tmp_path / f"{name}.safetensors").stat().st_size <= 1_000_000


# --- the comparisons --------------------------------------------------------------------------------------------------

def test_the_best_guess_beside_one_scene_by_hand():
    """Noise: the exact mixture's. Hidden: the mean of all scenes that agree with what is seen."""
    every = render(single(), 16)
    x = every[::500]
    y = x + noise(x.shape, 0)
    by_hand = torch.softmax(-torch.cdist(y.flatten(1).double(), every.flatten(1).double()).square() / 2, 1)
    by_hand = (by_hand @ every.flatten(1).double()).float()
    assert torch.allclose(codes.best("noise", y, 1.).flatten(1), by_hand, atol=1e-3)
    y = hidden(x, .8, draw=lambda *shape, device: torch.rand(shape, generator=rng("by hand")))
    for guess, seen in zip(codes.best("hidden", y, .8), y, strict=True):
        fits = ((every - seen).abs() * (seen != HIDDEN)).amax((1, 2, 3)) < 1e-6
        assert fits.any() and (guess - every[fits].mean(0)).abs().max() < .05


def test_damage_is_filled_and_seeded():
    x = pictures(4, 0, 16)(0)
    y = codes.spoilt("hidden", x, .5, 1)
    shown = codes.filled(y)
    for i in range(4):
        gone = y[i, 0] == HIDDEN
        assert torch.equal(shown[i][:, ~gone], x[i][:, ~gone])
        assert torch.allclose(shown[i][:, gone], x[i][:, ~gone].mean(1, keepdim=True).expand(-1, int(gone.sum())))
    assert torch.equal(codes.spoilt("noise", x, .5, 1)[:2], codes.spoilt("noise", x[:2], .5, 1))
    assert (codes.filled(torch.full((1, 3, 16, 16), HIDDEN)) == 0).all()


def test_held_out_levels_never_appear_in_training():
    for held_out in (False, True):
        level = cups.read(codes.cup_batches(400, 0, held_out)(3))[0]
        within = (level > .405) & (level < .595)
        assert not within.any() if not held_out else ((level > .395) & (level < .605)).all()
        assert level.std() > (.3 if not held_out else .04)


def test_half_a_cup_is_recognised_and_an_overlay_is_not():
    """An auto-encoder whose code is the picture overlays the two; one whose code is the level halves it."""
    class Identity(Autoencoder):
        encode = decode = staticmethod(lambda x: x)

    class Knowing(Autoencoder):
        def encode(self, x):
            level, colour, background, _ = cups.read(x)
            return torch.stack([level, level * colour, background.float()], 1)

        def decode(self, z):
            return cups.render(z[:, 0], (z[:, 1] / z[:, 0]).round().long(), z[:, 2].round().long())
    told = codes.half_a_cup(Identity(TINY))
    assert told["half"] == 0 and told["control"] == 1
    told = codes.half_a_cup(Knowing(TINY))
    assert told["half"] == told["near"] == told["control"] == 1 and told["pairs"] == 32
    assert told["level"] == .5 and told["off"] == 0


def test_noise_on_the_code_is_measured_in_its_own_std():
    model, x = made(lambda: Autoencoder(TINY)), pictures(500, 0, 16)(0)
    seen = []
    model.decode = lambda z: (seen.append(z), x)[1]
    for share in (0., .5):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            codes.shaken(model, share)(x)
    z = model.encode(x)
    assert torch.equal(seen[0], z) and torch.allclose((seen[1] - z).std(0), .5 * z.std(0), rtol=.1)


def test_multiply_adds_are_half_of_what_torch_counts():
    model, x = made(lambda: Autoencoder(TINY)), pictures(1, 0, 16)(0)
    for net in (model, codes.narrowed(made(lambda: Autoencoder(codes.SMALL))), codes.connected(TINY)):
        with FlopCounterMode(display=False) as counter:
            net(x)
        assert codes.multiply_adds(net, x) == counter.get_total_flops() / 2


def test_bottlenecks_are_thinner_and_begin_as_their_skip():
    model = made(lambda: Autoencoder(codes.SMALL))
    narrow, x = codes.narrowed(made(lambda: Autoencoder(codes.SMALL))), pictures(2, 0, 16)(0)
    blocks = [m for m in narrow.modules() if isinstance(m, codes.Bottleneck)]
    assert len(blocks) == 6 and not any(type(m) is codes.ResidualBlock for m in narrow.modules())
    assert codes.multiply_adds(narrow, x[:1]) < .4 * codes.multiply_adds(model, x[:1])
    h = torch.randn(1, 16, 8, 8, generator=rng("block"))
    block = codes.Bottleneck(16)
    nn.init.zeros_(block.conv2.bias)
    assert torch.equal(block(h), h)
    nn.init.ones_(block.conv2.weight)
    inner = F.silu(block.norm1(h))
    thin = F.conv2d(F.silu(F.conv2d(inner, block.conv1[0].weight, block.conv1[0].bias)), block.conv1[2].weight,
                    block.conv1[2].bias, padding=1)
    assert torch.allclose(block(h), h + F.silu(block.norm2(thin)).sum(1, keepdim=True), atol=1e-5)


@overfull
def test_a_small_bench_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(codes, "NOISES", (0., .2))
    monkeypatch.setattr(codes, "BETAS", (1.,))
    codes.compared(tmp_path, seeds=1, steps=2, n=10)
    told = json.loads((tmp_path / "autoencoding.json").read_text())
    count = {claim: sum(row["claim"] == claim for row in told["rows"]) for claim in codes.EXPERIMENTS}
    assert count == {"C06": 16, "C07": 30, "C09": 3, "C58": 4, "C59": 4} and told["recipe"] == "codes.compared"
    monkeypatch.setattr(codes, "EXPERIMENTS", dict.fromkeys(codes.EXPERIMENTS))         # nothing is done twice
    codes.compared(tmp_path, seeds=1, steps=2, n=10)
    assert json.loads((tmp_path / "autoencoding.json").read_text())["rows"] == told["rows"]


def test_a_stored_row_can_be_made_again():
    """The quickest of them, with its training."""
    told = json.loads((weights.TRAINED / "autoencoding.json").read_text())
    stored = next(row for row in told["rows"] if row.get("network") == "fully connected" and row["seed"] == 0)
    again = codes.crossed("fully connected", 0, told["steps"], 500)
    assert again["psnr"] == pytest.approx(stored["psnr"], abs=.2)
    assert all(again[key] == stored[key] for key in ("multiply-adds", "parameters", "fully connected"))


def test_the_shipped_vae_is_as_near_to_the_truth_as_its_file_says():
    """On other pictures than the recipe's, and far below the 124 nats of chapter 1's mixtures."""
    model, told = weights.load("vae-single"), weights.describe("vae-single")["quality"]
    again = autoencoding.nats(model, n=300, ks=[(10, 1)], seed=2)["iwae"]["10"]
    assert again["kl"] == pytest.approx(told["iwae"]["10"]["kl"], abs=4 * again["error"] + .1) and again["kl"] < 30
