"""The recipes from end to end, a few steps each: interrupted, resumed, measured, written, read back."""
import shutil

import pytest
import torch

from minidiff import weights
from minidiff.recipes import about, latent_diffusion
from minidiff.recipes.about import Notes
from minidiff.train import Training


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Checkpoints of this test alone."""
    monkeypatch.setattr(latent_diffusion, "RUNS", tmp_path / "runs")
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


def test_text_to_image_trains_on_its_frozen_parts_alone(runs):
    for name in ("latent-autoencoder", "text-encoder"):
        shutil.copy(weights.TRAINED / f"{name}.safetensors", runs)
    latent_diffusion.text_to_image(runs, steps=2, n=4)
    path = runs / "text-to-image.safetensors"
    told, model = weights.describe(path), weights.load(path)
    assert set(told["quality"]) == {"en", "zh"} and len(told["quality"]["en"]) == 5 and told["curve"] == []
    shipped = weights.load("latent-autoencoder").state_dict()
    assert all(p.equal(shipped[name]) for name, p in model.autoencoder.state_dict().items())


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
