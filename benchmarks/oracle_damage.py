"""How damaged may a picture be before the oracle refuses it? Graded damages of scenes, and what is read from them.

`python benchmarks/oracle_damage.py` prints the table and draws out/oracle_damage.png (the curves) and
out/oracle_damage_pictures.png (one scene, damaged step by step). The thresholds of `minidiff.oracle` were fixed on this
set, seed "validation", before any model was scored.
"""
import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff import oracle, plot
from minidiff.data import rng
from minidiff.oracle import Reading, analyse
from minidiff.scenes import COLOURS, SHAPES, SIZES, Scene, Scenes, coverage, full, render, rgb, single

SIZE = 32
LARGE = list(SIZES).index("large")
Damaged = tuple[Scenes, Tensor]                     # the scene that a mild damage still shows, and the damaged pictures


# --- the first thing of a scene apart from the rest -------------------------------------------------------------------

def cover(scenes: Scenes, scale: float = 1., shift: tuple[float, float] = (0., 0.)) -> Tensor:
    """Coverage [b 1 h w] of the first things, enlarged by `scale`, moved by `shift` pixels."""
    centres = (torch.arange(SIZE) + .5) / SIZE
    u = (centres - scenes.xy[:, 0, :1] - shift[0] / SIZE)[:, None, :].expand(-1, SIZE, -1) / scale
    v = (centres - scenes.xy[:, 0, 1:] - shift[1] / SIZE)[:, :, None].expand(-1, -1, SIZE) / scale
    return coverage(scenes, u, v)[:, None]


def paint(scenes: Scenes, over: Tensor, ink: Tensor | None = None) -> Tensor:
    """The scenes with the first thing drawn by another coverage, or in another colour [b 3]."""
    shape = scenes.shape.clone()
    shape[:, 0] = -1
    ink = rgb(COLOURS)[scenes.colour[:, 0]] if ink is None else ink
    return torch.lerp(render(replace(scenes, shape=shape), SIZE), ink[:, :, None, None], over)


def other(now: Tensor, table: dict, generator: torch.Generator) -> Tensor:
    """For each index another one of the table."""
    return (now + torch.randint(1, len(table), now.shape, generator=generator)) % len(table)


def ink_and_spot(scenes: Scenes, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A colour [b 3] and a place [b 2] for something that does not belong: of 64 random places the farthest off."""
    place = .15 + .7 * torch.rand(len(scenes), 64, 1, 2, generator=generator)
    gap = (place - scenes.xy[:, None]).norm(dim=-1).masked_fill((scenes.shape < 0)[:, None], 9).amin(2)
    colour = torch.randint(len(COLOURS), (len(scenes),), generator=generator)
    return rgb(COLOURS)[colour], place[:, :, 0][torch.arange(len(scenes)), gap.argmax(1)]


# --- the damages: (scenes, grade, generator) -> Damaged ---------------------------------------------------------------

def noise(scenes: Scenes, std: float, generator: torch.Generator) -> Damaged:
    """Gaussian noise on every pixel."""
    x = render(scenes, SIZE)
    return scenes, x + std * torch.randn(x.shape, generator=generator)


def blur(scenes: Scenes, std: float, generator: torch.Generator) -> Damaged:
    """A Gaussian blur of `std` pixels."""
    k = torch.exp(-torch.arange(-8, 9) ** 2 / (2 * std ** 2))
    k = (k / k.sum()).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(render(scenes, SIZE), (8, 8, 8, 8), mode="replicate"), k, groups=3)
    return scenes, F.conv2d(x, k.transpose(2, 3), groups=3)


def soft(scenes: Scenes, factor: float, generator: torch.Generator) -> Damaged:
    """Fewer pixels and back, as a careless auto-encoder would."""
    small = F.interpolate(render(scenes, SIZE), size=round(SIZE / factor), mode="bilinear", antialias=True)
    return scenes, F.interpolate(small, size=SIZE, mode="bilinear")


def blocks(scenes: Scenes, step: float, generator: torch.Generator) -> Damaged:
    """The cosine transform of each 8 x 8 block, rounded to multiples of `step`."""
    k = torch.arange(8.)
    dct = torch.cos(math.pi * (k + .5) * k[:, None] / 8) * torch.where(k == 0, 1 / 8, 1 / 4).sqrt()[:, None]
    x = render(scenes, SIZE).unfold(2, 8, 8).unfold(3, 8, 8)
    x = dct.T @ ((dct @ x @ dct.T / step).round() * step) @ dct
    return scenes, x.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def checks(scenes: Scenes, height: float, generator: torch.Generator) -> Damaged:
    """A checkerboard of single pixels, up and down by `height`."""
    k = torch.arange(SIZE)
    return scenes, render(scenes, SIZE) + height * (1 - 2 * (k[:, None] + k).remainder(2))


def faded(scenes: Scenes, share: float, generator: torch.Generator) -> Damaged:
    """The first thing part-way to the background."""
    return scenes, paint(scenes, cover(scenes) * (1 - share))


def recoloured(scenes: Scenes, share: float, generator: torch.Generator) -> Damaged:
    """The first thing part-way to another colour."""
    a, b = rgb(COLOURS)[scenes.colour[:, 0]], rgb(COLOURS)[other(scenes.colour[:, 0], COLOURS, generator)]
    return scenes, paint(scenes, cover(scenes), a.lerp(b, share))


def resized(scenes: Scenes, share: float, generator: torch.Generator) -> Damaged:
    """A large first thing part-way to small."""
    scenes = scenes[scenes.size[:, 0] == LARGE]
    return scenes, paint(scenes, cover(scenes, 1 - share * (1 - SIZES["small"] / SIZES["large"])))


def morphed(scenes: Scenes, share: float, generator: torch.Generator) -> Damaged:
    """The first thing part-way to another shape."""
    shape = torch.cat([other(scenes.shape[:, :1], SHAPES, generator), scenes.shape[:, 1:]], 1)
    return scenes, paint(scenes, cover(scenes).lerp(cover(replace(scenes, shape=shape)), share))


def erased(scenes: Scenes, share: float, generator: torch.Generator) -> Damaged:
    """That share of the first thing's width cut off, from a random side."""
    angle = 2 * math.pi * torch.rand(len(scenes), 1, 1, generator=generator)
    centres = (torch.arange(SIZE) + .5) / SIZE
    u, v = centres - scenes.xy[:, 0, :1], centres - scenes.xy[:, 0, 1:]
    radius = torch.tensor(list(SIZES.values()))[scenes.size[:, 0], None, None]
    along = (u[:, None] * angle.cos() + v[:, :, None] * angle.sin()) / radius
    return scenes, paint(scenes, cover(scenes) * (along > 2 * share - 1)[:, None])


def smeared(scenes: Scenes, pixels: float, generator: torch.Generator) -> Damaged:
    """The first thing drawn along a way of so many pixels to the right and left."""
    ways = [cover(scenes, shift=(pixels * s, 0.)) for s in torch.linspace(-.5, .5, 17).tolist()]
    return scenes, paint(scenes, torch.stack(ways).mean(0))


def blob(scenes: Scenes, radius: float, generator: torch.Generator) -> Damaged:
    """A disc too many, of so many pixels' radius."""
    ink, spot = ink_and_spot(scenes, generator)
    centres = (torch.arange(SIZE) + .5) / SIZE
    away = ((centres - spot[:, :1])[:, None].square() + (centres - spot[:, 1:])[:, :, None].square()).sqrt() * SIZE
    return scenes, render(scenes, SIZE).lerp(ink[:, :, None, None], (radius + .5 - away).clamp(0, 1)[:, None])


def speck(scenes: Scenes, pixels: int, generator: torch.Generator) -> Damaged:
    """So many neighbouring pixels of a colour that does not belong."""
    ink, spot = ink_and_spot(scenes, generator)
    x, (column, row) = render(scenes, SIZE), (spot * SIZE).long().unbind(1)
    for k in range(pixels):
        x[torch.arange(len(x)), :, row + k // 3, column + k % 3] = ink
    return scenes, x


def ghost(scenes: Scenes, share: float, generator: torch.Generator) -> Damaged:
    """A large disc too many, nearly as pale as the background."""
    ink, spot = ink_and_spot(scenes, generator)
    centres = (torch.arange(SIZE) + .5) / SIZE
    away = ((centres - spot[:, :1])[:, None].square() + (centres - spot[:, 1:])[:, :, None].square()).sqrt() * SIZE
    return scenes, render(scenes, SIZE).lerp(ink[:, :, None, None], share * (7.5 - away).clamp(0, 1)[:, None])


def hole(scenes: Scenes, share: float, generator: torch.Generator) -> Damaged:
    """Two by two pixels of the first thing, where it is widest, part-way to the background."""
    whole = cover(scenes)
    at = F.avg_pool2d(whole, 4, 1).flatten(1).argmax(1)
    row, column = at // (SIZE - 3) + 1, at % (SIZE - 3) + 1
    for k in range(4):
        whole[torch.arange(len(whole)), :, row + k // 2, column + k % 2] *= 1 - share
    return scenes, paint(scenes, whole)


def nearer(scenes: Scenes, gap: float, generator: torch.Generator) -> Damaged:
    """The second thing moved towards the first until `gap` pixels lie between their circles; below 0 they overlap."""
    scenes = scenes[scenes.number == 2]
    way = scenes.xy[:, 1] - scenes.xy[:, 0]
    reach = torch.tensor(list(SIZES.values()))[scenes.size].sum(1) + gap / SIZE
    xy = scenes.xy.clone()
    xy[:, 1] = xy[:, 0] + way * (reach / way.norm(dim=1))[:, None]
    return (scenes := replace(scenes, xy=xy)), render(scenes, SIZE)


def cut(scenes: Scenes, pixels: float, generator: torch.Generator) -> Damaged:
    """A lone thing pushed out of the frame on the left by so many pixels."""
    scenes = scenes[scenes.number == 1]
    xy = scenes.xy.clone()
    xy[:, 0, 0] = torch.tensor(list(SIZES.values()))[scenes.size[:, 0]] - pixels / SIZE
    return (scenes := replace(scenes, xy=xy)), render(scenes, SIZE)


Damage = Callable[[Scenes, float, torch.Generator], Damaged]
DAMAGES: dict[str, tuple[Damage, str, tuple[float, ...]]] = {       # with the unit of the grades, mildest first
    "noise": (noise, "std", (.05, .1, .15, .2, .3, .5)),
    "blur": (blur, "pixels", (.3, .5, .7, 1., 1.5, 2.5)),
    "soft": (soft, "times fewer pixels a side", (1.2, 1.4, 1.6, 2., 3., 4.)),
    "blocks": (blocks, "step", (.1, .2, .4, .8, 1.2, 1.6)),
    "checks": (checks, "height", (.05, .1, .15, .2, .3, .5)),
    "faded": (faded, "share", (.05, .1, .2, .3, .5, .7)),
    "recoloured": (recoloured, "share", (.05, .1, .2, .3, .4, .5)),
    "resized": (resized, "share", (.05, .1, .2, .3, .4, .5)),
    "morphed": (morphed, "share", (.05, .1, .2, .3, .4, .5)),
    "erased": (erased, "share", (.05, .1, .2, .3, .4, .5)),
    "smeared": (smeared, "pixels", (1, 2, 3, 4, 6, 8)),
    "blob": (blob, "pixels", (.5, 1, 1.5, 2, 3, 4)),
    "speck": (speck, "pixels", (1, 2, 3, 4, 6, 9)),
    "ghost": (ghost, "share", (.02, .06, .1, .15, .2, .3)),
    "hole": (hole, "share", (.05, .2, .3, .5, .7, 1.)),
    "nearer": (nearer, "pixels apart", (2, 1, 0, -1, -2, -4)),
    "cut": (cut, "pixels", (0, .5, 1, 2, 4, 6)),
}


# --- what is read ----------------------------------------------------------------------------------------------------

def same(read: Scene, truth: Scene) -> bool:
    """Whether two scenes are one: equal words, centres within one and a half pixels, in any order."""
    def rows(scene: Scene) -> list:
        return sorted((t.shape, t.colour, t.size, t.style, t.x, t.y) for t in scene.things)
    a, b = rows(read), rows(truth)
    return read.background == truth.background and len(a) == len(b) and all(
        p[:4] == q[:4] and math.dist(p[4:], q[4:]) < 1.5 / SIZE for p, q in zip(a, b, strict=True))


def verdicts(reading: Reading, truth: Scenes) -> tuple[float, float, float]:
    """The shares read as the same scene, refused, and read as a different scene."""
    legal = reading.legal.tolist()
    right = [ok and same(r, t) for ok, r, t in zip(legal, reading.scenes, truth, strict=True)]
    n = len(legal)
    return sum(right) / n, 1 - sum(legal) / n, (sum(legal) - sum(right)) / n


def validation(n: int, world: str = "full") -> Scenes:
    """The n scenes that are damaged; of world `single` a random choice."""
    generator = rng("validation", world)
    if world == "full":
        return full(n, generator)
    scenes = single("all")
    return scenes[torch.randperm(len(scenes), generator=generator)[:n]]


def damaged(name: str, grade: float, scenes: Scenes) -> Damaged:
    """The scenes damaged by name and grade; the chance in it is of the seed "validation"."""
    return DAMAGES[name][0](scenes, grade, rng("validation", name))


Table = dict[tuple[str, float], tuple[float, float, float]]


def table(n: int, world: str) -> Table:
    """The three shares for every damage and grade; in world `single` nothing can come nearer."""
    shares, scenes = {}, validation(n, world)
    for name, (_, _, grades) in DAMAGES.items():
        for grade in grades if world == "full" or name != "nearer" else ():
            truth, pictures = damaged(name, grade, scenes)
            shares[name, grade] = verdicts(analyse(pictures), truth)
    return shares


def markdown(shares: Table) -> str:
    """A row for each damage; in each cell the grade and the three shares in per cent."""
    rows = ["| damage | grade: same / refused / different, in % |", "|---|---|"]
    for name, (_, unit, grades) in DAMAGES.items():
        known = [g for g in grades if (name, g) in shares]
        cells = [f"{g:g}: " + " / ".join(f"{100 * v:.0f}" for v in shares[name, g]) for g in known]
        rows += [f"| {name} ({unit}) | {' · '.join(cells)} |"] if cells else []
    return "\n".join(rows)


def curves(shares: Table, path: Path) -> None:
    """One small panel a damage: the three shares against its grade."""
    plot.style()
    fig, axes = plt.subplots(3, 5, figsize=(12, 6.5), sharey=True, layout="constrained")
    for ax, (name, (_, unit, grades)) in zip(axes.flat, DAMAGES.items(), strict=True):
        for row, label in zip(zip(*(shares[name, g] for g in grades), strict=True), ("same", "refused", "different"),
                              strict=True):
            ax.plot(range(len(grades)), row, marker=".", label=label)
        ax.set(title=name, xlabel=unit, xticks=range(len(grades)), xticklabels=[f"{g:g}" for g in grades])
    axes[0, 0].legend()
    fig.savefig(path)
    plt.close(fig)


def sheet(path: Path) -> None:
    """One scene of two things, damaged step by step: a row for each damage that applies to it."""
    scene = validation(100)
    scene = scene[(scene.number == 2) & (scene.size[:, 0] == LARGE)][:1]
    rows = [damaged(name, g, scene)[1] for name, (_, _, grades) in DAMAGES.items() if name != "cut" for g in grades]
    plot.save_png(torch.cat(rows), path, columns=6, scale=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=500, help="scenes a grade in each world")
    n, out = parser.parse_args().scenes, Path("out")
    out.mkdir(exist_ok=True)
    print(f"thresholds: inside {oracle.INSIDE}, outside {oracle.OUTSIDE}, worst {oracle.WORST}, in units of sqrt("
          f"{oracle.DIM}^2 + contrast^2); {n} scenes a grade")
    for world in ("full", "single"):
        shares = table(n, world)
        print(f"\nworld `{world}`\n\n{markdown(shares)}", flush=True)
        if world == "full":
            curves(shares, out / "oracle_damage.png")
    sheet(out / "oracle_damage_pictures.png")


if __name__ == "__main__":
    main()
