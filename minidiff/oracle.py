"""The oracle reads a picture back into its scene, without any network, and judges whether it is what a caption asks.

Analysis by synthesis: find the background and the patches that differ from it, try every shape and size on each patch,
draw the best scene again and compare. A picture is *legal* when the drawing explains it everywhere. Differences are
measured in units of the contrast that the drawing has nearby, as eyes measure them: a rim that is soft by a pixel
counts the same for white on black and for pink on grey.
"""
import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from minidiff.captions import judge, parse
from minidiff.rates import Rate
from minidiff.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, STYLES, Scene, Scenes, coverage, index, render, rgb

# Largest residual of a legal picture: RMS over the things and their rims, over the rest, and in the worst 3 x 3 patch,
# each pixel divided by sqrt(DIM^2 + contrast^2), the contrast being the strongest within two pixels in the drawing.
# Where the drawing is flat, undivided: the worst single pixel (a hole), and the worst mean of 5 x 5 (a ghost).
# Fixed on damaged pictures, never on a model's: benchmarks/oracle_damage.py draws the curves.
INSIDE, OUTSIDE, WORST, DIM, SINGLE, DRIFT = .20, .20, .33, .60, .42, .10
MOST = 5                                                          # things in a scene
FOREGROUND = .42                     # a pixel this far from the background is not of the background


@dataclass(frozen=True)
class Reading:
    """The scene that explains a picture best, and the residuals that remain."""
    scenes: Scenes
    inside: Float[Tensor, "b"]
    outside: Float[Tensor, "b"]
    worst: Float[Tensor, "b"]
    single: Float[Tensor, "b"]
    drift: Float[Tensor, "b"]

    @property
    def legal(self) -> Bool[Tensor, "b"]:
        """Which pictures are explained everywhere, and hold one to five things."""
        small = (self.inside < INSIDE) & (self.outside < OUTSIDE) & (self.worst < WORST)
        small &= (self.single < SINGLE) & (self.drift < DRIFT)
        return small & (self.scenes.number > 0) & (self.scenes.number <= MOST)


RESIDUALS = ("inside", "outside", "worst", "single", "drift")


@dataclass(frozen=True)
class Patches:
    """Connected patches of foreground: the picture each lies in, its pixels as labels (0: none), and its colour."""
    of: Int[Tensor, "m"]
    labels: Int[Tensor, "b h w"]
    colour: Int[Tensor, "m"]
    centre: Float[Tensor, "m 2"]


def background_of(x: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b"]:
    """The background colour that most pixels are near to."""
    distance = torch.stack([(x - c[:, None, None]).square().sum(1) for c in rgb(BACKGROUNDS)], 1)
    return (distance < FOREGROUND ** 2).sum((2, 3)).argmax(1)


def connected(mask: Bool[Tensor, "*b h w"]) -> Int[Tensor, "*b h w"]:
    """The connected patches of each picture, numbered 1, 2, …; 0 elsewhere."""
    within = np.zeros((3,) * mask.ndim, int)
    within[(1,) * (mask.ndim - 2)] = 1                                           # neighbours in the same picture only
    return torch.from_numpy(ndimage.label(mask.numpy(), within)[0].astype(np.int64))


def bridged(x: Tensor, back: Tensor, foreground: Bool[Tensor, "b h w"]) -> Int[Tensor, "b h w"]:
    """Connected patches of one colour each, parts less than a stripe's gap above one another joined."""
    ink = F.normalize(rgb(COLOURS) - back[:, None, :, 0, 0], dim=2)                            # [b k 3]
    kind = torch.einsum("bchw,bkc->bkhw", x - back, ink).argmax(1)
    layers = F.one_hot(kind, len(COLOURS)).movedim(3, 1) * foreground[:, None]
    reach = max(round(x.shape[-1] / 16), 1)
    tall = F.max_pool2d(layers.float(), (2 * reach + 1, 1), 1, (reach, 0))
    return connected(tall > 0).gather(1, kind[:, None])[:, 0] * foreground


def patches_of(x: Float[Tensor, "b 3 h w"], back: Float[Tensor, "b 3 1 1"], stripes: bool = False) -> Patches:
    """Connected patches of at least 1/200 of the picture, the MOST + 1 largest of each, with colour and centre."""
    b, _, h, w = x.shape
    away = (x - back).square().sum(1).sqrt()                                     # [b h w]
    raw = bridged(x, back, away > FOREGROUND) if stripes else connected(away > FOREGROUND)
    area = torch.bincount(raw.flatten())
    owner = torch.zeros_like(area).index_put_((raw.flatten(),), torch.arange(b).repeat_interleave(h * w))
    big = area >= h * w / 200
    big[0] = False
    ids = torch.where(big)[0]
    ids = ids[torch.argsort(owner[ids] * (h * w + 1) - area[ids])]               # by picture, the largest first
    rank = torch.arange(len(ids)) - torch.searchsorted(owner[ids], owner[ids])
    ids = ids[rank <= MOST]
    number = torch.zeros_like(area).index_put_((ids,), torch.arange(1, len(ids) + 1))
    labels = number[raw]
    far = torch.zeros(len(ids) + 1).scatter_reduce_(0, labels.flatten(), away.flatten(), "amax")
    core = (labels > 0) & (away > .7 * far[labels])                              # no rim: full colour
    mean = average(x, labels * core, len(ids))
    colour = torch.cdist(mean, rgb(COLOURS)).argmin(1)
    wide = F.max_pool2d(labels[:, None].float(), 3, 1, 1)[:, 0].long()           # with the half-covered rim
    ink = torch.cat([torch.zeros(1, 3), rgb(COLOURS)[colour] - back[owner[ids], :, 0, 0]])[wide].permute(0, 3, 1, 2)
    cover = ((x - back) * ink).sum(1) / ink.square().sum(1).clamp(min=1e-6)
    grid = torch.stack(torch.meshgrid((torch.arange(w) + .5) / w, (torch.arange(h) + .5) / h, indexing="xy"))
    centre = average(grid.expand(b, -1, -1, -1), wide, len(ids), cover.clamp(0, 1))
    return Patches(owner[ids], labels, colour, centre)


def average(x: Float[Tensor, "b c h w"], labels: Int[Tensor, "b h w"], m: int,
            weight: Float[Tensor, "b h w"] | None = None) -> Float[Tensor, "m c"]:
    """The weighted mean of x over the pixels with label 1, 2, … m."""
    weight = torch.ones_like(x[:, 0]) if weight is None else weight
    rows = torch.stack([*(x * weight[:, None]).unbind(1), weight], -1).flatten(0, 2)      # [b h w, c + 1]
    total = torch.zeros(m + 1, rows.shape[1]).index_add_(0, labels.flatten(), rows)[1:]
    return total[:, :-1] / total[:, -1:].clamp(min=1e-6)


@functools.cache
def centroids(side: int) -> Float[Tensor, "shapes sizes styles 2"]:
    """Where the mean of a drawing's coverage lies, seen from its centre, in picture sides: not 0 for stripes."""
    grid = torch.linspace(-1.3, 1.3, 261)
    v, u = torch.meshgrid(grid, grid, indexing="ij")
    radius = torch.tensor(list(SIZES.values()))[:, None, None, None]
    distance = torch.stack([torch.stack([style(d(u, v), u, v) for style in STYLES.values()]) for d in SHAPES.values()])
    cover = (.5 - distance[:, None] * radius * side).clamp(0, 1)
    return radius[..., 0] * torch.stack([(cover * w).sum((3, 4)) for w in (u, v)], -1) / cover.sum((3, 4))[..., None]


def window(x: Tensor, back: Tensor, patches: Patches) -> tuple[Tensor, Tensor, Tensor]:
    """Around each patch: pixels seen from its centre [m 2 k], their colours less the background, their weights."""
    side = x.shape[-1]
    reach = math.ceil(max(SIZES.values()) * side * 1.1) + 1
    cell = (patches.centre * side).floor().long()[:, :, None] + torch.arange(-reach, reach + 1)
    inside = ((cell >= 0) & (cell < side)).float()
    column, row = cell.clamp(0, side - 1).unbind(1)
    at = (patches.of[:, None, None], row[:, :, None], column[:, None, :])
    label = patches.labels[at]
    mine = (label == 0) | (label == torch.arange(1, len(label) + 1)[:, None, None])
    weight = mine * inside[:, 1, :, None] * inside[:, 0, None, :]
    seen = (x - back).movedim(1, -1)[at]
    return (cell + .5) / side - patches.centre[:, :, None], seen.flatten(1, 2), weight.flatten(1)


def best_things(x: Tensor, back: Tensor, patches: Patches, styles: tuple[str, ...]) -> tuple[Tensor, ...]:
    """For each patch the shape, size, style and colour whose drawing leaves the least error in a window around it."""
    trials = torch.tensor(list(itertools.product(range(len(SHAPES)), range(len(SIZES)),
                                                 [index(tuple(STYLES), s) for s in styles])))
    m, n, side = len(patches.of), len(trials), x.shape[-1]
    offset, seen, weight = window(x, back, patches)                            # [m 2 k] [m kk 3] [m kk]
    u, v = (offset.repeat_interleave(n, 0) + centroids(side)[trials.unbind(1)].repeat(m, 1)[:, :, None]).unbind(1)
    shape, size, style = (column.repeat(m)[:, None] for column in trials.unbind(1))
    none, k = torch.zeros_like(shape), offset.shape[2]
    trial = Scenes(none[:, 0], shape, none, size, style, none[..., None].float().expand(-1, -1, 2))
    cover = coverage(trial, u[:, None, :].expand(-1, k, -1), v[:, :, None].expand(-1, -1, k)).reshape(m, n, k * k)
    ink = rgb(COLOURS) - back[patches.of].flatten(1)[:, None]                  # [m c 3]
    area = torch.einsum("mnp,mnp,mp->mn", cover, cover, weight)                # |seen - cover ink|^2, opened:
    error = area[:, :, None] * ink.square().sum(2)[:, None] - 2 * (
        torch.einsum("mnp,mp,mpc->mnc", cover, weight, seen) @ ink.mT)         # [m n colours]
    best = error.flatten(1).argmin(1)
    return *trials[best // len(COLOURS)].unbind(1), best % len(COLOURS)


@torch.no_grad()
def analyse(pictures: Float[Tensor, "b 3 h w"], styles: tuple[str, ...] = ("solid",)) -> Reading:
    """The nearest scene of each picture in [-1, 1], and what it leaves unexplained; `.legal` says if it is little."""
    check(pictures)
    if len(pictures) > 256:
        return joined([analyse(p, styles) for p in pictures.split(256)])
    x = pictures.detach().float().cpu()
    plain = explained(x, styles)
    return better(plain, explained(x, styles, stripes=True)) if "striped" in styles else plain


def explained(x: Float[Tensor, "b 3 h w"], styles: tuple[str, ...], stripes: bool = False) -> Reading:
    """The scene that each picture's patches make; stripes: patches one above the other may be one thing."""
    background = background_of(x)
    back = rgb(BACKGROUNDS)[background][:, :, None, None]
    patches = patches_of(x, back, stripes)
    shape, size, style, colour = best_things(x, back, patches, styles)
    slot = torch.arange(len(patches.of)) - torch.searchsorted(patches.of, patches.of)
    table = torch.zeros(4, len(x), MOST + 1)
    table[0] = -1
    for row, values in zip(table, (shape, colour, size, style), strict=True):
        row[patches.of, slot] = values.float()
    centre = patches.centre - centroids(x.shape[-1])[shape, size, style]
    xy = torch.full((len(x), MOST + 1, 2), .5).index_put_((patches.of, slot), centre)
    scenes = Scenes(background, *table.long().unbind(), xy)
    drawn = render(scenes, x.shape[-1])
    return Reading(scenes, *residuals(x, drawn, back), *on_flat_ground(x, drawn))


def on_flat_ground(x: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Difference from the drawing where it has one colour: in the worst pixel, and on average over the worst 5 x 5."""
    flat = (F.max_pool2d(drawn, 3, 1, 1) + F.max_pool2d(-drawn, 3, 1, 1)).amax(1, keepdim=True) < .01    # [b 1 h w]
    off = (x - drawn) * flat
    share = F.avg_pool2d(flat.float(), 5, 1)
    drift = F.avg_pool2d(off, 5, 1) / share.clamp(min=.4)
    return tuple(d.square().mean(1).amax((1, 2)).sqrt() for d in (off, drift))


def residuals(x: Tensor, drawn: Tensor, back: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RMS difference from the drawing: on the things and one pixel around, elsewhere, in the worst 3 x 3 patch."""
    contrast = F.max_pool2d((drawn - back).square().mean(1, keepdim=True), 5, 1, 2)[:, 0]
    square = (x - drawn).square().mean(1) / (DIM ** 2 + contrast)                          # [b h w]
    things = F.max_pool2d(((drawn - back).abs().amax(1, keepdim=True) > .02).float(), 3, 1, 1)[:, 0]
    def rms(mask: Tensor) -> Tensor:
        return ((square * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)).sqrt()
    worst = F.avg_pool2d(square[:, None], 3, 1).amax((1, 2, 3)).sqrt()
    return rms(things), rms(1 - things), worst


def better(a: Reading, b: Reading) -> Reading:
    """For each picture the one of two readings whose worst patch is less wrong."""
    pick, both = (b.worst < a.worst).long(), joined([a, b])
    k = torch.arange(len(pick)) + pick * len(pick)
    return Reading(both.scenes[k], *(getattr(both, f)[k] for f in RESIDUALS))


def joined(parts: list[Reading]) -> Reading:
    """One reading of several."""
    scenes = Scenes(*(torch.cat([getattr(p.scenes, f) for p in parts]) for f in Scenes.__dataclass_fields__))
    return Reading(scenes, *(torch.cat([getattr(p, f) for p in parts]) for f in RESIDUALS))


def check(pictures: Tensor) -> None:
    """Refuse what is no batch of square colour pictures of finite numbers."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.shape[2] != pictures.shape[3]:
        raise ValueError(f"the oracle reads square colour pictures [b, 3, h, h], not a tensor {list(pictures.shape)}")
    if not torch.isfinite(pictures).all():
        raise ValueError("the pictures hold numbers that are not finite; pictures lie in [-1, 1]")
    if not pictures.is_floating_point() or (pictures.numel() and pictures.abs().max() > 20):
        raise ValueError("pictures are floating point numbers in [-1, 1]; whole numbers up to 255 are x / 127.5 - 1")


def same(a: Scene | None, b: Scene | None, near: float = 1.5 / 32) -> bool:
    """Whether two readings agree: background, words and number of things, and every centre within `near`."""
    if a is None or b is None or (a.background, len(a.things)) != (b.background, len(b.things)):
        return False
    def alike(p, q):
        words = (p.shape, p.colour, p.size, p.style) == (q.shape, q.colour, q.size, q.style)
        return words and max(abs(p.x - q.x), abs(p.y - q.y)) <= near
    return any(all(map(alike, a.things, order)) for order in itertools.permutations(b.things))


def read(pictures: Float[Tensor, "b 3 h w"], styles: tuple[str, ...] = ("solid",)) -> list[Scene | None]:
    """The scene of each picture, or None where the picture is not legal."""
    if not len(pictures):
        return []
    reading = analyse(pictures, styles)
    return [scene if legal else None for scene, legal in zip(reading.scenes, reading.legal.tolist(), strict=True)]


def prompt_accuracy(pictures: Float[Tensor, "b 3 h w"], captions: list[str]) -> dict[str, Rate]:
    """How many pictures are right, and how many keep each claim of their caption (number, background, colour, …).

    *right*: legal and every claim kept. A single claim is judged on the nearest scene, legal or not; *colour* and the
    other attributes hold only if every thing that was told of has its own (things paired so that most claims hold).
    """
    if isinstance(captions, str) or len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures but {len(captions)} captions: each picture needs one caption")
    reading, votes = analyse(pictures), {"right": [], "legal": []}
    for scene, legal, caption in zip(reading.scenes, reading.legal.tolist(), captions, strict=True):
        verdicts = judge(scene, parse(caption))
        for name, kept in verdicts.items():
            votes.setdefault(name, []).append(kept)
        votes["legal"].append(legal)
        votes["right"].append(legal and all(verdicts.values()))
    return {name: Rate(sum(kept), len(kept)) for name, kept in votes.items()}
