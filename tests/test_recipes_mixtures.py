"""The recipes of chapter 1, a small run from end to end, and the numbers that they measure with."""
import json

import pytest
import torch

from minidiff import weights
from minidiff.data import pictures, rng
from minidiff.mixture import GaussianMixture, of_world
from minidiff.recipes import mixtures, quality
from minidiff.scenes import full, render, single


def test_sharpness_is_the_energy_that_a_low_pass_takes_away():
    """Second road: a plane wave of wavelength 8 has none, one of wavelength 2.67 all of its mean square."""
    ramp = torch.arange(16.)
    long, short = (torch.cos(2 * torch.pi * waves * ramp / 16).expand(1, 3, 16, 16) for waves in (2, 6))
    assert quality.sharpness(long) < 1e-6
    for x in (short, short.mT, 2 * short + long):
        energy = float((x - (long if x is not short and x.max() > 2 else 0)).square().sum())
        assert quality.sharpness(x) == pytest.approx(energy, rel=1e-4)


def test_without_grain_only_the_columns_are_left():
    a, u = torch.rand(2, 12) + .1, torch.randn(2, 12, 2, generator=rng("columns"))
    mixture = GaussianMixture.of(torch.tensor([.5, .5]), torch.zeros(2, 12), (a, u), "lowrank")
    x = mixtures.without_grain(mixture).sample(50)
    away = torch.stack([x.T - c @ torch.linalg.lstsq(c, x.T).solution for c in u.double()]).norm(dim=1).amin(0)
    assert away.max() < 1e-5 and x.std() > .5
    for kind, c in (("spherical", torch.ones(1)), ("diag", torch.ones(1, 12))):
        flat = mixtures.without_grain(GaussianMixture.of(torch.ones(1), torch.ones(1, 12), c, kind)).sample(5)
        assert (flat - 1).abs().max() < 1e-5


def test_all_of_single_is_legible_and_fog_is_not():
    scenes = single()[::40]
    assert all(quality.legible(render(scenes, 16)))
    assert quality.legible(torch.zeros(3, 3, 16, 16)) == [None] * 3


def test_unlike_is_nought_for_the_same_and_one_for_others():
    black, rest = (list(full(400, rng("unlike"))[full(400, rng("unlike")).background == i]) for i in (0, 2))
    assert set(quality.unlike(black, black).values()) == {0.}
    other = quality.unlike(black, rest)
    assert other["background"] == 1 and 0 < other["shape"] < .2 and 0 < other["number"] < .3


@pytest.mark.filterwarnings("ignore:.*hold less than one point")         # few components, far too few pictures
def test_the_recipe_writes_what_it_measured(tmp_path):
    mixtures.gaussian_mixture(tmp_path, k=5, n=200, count=20)
    path = tmp_path / "gaussian-mixture.safetensors"
    told, mixture = weights.describe(path), weights.load(path).mixture()
    again = GaussianMixture(5, "spherical", reg=1e-3, tol=0, max_iter=10).fit(pictures(200, 0, 16)(0))
    x = pictures(20, 1, 16)(0)
    assert torch.allclose(mixture.log_prob(x), again.log_prob(x), rtol=.02)
    assert told["quality"]["samples"]["legal"].endswith("of 100") and told["quality"]["n"] == 20


@pytest.mark.filterwarnings("ignore:.*hold less than one point")
def test_the_ladder_compares_with_the_truth(tmp_path, monkeypatch):
    """A mixture with the scenes themselves as means has no divergence; its row says so."""
    monkeypatch.setattr(mixtures, "LADDER", [("spherical", 2)])
    mixtures.ladder(tmp_path, seeds=1, sizes=(60, 20))
    one, two = json.loads((tmp_path / "mixtures.json").read_text())["rows"]
    assert (one["world"], two["world"]) == ("full", "single") and two["fresh"] > 100

    def exact(self, x, start=None):
        truth = of_world("single", mixtures.STD, size=16)
        self.fitted = truth.fitted
        return self
    monkeypatch.setattr(GaussianMixture, "fit", exact)
    row = mixtures.compared("single", "spherical", 2, seed=0, sizes=(60, 20))
    assert row["fresh"] == row["training"] == 0 and row["legal without grain"] == 20
