"""The command line as a newcomer meets it, with the shipped weights."""
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidiff import captions, oracle, weights
from minidiff.__main__ import main, read
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


def test_larger_pictures_show_the_same_scene(tmp_path):
    for side in ("32", "64"):
        output = str(tmp_path / f"{side}.png")
        assert main(["paint", SENTENCE, "-n", "1", "--steps", "8", "--side", side, "-o", output]) == 0
    small, large = (Image.open(tmp_path / f"{side}.png").convert("RGB") for side in ("32", "64"))
    assert small.size == large.size
    pictures = read(str(tmp_path / "32.png"), 32), read(str(tmp_path / "64.png"), 64)
    a, b = (oracle.read(x)[0] for x in pictures)
    assert a is not None and oracle.same(a, b)


def test_foreign_codes_are_not_given_to_the_larger_decoder(tmp_path, monkeypatch, capsys):
    model = weights.load("text-to-image")
    model.autoencoder.std.mul_(2)
    monkeypatch.setattr(weights, "load", lambda name, load=weights.load: model if "mine" in str(name) else load(name))
    output = str(tmp_path / "p.png")
    assert main(["paint", SENTENCE, "-n", "1", "--steps", "1", "--side", "64", "--weights", "mine", "-o", output]) == 2
    assert "paints other codes than the decoder for side 64 reads" in capsys.readouterr().err


def test_film(tmp_path):
    assert main(["paint", SENTENCE, "-n", "1", "--steps", "4", "-o", str(tmp_path / "p.png"),
                 "--film", str(tmp_path / "p.gif")]) == 0
    with Image.open(tmp_path / "p.gif") as film:
        assert film.n_frames >= 3


    assert main(["film", SENTENCE, "--steps", "4", "-o", str(tmp_path / "f.gif")]) == 0
    assert (tmp_path / "f.gif").read_bytes() == (tmp_path / "p.gif").read_bytes()


def test_an_edited_painting(tmp_path, capsys):
    """What `paint -n 1` writes is enlarged four times, and read back as it was: at no strength it stays the picture."""
    painted, edited = str(tmp_path / "p.png"), str(tmp_path / "e.png")
    assert main(["paint", SENTENCE, "-n", "1", "--steps", "5", "-o", painted]) == 0
    assert main(["edit", painted, "a star", "--strength", "0", "-n", "2", "-o", edited]) == 0
    assert "2 pictures of 'a star' out of" in capsys.readouterr().out
    with Image.open(painted) as before, Image.open(edited) as after:
        assert after.size == (2 * 32 * 4 + 8, 128)
        off = np.asarray(before, float) - np.asarray(after.crop((0, 0, 128, 128)), float)
    assert 10 * np.log10(255 ** 2 / np.square(off).mean()) > 30


def test_an_edit_keeps_the_place_and_follows_the_caption(tmp_path):
    """The README's own: a star, of which nobody says where, stands where the circle was."""
    model = weights.load("text-to-image")
    circle = model.paint(["a large red circle at the left on navy"]).expand(4, -1, -1, -1)
    assert oracle.prompt_accuracy(model.edit(circle, ["a large green star on navy"] * 4, .7),
                                  ["a large green star at the left on navy"] * 4)["right"].value == 1


def test_a_picture_is_read_by_averaging_boxes_on_white(tmp_path):
    levels = torch.randint(256, (96, 96, 4), generator=rng("levels"), dtype=torch.uint8)
    levels[..., 3] = 255
    levels[:3, :3, 3] = 0                                           # one box is transparent
    Image.fromarray(levels.numpy()).save(tmp_path / "p.png")
    means = levels[..., :3].float().reshape(32, 3, 32, 3, 3).mean((1, 3))
    means[0, 0] = 255
    got = (read(str(tmp_path / "p.png"), 32)[0].permute(1, 2, 0) + 1) * 127.5
    assert (got - means).abs().max() <= .6                                # rounded to whole levels


def test_pictures_that_cannot_be_edited_are_named(tmp_path, capsys):
    """Each by a sentence with its name, and nothing is written."""
    Image.new("RGB", (128, 64)).save(tmp_path / "wide.png")
    Image.new("RGB", (100, 100)).save(tmp_path / "odd.png")
    Image.new("I;16", (32, 32)).save(tmp_path / "deep.png")
    Image.effect_noise((32, 32), 50).save(tmp_path / "whole.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    said = {"wide.png": "128 x 64 pixels, but pictures are 32 x 32 or a whole multiple", "odd.png": "100 x 100 pixels",
            "deep.png": "more than 8 bits", "damaged.png": "cannot be read as a picture",
            "text.png": "cannot be read as a picture", "none.png": "there is no file"}
    for name, why in said.items():
        assert main(["edit", str(tmp_path / name), "a star", "-o", str(tmp_path / "out.png")]) == 2
        error = capsys.readouterr().err
        assert why in error and name in error and "Traceback" not in error
    for options, why in ((["a star", "--strength", "2"], "from 0"), (["a stra"], "star")):
        assert main(["edit", str(tmp_path / "whole.png"), *options, "-o", str(tmp_path / "out.png")]) == 2
        assert why in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_interpolate(tmp_path, capsys):
    line = ["interpolate", "a red circle", "a blue star", "--steps", "3", "-o", str(tmp_path / "b.png")]
    assert main([*line, "-n", "3"]) == 0 and "from 'a red circle' to 'a blue star'" in capsys.readouterr().out
    with Image.open(tmp_path / "b.png") as row:
        assert row.size == ((3 * 34 - 2) * 4, 128)
    assert main([*line, "-n", "1"]) == 2 and "at least 2" in capsys.readouterr().err


@pytest.mark.parametrize("sentence, near", [("a crimson circle", "red"), ("a red cirle", "circle"), ("a dog", "red")])
def test_an_unknown_word_is_named_and_nothing_is_written(tmp_path, capsys, sentence, near):
    for verb in (["paint"], ["film"], ["edit", "any.png"], ["interpolate", "a ring"]):
        assert main([*verb, sentence, "-o", str(tmp_path / "p.png")]) == 2
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
