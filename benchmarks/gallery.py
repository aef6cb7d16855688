"""The README's gallery, made from the shipped weights: python benchmarks/gallery.py

Writes benchmarks/edited.png, benchmarks/film.gif and benchmarks/between.png; the last two are what the README's
commands write. Seed 0 throughout.
"""
from pathlib import Path

import torch

from minidiff import plot, weights
from minidiff.__main__ import main

HERE = Path(__file__).parent
FROM, TO = "a large red circle at the left on navy", "a large green star on navy"
STRENGTHS = (0., .5, .6, .65, .7, .75, .8, 1.)


def edited() -> plot.Picture:
    """One picture painted over by a caption without a place, more and more strongly."""
    model = weights.load("text-to-image")
    picture = model.paint([FROM])
    pictures = torch.cat([model.edit(picture, [TO], strength) for strength in STRENGTHS])
    return plot.grid(pictures, [f"{strength:g}" for strength in STRENGTHS], columns=len(STRENGTHS),
                     title=f"A red circle, painted over by “{TO}” with rising strength",
                     alt="up to strength 0.6 the red circle stays; at 0.65 a star in orange, at 0.7 and 0.75 a green "
                         "star is where it was; at 0.8 and 1 the green star is elsewhere")


if __name__ == "__main__":
    edited().save(HERE / "edited.png")
    main(["film", "a red circle above a blue square on black", "-o", str(HERE / "film.gif")])
    main(["interpolate", FROM, "a large yellow star at the right on navy", "-o", str(HERE / "between.png")])
