"""Chapter 6's auto-encoders: what counts as an error, what is counted, and the rows."""
import json
from dataclasses import replace

import pytest
import torch

from minidiff import data, weights
from minidiff.gan import Duel
from minidiff.recipes import compressors as c
from minidiff.recipes.quality import psnr


@pytest.mark.parametrize("channels, halvings, side", [(4, 2, 8), (1, 1, 16), (16, 3, 4)])
def test_codes_have_the_size_that_they_say(channels, halvings, side):
    model = c.LatentAutoencoder(c.code(channels, halvings))
    z = model.encode(torch.zeros(1, 3, 32, 32))
    assert z.shape == (1, channels, side, side) and model.decode(z).shape == (1, 3, 32, 32)


def test_features_forget_a_factor_and_a_perceptual_error_is_none_for_equal_pictures():
    x = data.pictures(4)(0)
    found = c.features(weights.load("denoising-autoencoder").encoder[0].net[:-3], x)
    assert [f.shape[1:] for f in found] == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert all(torch.allclose(f.norm(dim=1), torch.ones(()), atol=1e-4) for f in found)
    error, y = c.perceptual(.5), x.roll(1, 3)
    assert float(error(x, x)) == 0.
    squared = float((x - y).square().mean())
    assert float(error(x, y)) > squared + .01
    assert float(c.perceptual(0.)(x, y)) == pytest.approx(squared, rel=1e-6)
    gap = (float(error(x, y)) - squared) / .5
    assert float(c.perceptual(1.)(x, y)) == pytest.approx(squared + gap, rel=1e-5)


def test_a_perceptual_error_looks_through_noise_and_feels_a_wrong_shade():
    """At equal squared error; the features are those of a network that was trained to take noise away."""
    x = data.pictures(32)(0)
    lifted, noisy = x + .08, x + .08 * data.noise(tuple(x.shape), 0)
    assert psnr(x, lifted) == pytest.approx(psnr(x, noisy), abs=.1)
    error = c.perceptual(1.)
    assert float(error(x, lifted)) - .0064 > 4 * (float(error(x, noisy)) - .0064) > 0


def test_a_judge_of_patches_sees_ten_pixels():
    judge, x = c.Patches(), torch.zeros(1, 3, 32, 32, requires_grad=True)
    judge(x)[8 * 4 + 4].backward()
    seen = (x.grad.abs().sum((0, 1)) > 0).nonzero()
    assert judge(x).shape == (64,) and (seen.amax(0) - seen.amin(0) + 1).tolist() == [10, 10]


@pytest.mark.parametrize("name", ["kl 1e-2", "patches", "500 pictures", "4x4x16"])
def test_kinds_run_to_their_end(name):
    found = c.row(name, 0, 2, 8)
    assert found["n"] == 8 and 0 <= found["same"] <= 8 and set(found["noised"]) == {"0.1", "0.2", "0.4"}
    assert isinstance(c.training(c.KINDS[name], 0, 2), Duel) == (name == "patches")


def test_few_pictures_are_the_same_few_at_every_step_and_standardise_the_code(monkeypatch):
    kind = replace(c.KINDS["500 pictures"], pictures=40)
    few = c.allowed(kind, 0)
    assert few.equal(c.allowed(kind, 0)) and c.allowed(c.KINDS["8x8x4"], 0) is None
    run = c.training(kind, 0, 2, few)
    seen = {tuple(x.flatten()[:400].tolist()) for step in range(6) for x in run.batches(step)}
    assert seen <= {tuple(x.flatten()[:400].tolist()) for x in few}
    monkeypatch.setitem(c.KINDS, "forty", kind)
    model, _ = c.trained("forty", 0, 2)
    with torch.no_grad():
        z = model.encode(few)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), rtol=1e-3, atol=1e-3)


def test_worth_of_a_perfect_and_of_a_broken_model():
    class Perfect(c.LatentAutoencoder):
        """The picture is its own code."""
        def posterior(self, x):
            return x, torch.full_like(x, -10.)

        def decode(self, z):
            return z

        def encode(self, x):
            return x
    model = Perfect(c.REFERENCE)
    found = c.worth(model, 40, 0, (.02, 1.))
    assert found["psnr"] == 90. and found["same"] >= 39 and found["short waves"] == 1.
    assert found["noised"]["0.02"] >= 38 and found["noised"]["1.0"] == 0
    assert found["numbers"] == 3072 and found["std of draw"] == pytest.approx(2.718281828 ** -5, abs=1e-4)


def test_the_stored_record_is_whole():
    """Every kind and seed once, with counts that can be."""
    rows = json.loads((weights.TRAINED / "compressors.json").read_text())["rows"]
    assert sorted((row["model"], row["seed"]) for row in rows) == sorted((n, s) for n in c.KINDS for s in range(3))
    for row in rows:
        assert row["steps"] == c.STEPS and row["n"] == c.N and 0 <= row["same"] <= c.N
        assert row["inside"] < row["psnr"]
        counts = [row["same"], *row["noised"].values()]
        assert all(b <= a + c.N / 50 for a, b in zip(counts, counts[1:], strict=False))           # noise does not help
