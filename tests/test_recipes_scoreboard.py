"""The scoreboard: FID's error and limit by repetition, every family paints what it should, the record is whole."""
import json

import pytest
import torch

from minidiff import weights
from minidiff.data import rng
from minidiff.metrics import FeatureStatistics
from minidiff.recipes import scoreboard as s


@pytest.fixture(scope="module")
def small():
    """A reference of few pictures."""
    return s.reference.__wrapped__("full", 32, 300)


def normal(n, *key, shift=0.):
    return torch.randn(n, 6, generator=rng("scores", *key)) + shift


def test_the_standard_error_is_the_spread_of_repetitions():
    there = FeatureStatistics.of(normal(50_000, "there"))
    found = [s.with_error(normal(400, k, shift=.5), there) for k in range(60)]
    spread = torch.tensor([f["fid"] for f in found]).std()
    error = torch.tensor([f["error"] for f in found]).mean()
    assert .75 < error / spread < 1.35


def test_the_limit_takes_away_what_few_pictures_add():
    there = FeatureStatistics.of(normal(50_000, "there"))
    found = [s.with_error(normal(200, k, shift=.5), there) for k in range(60)]
    plain, limit = (sum(f[name] for f in found) / 60 for name in ("fid", "limit"))
    assert plain - 1.5 > .05                                          # the squared shift is 6 * .25
    assert abs(limit - 1.5) < .4 * (plain - 1.5)


def test_pictures_of_side_16_are_seen_with_every_pixel_twice_as_wide():
    x = torch.rand(3, 3, 16, 16, generator=rng("x")) * 2 - 1
    with torch.no_grad():
        want = weights.load("features")(torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
    assert torch.allclose(s.features(x), want, atol=1e-5)


@pytest.mark.parametrize("name", ["independent pixels", "Gaussian mixture", "VAE", "flow", "GAN", "the world, again",
                                  "pixel GPT", "latent diffusion, guided"])
def test_a_family_paints_a_picture_for_each_caption(name):
    family, told = s.FAMILIES[name], ["a red circle", "a small blue ring at the top on grey"]
    x = family.paint(told, 3)
    assert x.shape == (2, 3, family.side, family.side) and x.isfinite().all()
    assert torch.equal(family.paint(told, 3), x) and not torch.equal(family.paint(told, 4), x)
    if family.reads:
        assert not torch.allclose(family.paint(told[::-1], 3), x, atol=1e-3)


def test_a_row(monkeypatch, small):
    monkeypatch.setattr(s, "reference", lambda world, side: small)
    monkeypatch.setattr(s, "BLOCKS", 2)
    found = s.row("GAN", 300)
    assert found["n"] == 300 and found["parameters"] < 500_000 and found["trained for"] > 30
    assert s.row("the world, again", 300)["FID"]["fid"] < found["FID"]["fid"]


def test_the_stored_record_is_whole():
    board = json.loads((weights.TRAINED / "scoreboard.json").read_text())["rows"]
    assert [row["name"] for row in board] == list(s.FAMILIES)
    for row in board:
        assert row["n"] == s.N and ("right" in row) == s.FAMILIES[row["name"]].reads
        assert row["trained for"] == s.cost(s.FAMILIES[row["name"]].made_of)["trained for"]
    world, = (row for row in board if row["name"] == "the world, again")
    assert world["legal"] == s.N and abs(world["FID"]["limit"]) < .15 and world["precision"] > .85
