"""The command line as a newcomer meets it, with the shipped weights."""
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from minidiff import captions, oracle, weights
from minidiff.__main__ import main
from minidiff.data import rng
from minidiff.scenes import full

ROOT = Path(__file__).parent.parent
SENTENCE = "a red circle above a blue square on black"


def test_paint_writes_the_same_picture_twice(tmp_path, capsys):
    for name in ("one.png", "two.png"):
        assert main(["paint", SENTENCE, "-n", "2", "--steps", "5", "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size[0] > 64 and "one.png" in capsys.readouterr().out


def test_film(tmp_path):
    assert main(["paint", SENTENCE, "-n", "1", "--steps", "4", "-o", str(tmp_path / "p.png"),
                 "--film", str(tmp_path / "p.gif")]) == 0
    with Image.open(tmp_path / "p.gif") as film:
        assert film.n_frames >= 3


@pytest.mark.parametrize("sentence, near", [("a crimson circle", "red"), ("a red cirle", "circle"), ("a dog", "red")])
def test_an_unknown_word_is_named_and_nothing_is_written(tmp_path, capsys, sentence, near):
    assert main(["paint", sentence, "-o", str(tmp_path / "p.png")]) == 2
    said = capsys.readouterr().err
    assert next(w for w in sentence.split() if w in ("crimson", "cirle", "dog")) in said and near in said
    assert not list(tmp_path.iterdir())


def test_paint_into_a_missing_folder_says_so(tmp_path, capsys):
    assert main(["paint", SENTENCE, "-n", "1", "--steps", "1", "-o", str(tmp_path / "no" / "p.png")]) == 2
    assert "p.png" in capsys.readouterr().err


def test_train_refuses_an_unknown_recipe(capsys):
    assert main(["train", "everything"]) == 2 and "text-to-image" in capsys.readouterr().err


def test_list_names_the_shipped_models(capsys):
    assert main(["list"]) == 0
    assert all(name in capsys.readouterr().out for name in ["text-to-image"])


def test_exit_code_from_the_shell():
    command = [sys.executable, "-m", "minidiff", "paint", "a mauve circle"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "mauve" in done.stderr and "Traceback" not in done.stderr


def test_the_shipped_model_paints_what_it_is_told():
    """A small sample of the accuracy table, with other seeds than the table's."""
    model = weights.load("text-to-image")
    for split, least in (("one", .9), ("two", .75)):
        told = captions.write(full(40, rng("test", split), split), rng("told"), complete=True)
        assert oracle.prompt_accuracy(model.paint(told, seed=11), told)["right"].value >= least


def test_reconstructions_are_read_as_the_same_scene():
    from minidiff.recipes.latent_diffusion import reconstruction
    quality = reconstruction(weights.load("latent-autoencoder"), 300, seed=9)
    assert quality["psnr"] > 36 and quality["read as the same scene"].startswith("100.0 %")


def test_recorded_quality_is_there():
    about = weights.describe("text-to-image")
    assert {"recipe", "seed", "steps", "machine", "minutes", "quality", "curve"} <= about.keys()


def test_readme_examples_run(tmp_path, monkeypatch):
    """Both Python examples of the README, the training cut to a few steps."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(examples) == 2
    for code in examples:
        exec(compile(re.sub(r"steps=2000", "steps=3", code), "README", "exec"), {})
    assert (tmp_path / "digits.png").exists()
