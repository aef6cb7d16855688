"""The README's pictures and figures, made from the shipped weights: python benchmarks/readme.py

Writes benchmarks/painted.png, benchmarks/learning.png and benchmarks/scoreboard.png (chapter 8's own figure), and puts
the measured figures between the README's marks.
"""
import base64
import json
import re
from pathlib import Path

import torch

from minidiff import plot, weights

HERE = Path(__file__).parent
SENTENCES = ["a red circle above a blue square on black", "a large yellow star at the top left on navy",
             "a small green ring to the left of a large pink triangle on cream",
             "深蓝色背景上，一个大的白色星形在一个小的橙色十字形的左边", "something purple on grey",
             "a picture of a small white cross below a large orange circle on navy"]


def painted() -> plot.Picture:
    """The first picture that `minidiff paint` gives for each of the six sentences: seed 0, none is chosen."""
    model = weights.load("text-to-image")
    pictures = torch.cat([model.paint([sentence], seed=0) for sentence in SENTENCES])
    return plot.grid(pictures, SENTENCES, title="Six sentences, and the first picture painted for each", columns=6,
                     alt="six small pictures of coloured shapes, each under the sentence it was painted for")


def learning(first: list[dict], second: list[dict]) -> plot.Picture:
    """Accuracy against minutes of training, by attribute, for two objects in a relation."""
    curve, x = first + second, [row["minutes"] for row in first]
    x += [x[-1] + row["minutes"] for row in second]
    names = ("number", "relation", "colour", "size", "shape", "right")
    lines = {name: (x, [100 * row["accuracy"]["two objects, seen"][name] for row in curve]) for name in names}
    return plot.curves(lines, title="What the model learns when, of captions with two objects",
                       xlabel="minutes of training (from 75 on: one core)", ylabel="captions kept, % (128 a point)",
                       alt="accuracy against training minutes, one line an attribute")


def scoreboard(path: Path = HERE.parent / "notebooks" / "08_fid_and_clip_score.ipynb") -> plot.Picture:
    """The picture that chapter 8's notebook holds, by the first words of its alt text."""
    outputs = [o for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] for o in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    alts = {o["metadata"]["image/png"]["alt"]: o["data"]["image/png"] for o in pictures}
    alt, = (alt for alt in alts if alt.startswith("A dot for each"))
    return plot.Picture(base64.b64decode(alts[alt]), alt)


def figures() -> str:
    """The README's tables."""
    model, code = weights.describe("text-to-image"), weights.describe("latent-autoencoder")
    clip = weights.describe("clip")
    english, chinese = model["quality"]["en"], model["quality"]["zh"]
    first, second = model["minutes"]
    rows = "\n".join(f"| {name} | {english[name]['right']} | {chinese[name]['right']} |" for name in english)
    return f"""
How often the shipped model paints what it is told, by the oracle (complete captions, 25 steps, scale 3, seeds used
once, 95 % intervals):

| captions | right, in English | in Chinese |
|---|---|---|
{rows}

*Right* is a legal picture with the right number of things and every attribute and relation that the caption names. The
held-out pairs (six of colour and shape) and relations (two) are in no training picture or caption. The intervals are
for captions and noise; the model is one training run.

![accuracy against minutes of training](benchmarks/learning.png)

(Up to minute {first:.0f} the curve was read by the oracle as it was then, slightly milder than the one that the table
uses. There the second stage begins, which dwells on pictures of two things, often alike, and on the times at which it
is decided which of them has which shape and colour: the learning rate rises again, then the errors halve.)

Trained from nothing: the auto-encoder in {code['minutes']:.0f} minutes on one core beside CLIP with its text encoder in
{clip['minutes']:.0f} on the other, then the U-Net in {first:.0f} on both and {second:.0f} on one of them
({model['machine']}); again with
`python -m minidiff train latent-autoencoder`, then `clip`, then `text-to-image`. The auto-encoder reaches
{code['quality']['psnr']} dB ({code['quality']['psnr inside objects']} dB inside objects), and its reconstructions
are read as the same scene in {code['quality']['read as the same scene']}. `python -m minidiff score --seed 2` measures
the table with other seeds, `python benchmarks/speed.py` the speed of everything.
"""


if __name__ == "__main__":
    painted().save(HERE / "painted.png")
    scoreboard().save(HERE / "scoreboard.png")
    learning(*weights.describe("text-to-image")["curve"]).save(HERE / "learning.png")
    readme = HERE.parent / "README.md"
    text, marks = readme.read_text(encoding="utf-8"), r"(<!-- figures -->).*?(<!-- end of figures -->)"
    readme.write_text(re.sub(marks, lambda m: m[1] + figures() + m[2], text, flags=re.S), encoding="utf-8")
