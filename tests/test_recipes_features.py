"""The feature network: its questions by the words of the scenes, its unit, and what the shipped file answers."""
import pytest
import torch

from minidiff import weights
from minidiff.data import rng
from minidiff.metrics import Features, FeaturesConfig
from minidiff.recipes import features as f
from minidiff.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, full, render


def test_questions_are_what_the_scenes_tell_in_words():
    scenes = full(300, rng("questions"))
    scenes = scenes[~((scenes.xy == 3 / 8) | (scenes.xy == 5 / 8)).any(2).any(1)]           # none on a border
    asked = f.questions(scenes)
    words = ["there", *COLOURS, *SHAPES, *SIZES]
    names = [(place, word) for place in PLACES for word in words] + list(BACKGROUNDS)
    assert asked.shape == (len(scenes), len(names)) and len(scenes) > 250
    for scene, row in zip(scenes, asked.bool().tolist(), strict=True):
        told = {(thing.place, word) for thing in scene.things
                for word in ("there", thing.colour, thing.shape, thing.size)} | {scene.background}
        assert {name for name, yes in zip(names, row, strict=True) if yes} == told


def test_features_are_scaled_and_answers_stay():
    torch.manual_seed(0)
    model, x = Features(FeaturesConfig()).eval(), render(full(64, rng("x")))
    with torch.no_grad():
        before, answers = model(x), model.logits(x)
        f.scaled(model, 1000)
        assert torch.allclose(model.logits(x), answers, atol=1e-5)
        assert torch.allclose(model(x) * model.unit, before, rtol=1e-4)
        fresh = torch.cat([model(render(full(500, rng("fresh", k)))) for k in range(2)])
    assert fresh.var(0).mean() == pytest.approx(1, rel=.1)


def test_a_short_training_learns_and_writes_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(f, "RUNS", tmp_path)
    run = f.training(40)
    losses = [log.losses["loss"] for log in run]
    assert sum(losses[-5:]) < .9 * sum(losses[:5])
    (tmp_path / "features.safetensors").unlink()
    (tmp_path / "files").mkdir()
    f.features(tmp_path / "files", 2, 20)
    quality = weights.describe(tmp_path / "files" / "features.safetensors")["quality"]
    assert quality.keys() == {"train", "one, held-out pair"}


def test_what_the_shipped_file_answers():
    model, about = weights.load("features"), weights.describe("features")
    fresh = {split: f.answered(model, 1000, split) for split in about["quality"]}
    for split, found in fresh.items():
        assert abs(found["all right"] - about["quality"][split]["all right"]) < .06
        assert found["questions right"] > .99
    with torch.no_grad():
        x = model(render(full(1000, rng("unit"))))
    assert x.var(0).mean() == pytest.approx(1, rel=.1)
