"""The recipes from end to end, a few steps each: interrupted, resumed, measured, written, read back."""
import importlib
import json
import pkgutil
import shutil

import pytest
import torch

from minidiff import recipes, weights
from minidiff.data import noise
from minidiff.latent import LatentAutoencoder, LatentConfig
from minidiff.recipes import RECIPES, about, drawing, latent_diffusion
from minidiff.recipes.about import Notes
from minidiff.train import Training


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Checkpoints of this test alone."""
    for module in (latent_diffusion, drawing):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    return tmp_path


def interrupted(monkeypatch, after):
    """Let the next training be stopped by Ctrl-C after so many steps."""
    usual = Training.step

    def step(self):
        if len(self.logs) == after:
            raise KeyboardInterrupt
        return usual(self)
    monkeypatch.setattr(Training, "step", step)
    return lambda: monkeypatch.setattr(Training, "step", usual)


def test_an_interrupted_recipe_makes_the_same_file(runs, monkeypatch):
    latent_diffusion.latent_autoencoder(runs / "whole", steps=3, n=8)
    shutil.rmtree(runs / "runs")
    back = interrupted(monkeypatch, after=2)
    with pytest.raises(KeyboardInterrupt, match="after 2 of 3 steps"):
        latent_diffusion.latent_autoencoder(runs / "broken", steps=3, n=8)
    back()
    latent_diffusion.latent_autoencoder(runs / "broken", steps=3, n=8)
    one, two = (weights.load(runs / name / "latent-autoencoder.safetensors") for name in ("whole", "broken"))
    assert all(p.equal(q) for p, q in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    told = weights.describe(runs / "broken" / "latent-autoencoder.safetensors")
    assert told["steps"] == 3 and {"psnr", "read as the same scene"} <= told["quality"].keys()


def test_the_larger_decoder_begins_as_the_smaller_one_and_leaves_the_codes_alone(runs):
    for name in ("latent-autoencoder", "text-encoder", "text-to-image"):
        shutil.copy(weights.TRAINED / f"{name}.safetensors", runs)
    latent_diffusion.latent_autoencoder_64(runs, steps=(2, 2), n=4)
    small = weights.load("latent-autoencoder")
    told, large = weights.describe(runs / "latent-autoencoder-64.safetensors"), weights.load(
        runs / "latent-autoencoder-64.safetensors")
    assert all(p.equal(large.encoder.state_dict()[name]) for name, p in small.encoder.state_dict().items())
    assert large.mean.equal(small.mean) and large.std.equal(small.std)
    assert len(told["minutes"]) == 2 and set(told["quality"]["painted"]["one object, seen"]) == {"32", "64"}
    begun = latent_diffusion.enlarged(small)
    with torch.no_grad():
        z = noise((2, 4, 8, 8), 0)
        seen = [m.decoder.net[:7](z * m.std + m.mean) for m in (small, begun)]            # up to the last doubling
    torch.testing.assert_close(*seen)


def test_codes_are_shaken_by_what_is_said():
    """With a decoder that gives the code back, the loss is the mean variance of the noise: most^2 / 3."""
    class Mirror(LatentAutoencoder):
        def encode(self, x):
            return x

        def decode(self, z):
            return z
    torch.manual_seed(0)
    model, x = Mirror(LatentConfig()), torch.zeros(4000, 3, 4, 4)
    assert float(latent_diffusion.shaken(model, x, .6)["loss"]) == pytest.approx(.12, rel=.05)


def test_text_to_image_trains_on_its_frozen_parts_alone(runs):
    for name in ("latent-autoencoder", "text-encoder"):
        shutil.copy(weights.TRAINED / f"{name}.safetensors", runs)
    latent_diffusion.text_to_image(runs, steps=(2, 3), n=4)
    path = runs / "text-to-image.safetensors"
    told, model = weights.describe(path), weights.load(path)
    assert set(told["quality"]) == {"en", "zh"} and len(told["quality"]["en"]) == 5
    assert told["curve"] == [[], []] and told["steps"] == [2, 3] and len(told["minutes"]) == 2
    shipped = weights.load("latent-autoencoder").state_dict()
    assert all(p.equal(shipped[name]) for name, p in model.autoencoder.state_dict().items())


def test_a_second_stage_of_an_earlier_run_is_not_taken_up(runs, monkeypatch):
    """The first checkpoint deleted, the second forgotten: both stages are trained anew."""
    for name in ("latent-autoencoder", "text-encoder"):
        shutil.copy(weights.TRAINED / f"{name}.safetensors", runs)
    monkeypatch.setattr(latent_diffusion, "measured", lambda path, measure: None)
    latent_diffusion.text_to_image(runs, steps=(1, 1))
    (runs / "runs" / "text-to-image.safetensors").unlink()
    steps, usual = [], Training.step
    monkeypatch.setattr(Training, "step", lambda self: steps.append(self.seed) or usual(self))
    latent_diffusion.text_to_image(runs, steps=(1, 1))
    assert steps == [0, 1]


def test_hard_times_are_around_the_noise_at_which_things_are_decided():
    torch.manual_seed(0)
    t = latent_diffusion.dwelling(20_000)
    even, odd = t[::2], t[1::2]
    assert abs(float(even.mean()) - .5) < .01 and abs(float((even < .25).float().mean()) - .25) < .02
    assert abs(float(odd.median()) - .7) < .01 and float(((odd > .5) & (odd < .85)).float().mean()) > .65


def test_pixel_gpt_tells_how_near_it_came(runs):
    drawing.pixel_gpt(runs, steps=2, n=6)
    told, model = weights.describe(runs / "pixel-gpt.safetensors"), weights.load(runs / "pixel-gpt.safetensors")
    quality = told["quality"]
    assert quality["bits a picture"] > 500 and 0 < quality["least possible"] < 12
    assert quality["right, train"].startswith("0.0 %")
    assert len(model.palette.unique(dim=0)) == 64


def test_grey_models_are_compared_by_the_same_number(runs):
    """An untrained network is about as good as dice of 8 sides, 3 bits for each of 256 pixels; the linear is fitted."""
    drawing.grey(runs, seeds=1, steps=1, n=2)
    rows = {row["model"]: row for row in json.loads((runs / "grey.json").read_text())["rows"]}
    assert set(rows) == {"linear", "logistic", "convolution", "pixel gpt"}
    assert 270 < rows["linear"]["bits"] < 290 and all(400 < rows[k]["bits"] < 900 for k in list(rows)[1:])
    world, greys, codes = drawing.grey_world()
    assert len(world) == len(codes.unique(dim=0)) == 216 and (greys.diff(dim=0) > 0).all()


def test_a_stored_row_can_be_made_again():
    """One seed of the quickest network, with all its steps."""
    stored = json.loads((weights.TRAINED / "grey.json").read_text())
    (kept,) = (row for row in stored["rows"] if (row["model"], row["seed"]) == ("logistic", 0))
    again = drawing.networked("logistic", 0, stored["steps"], 20)
    assert abs(again["bits"] - kept["bits"]) < .1 and again["legal"] <= 12


def test_every_recipe_has_its_own_name():
    names = [module.name for module in pkgutil.iter_modules(recipes.__path__)]
    modules = [importlib.import_module(f"minidiff.recipes.{name}") for name in names]
    assert len(RECIPES) == sum(len(getattr(module, "RECIPES", ())) for module in modules)


def test_notes_outlive_an_interruption_but_not_a_new_start(tmp_path, capsys):
    row = {"accuracy": {"a": {"right": .5}}}
    notes = Notes(tmp_path / "curve.json", 0)
    notes.add(row | {"step": 10})
    notes.add(row | {"step": 20})
    assert Notes(tmp_path / "curve.json", 20).has(20)
    assert [r["step"] for r in Notes(tmp_path / "curve.json", 15).rows] == [10]       # resumed from before the last row
    assert Notes(tmp_path / "curve.json", 0).rows == []                               # a new run


def test_mean_losses_are_those_of_the_steps_between_the_lines(capsys):
    model = torch.nn.Linear(1, 1)
    run = Training(model, lambda x: {"loss": model(x).square().mean()}, lambda k: torch.ones(2, 1), steps=5)
    logs = list(about.followed(run, "tiny", every=2))
    lines = capsys.readouterr().out.splitlines()
    for line, part in zip(lines, (logs[:2], logs[2:4], logs[4:]), strict=True):
        mean = sum(log.losses["loss"] for log in part) / len(part)
        assert line.endswith(f"loss {mean:.4g}")
