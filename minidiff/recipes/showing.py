"""Chapter 6's comparison of two ways to paint over a picture: shown to the network as keys and values, or noised.

One small network learns both: it is told a caption of what it paints, and half of the time it is shown the picture
before the change, as words beside the caption's. Then it edits with the picture shown, or without, from noised codes.
It is told the new colour alone, so whatever else comes out right must come from the picture.
"""
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff import captions, weights
from minidiff.data import batches, noise, rng
from minidiff.denoiser import Denoiser
from minidiff.guidance import cfg_doubled
from minidiff.oracle import analyse
from minidiff.recipes import painters as p
from minidiff.recipes.about import RUNS, fast_precision, made, recorded
from minidiff.recipes.painting import encoded, read_once, tidied, tidy
from minidiff.samplers import dpmpp_path, last
from minidiff.scenes import COLOURS, Scene, render
from minidiff.schedules import add_noise, times, trigonometric
from minidiff.text import Text
from minidiff.train import Training
from minidiff.unet import UNet

STEPS, BATCH, POOL, N = 1200, 64, 10_000, 256
STRENGTHS = .4, .5, .6, .7, .8, .9, 1.                            # the last forgets the picture
WORDS = 16                                                        # that a code is cut into, 2 x 2 cells each


class Told(NamedTuple):
    """A caption, the code of the picture before, and whether it is shown."""
    text: Text
    before: Float[Tensor, "b 4 8 8"]
    shown: Bool[Tensor, "b"]


class Seeing(nn.Module):
    """The U-Net of the other painters; the picture's squares stand among the words that its places ask."""

    def __init__(self):
        super().__init__()
        self.net, self.look = UNet(p.NET), nn.Linear(4 * 4, p.NET.d_text)
        self.place = nn.Parameter(torch.randn(WORDS, p.NET.d_text) * .3)

    def forward(self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], cond: Told) -> Float[Tensor, "b c h w"]:
        """The network's answer; a picture that is not shown is masked like padding."""
        squares = F.unfold(cond.before, 2, stride=2).transpose(1, 2)                            # [b, 16, 16]
        tokens = torch.cat([cond.text.tokens, self.look(squares) + self.place], 1)
        mask = torch.cat([cond.text.mask, cond.shown[:, None].expand(-1, WORDS)], 1)
        return self.net(x, t, Text(tokens, cond.text.pooled, mask))


class Edits:
    """Scenes of one thing, the same in another colour, and the captions of the latter; the last row tells nothing."""

    def __init__(self, n: int, *key: int | str, colour_alone: bool = False):
        self.before = tidy(n, rng("edits", *key), "one")
        step = torch.randint(1, len(COLOURS), (n, 1), generator=rng("recoloured", *key))
        other = (self.before.colour + step) % len(COLOURS)
        self.after = replace(self.before, colour=torch.where(self.before.shape >= 0, other, self.before.colour))
        self.lines = captions.write(self.after, rng("told", *key))
        if colour_alone:
            self.lines = [f"something {scene.things[0].colour}" for scene in self.after]
        self.text = read_once(p.pretrained(), captions.encode([*self.lines, ""]))
        self.codes, self.wanted = (encoded(p.shipped(), render(s)) for s in (self.before, self.after))

    def told(self, rows: Tensor) -> Text:
        """Rows of the captions."""
        return Text(*(part[rows] for part in self.text))


def training(edits: Edits, seed: int, steps: int) -> Training:
    """One caption in ten is left out, every second picture is not shown."""
    model, n = made(lambda: Denoiser(Seeing(), trigonometric, "v"), seed), len(edits.lines)

    def loss(rows: Tensor) -> dict[str, Tensor]:
        heard = torch.where(torch.rand(len(rows)) < .1, n, rows)
        told = Told(edits.told(heard), edits.codes[rows], torch.rand(len(rows)) < .5)
        return {"loss": model.loss(edits.wanted[rows], torch.rand(len(rows)), told)}
    return Training(model, loss, batches(torch.arange(n), BATCH, seed), steps=steps, lr=3e-3, warmup=100, ema=.99,
                    seed=seed, autocast=fast_precision())


@torch.no_grad()
def edited(model: nn.Module, edits: Edits, seed: int, *, shown: bool = False,
           strength: float = 1.) -> Float[Tensor, "n 3 32 32"]:
    """All edits, at scale 3, from the noised code (strength 1: from noise alone), with the picture shown or not."""
    n = len(edits.lines)
    told = edits.told(torch.cat([torch.arange(n), torch.full((n,), n)]))
    both = Told(told, edits.codes.repeat(2, 1, 1, 1), torch.full((2 * n,), shown))
    t, z = strength * times(round(15 * strength)), noise((n, 4, 8, 8), seed)
    if strength < 1:
        z = add_noise(trigonometric, edits.codes, t[0], z)
    guess = cfg_doubled(partial(model, cond=both), 3.)
    return p.shipped().decode(last(dpmpp_path(guess, z, t, trigonometric))).clamp(-1, 1)


def judged(pictures: Float[Tensor, "n 3 32 32"], edits: Edits) -> dict:
    """By the nearest scene of each picture, legal or not: the new colour obeyed, all else kept, both."""
    reading, votes = analyse(pictures), {"of": len(edits.lines), "obeys": 0, "keeps": 0, "both": 0, "legal": 0}

    def colourless(scene: Scene) -> Scene:
        return replace(scene, things=tuple(replace(thing, colour="red") for thing in scene.things))
    votes["legal"] = int(reading.legal.sum())
    for scene, before, after in zip(map(tidied, reading.scenes), edits.before, edits.after, strict=True):
        before, after = tidied(before), tidied(after)
        votes["obeys"] += [t.colour for t in scene.things] == [t.colour for t in after.things]
        votes["keeps"] += colourless(scene) == colourless(before)
        votes["both"] += scene == after
    return votes


def row(seed: int, steps: int = STEPS, n: int = N) -> dict:
    """What both ways reach from one seed."""
    run = training(Edits(POOL, "learned", seed), seed, steps)
    for _ in run:
        pass
    model, edits = run.averaged.eval(), Edits(n, "judged", seed, colour_alone=True)
    return {"seed": seed, "steps": steps, "seconds": round(run.logs[-1].seconds, 1),
            "shown": judged(edited(model, edits, seed, shown=True), edits),
            "restarted": {str(s): judged(edited(model, edits, seed, strength=s), edits) for s in STRENGTHS}}


def compared(folder: Path = weights.TRAINED, seeds: int = 3) -> None:
    """showing.json: all rows; an interrupted run keeps what it has in runs/."""
    rows = {f"showing-{seed}": partial(row, seed) for seed in range(seeds)}
    recorded(folder / "showing.json", "showing.compared", rows, RUNS)


RECIPES = {"showing": compared}
