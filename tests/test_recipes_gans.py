"""The recipes of chapter 4: what they count with, against scenes whose counts are known; small runs from end to end."""
import json
import math

import pytest
import torch

from minidiff import weights
from minidiff.gan import Discriminator, Generator
from minidiff.recipes import gans
from minidiff.recipes.quality import legible
from minidiff.scenes import render, single


def test_coverage_counts_scenes_and_their_evenness():
    """Scenes drawn by hand: one three times, one once, a held-out pair, a thing off its place, fog."""
    train, other = single(), single("held out")
    moved = train[:1]
    moved.xy.add_(1 / 16)
    some = [train[10:11]] * 3 + [train[2000:2001], other[5:6], moved]
    x = torch.cat([*(render(scene, 16) for scene in some), torch.zeros(1, 3, 16, 16)])
    found = gans.covered(x)
    counts = [found[name] for name in ("n", "legal", "of the world", "scenes", "held-out pairs")]
    assert counts == [7, 6, 4, 2, 1]
    assert found["entropy"] == pytest.approx(-(.75 * math.log(.75) + .25 * math.log(.25)), abs=1e-3)


def test_all_scenes_have_keys_of_their_own_and_true_draws_cover_them_as_chance_says():
    keys = {gans.key(scene) for split in ("train", "held out") for scene in single(split)}
    assert len(keys) == 4 * 6 * 8 * 2 * 9 and None not in keys
    n, k = 1500, len(single())
    found = gans.covered(gans.singles(n, 3)(0))
    expected = k * (1 - (1 - 1 / k) ** n)
    assert found["legal"] == found["of the world"] == n and abs(found["scenes"] - expected) < 40
    assert found["short waves"] == pytest.approx(1, abs=.05)


def test_noise_is_added_where_it_is_asked_for():
    clean, noisy = gans.singles(40, 1)(2), gans.singles(40, 1, std=.1)(2)
    assert float((noisy - clean).std()) == pytest.approx(.1, rel=.02) and abs(float((noisy - clean).mean())) < .005


def test_vae_gan_teaches_the_encoder_by_features_and_the_decoder_by_both():
    """Larsen et al. 2016, algorithm 1: D's verdict reaches the decoder, never the encoder."""
    vae, d = gans.HYBRIDS["VAE"].build(), Discriminator(gans.SMALL_D)
    x = gans.singles(4)(0)
    loss = gans.behind_vae(vae, d)["g"](x)
    parts = [list(part.parameters()) for part in (vae.encoder, vae.decoder)]
    reached = [torch.autograd.grad(loss["fooled"], part, retain_graph=True, allow_unused=True) for part in parts]
    assert all(p is None for p in reached[0]) and any(p is not None and p.abs().max() > 0 for p in reached[1])
    reached = torch.autograd.grad(loss["loss"], parts[0], retain_graph=True)
    assert any(p.abs().max() > 0 for p in reached)
    mean, std = vae.posterior(x)
    assert torch.allclose(loss["kl"], torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0., 1.)).sum(1).mean(), rtol=1e-4)


def test_flow_gan_adds_the_two_losses():
    flow, d = gans.HYBRIDS["Flow"].build().train(), Discriminator(gans.SMALL_D)
    x = gans.singles(8, std=.1)(0)
    flow.log_prob(x)                                               # its first batch sets the scales of ActNorm
    said = gans.behind_flow(flow, d, weight=.5)["g"](x)
    assert torch.allclose(said["loss"], -flow.log_prob(x).mean() / 768 + .5 * said["fooled"], atol=1e-5)


@pytest.mark.parametrize("recipe, name", [(gans.gan, "gan"), (gans.gan_single, "gan-single")])
def test_a_recipe_writes_what_it_measured(tmp_path, monkeypatch, recipe, name):
    monkeypatch.setattr(gans, "RUNS", tmp_path / "runs")
    recipe(tmp_path, steps=2, n=20)
    path = tmp_path / f"{name}.safetensors"
    told, model = weights.describe(path), weights.load(path)
    assert isinstance(model, Generator) and path.stat().st_size < 1_000_000
    assert told["quality"]["n"] == 20 and told["steps"] == 2 and told["recipe"] == f"gans.{name.replace('-', '_')}"
    assert model.sample(2, seed=0).shape[1:] == model.config.shape


def test_the_comparison_has_a_row_for_each_model_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(gans, "GAMES", {"R1": gans.GAMES["R1"]})
    gans.games(tmp_path, seeds=1, n=1000, share=1e-9)
    rows = json.loads((tmp_path / "gans.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["true draws", "R1", "VAE", "VAE+GAN", "Flow", "Flow+GAN"]
    assert rows[0]["legal"] == 1000 and rows[1]["steps"] == 1 and rows[4]["KL"] > 0 and "KL" not in rows[2]
    assert rows[1]["legal"] == 0 and rows[1]["entropy"] == 0


@pytest.mark.parametrize("name, share", [("gan", lambda told: float(told["legal"].split()[0]) / 100),
                                         ("gan-single", lambda told: told["legal"] / told["n"])])
def test_the_shipped_file_is_as_good_as_it_says(name, share):
    """Fresh samples on a seed that measured nothing: within four standard errors of the stored share of legal ones."""
    n, told = 500, share(weights.describe(name)["quality"])
    found = sum(scene is not None for scene in legible(weights.load(name).sample(n, seed=1234))) / n
    assert .2 < told and abs(found - told) < 4 * math.sqrt(told * (1 - told) / n)


def test_stored_rows_are_whole_and_the_first_is_made_again():
    """Every model has three seeds; the counts of each row fit together; true draws can be read again exactly."""
    rows = json.loads((weights.TRAINED / "gans.json").read_text())["rows"]
    names = ["true draws", *gans.GAMES, *(kind + more for kind in gans.HYBRIDS for more in ("", "+GAN"))]
    assert sorted((row["model"], row["seed"]) for row in rows) == sorted((name, k) for name in names for k in range(3))
    for row in rows:
        assert sum(row["repeats"].values()) == row["scenes"]
        assert sum(int(k) * m for k, m in row["repeats"].items()) == row["of the world"] <= row["legal"] <= row["n"]
        setting = gans.GAMES.get(row["model"])
        assert setting is None or row["steps"] == setting.steps
    again = gans.covered(gans.singles(20_000, 1000)(0))
    assert rows[0] == {"model": "true draws", "seed": 0, **again}
