"""Scenes: a small world of which everything is known, and the renderer that draws it.

A scene is a background and up to a few things; each thing has a shape, a colour, a size, a style and a centre.
`Scenes` is a batch of them as tensors, `Scene` one of them in words. Lengths are in units of the picture's side,
the origin is the top left corner, y points down.
"""
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

COLOURS = {"red": (.88, .10, .12), "orange": (1., .52, .05), "yellow": (.98, .88, .15), "green": (.12, .65, .22),
           "blue": (.15, .38, .95), "purple": (.55, .16, .78), "pink": (.99, .46, .74), "white": (1., 1., 1.)}
BACKGROUNDS = {"black": (0., 0., 0.), "grey": (.50, .50, .50), "navy": (.05, .08, .32), "cream": (.93, .84, .64)}
SIZES = {"small": 4.5 / 32, "large": 7 / 32}                       # radius, in picture sides
PLACES = {"top left": (0, 0), "top": (1, 0), "top right": (2, 0), "left": (0, 1), "centre": (1, 1), "right": (2, 1),
          "bottom left": (0, 2), "bottom": (1, 2), "bottom right": (2, 2)}      # column, row of a 3 x 3 grid
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}    # first minus second

# Never seen in training, in pictures or captions: six pairs, and one relation for each of two ordered pairs of shapes.
HELD_OUT_PAIRS = (("red", "star"), ("orange", "ring"), ("yellow", "cross"),
                  ("green", "triangle"), ("blue", "circle"), ("purple", "square"))
HELD_OUT_RELATIONS = (("star", "left of", "ring"), ("cross", "above", "triangle"))

APART = 8 / 32         # a relation holds when the centres are this far apart on its axis, and farther than on the other
MARGIN = 1 / 32         # drawn scenes keep this distance from every border between two names


# --- shapes: signed distance to the outline, in radii; negative inside ---------------------------------------------

def circle(u: Tensor, v: Tensor) -> Tensor:
    """Distance to the unit circle."""
    return (u * u + v * v).sqrt() - 1


def square(u: Tensor, v: Tensor) -> Tensor:
    """Distance to an upright square of side 1.6."""
    return torch.maximum(u.abs(), v.abs()) - .8


def triangle(u: Tensor, v: Tensor) -> Tensor:
    """Distance to an equilateral triangle, tip up, its centroid at the origin."""
    return torch.maximum(v, math.sqrt(3) / 2 * u.abs() - v / 2) - .5


def star(u: Tensor, v: Tensor) -> Tensor:
    """Distance to a five-pointed star, tip up: fold the plane into one half point, which has one straight edge."""
    tip, inner, half = 1.05, .47, math.pi / 5                      # radii of the two kinds of corners, half a point
    angle = (torch.remainder(torch.atan2(u, -v) + half, 2 * half) - half).abs()
    radius = (u * u + v * v).sqrt()
    across, along = radius * angle.sin(), radius * angle.cos()     # the tip is at (0, tip)
    edge = (inner * math.sin(half), inner * math.cos(half) - tip)
    return ((along - tip) * edge[0] - across * edge[1]) / math.hypot(*edge)


def cross(u: Tensor, v: Tensor) -> Tensor:
    """Distance to an upright plus sign."""
    u, v = u.abs(), v.abs()
    return torch.minimum(torch.maximum(u - 1, v - .35), torch.maximum(u - .35, v - 1))


def ring(u: Tensor, v: Tensor) -> Tensor:
    """Distance to a ring between the radii 0.46 and 1."""
    return ((u * u + v * v).sqrt() - .73).abs() - .27


Distance = Callable[[Tensor, Tensor], Tensor]
SHAPES: dict[str, Distance] = {"circle": circle, "square": square, "triangle": triangle, "star": star,
                               "cross": cross, "ring": ring}
# a style turns one distance into another: (distance, u, v) -> distance
STYLES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "solid": lambda d, u, v: d,
    "outline": lambda d, u, v: (d + .15).abs() - .15,
    "striped": lambda d, u, v: torch.maximum(d, (torch.remainder(v + .2, .8) - .4).abs() - .2),
}
WORDS = {"shape": tuple(SHAPES), "colour": tuple(COLOURS), "size": tuple(SIZES), "style": tuple(STYLES)}


# --- one scene in words, many scenes as tensors ---------------------------------------------------------------------

@dataclass(frozen=True)
class Thing:
    """One object; (x, y) is its centre."""
    shape: str
    colour: str
    size: str
    x: float
    y: float
    style: str = "solid"

    @property
    def place(self) -> str:
        """The name of the ninth of the picture that holds the centre."""
        cell = tuple(0 if c < 3 / 8 else 1 if c <= 5 / 8 else 2 for c in (self.x, self.y))
        return next(name for name, where in PLACES.items() if where == cell)


@dataclass(frozen=True)
class Scene:
    """A background and the things on it."""
    background: str
    things: tuple[Thing, ...]

    def relation(self, first: int = 0, second: int = 1) -> str | None:
        """The relation of two things, or None where the names do not decide."""
        a, b = self.things[first], self.things[second]
        dx, dy = a.x - b.x, a.y - b.y
        if max(abs(dx), abs(dy)) < APART - 1e-6 or abs(dx) == abs(dy):
            return None
        return ("left of" if dx < 0 else "right of") if abs(dx) > abs(dy) else ("above" if dy < 0 else "below")


@dataclass(frozen=True, eq=False)
class Scenes:
    """A batch of scenes: indices into the tables above; shape -1 marks an empty slot."""
    background: Int[Tensor, "b"]
    shape: Int[Tensor, "b n"]
    colour: Int[Tensor, "b n"]
    size: Int[Tensor, "b n"]
    style: Int[Tensor, "b n"]
    xy: Float[Tensor, "b n 2"]

    def __len__(self) -> int:
        return len(self.background)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int | slice | Tensor) -> "Scene | Scenes":
        if not isinstance(i, int):
            return Scenes(*(getattr(self, f.name)[i] for f in fields(self)))
        if not -len(self) <= i < len(self):
            raise IndexError(f"scene {i} of a batch of {len(self)}")
        words = {name: [table[k] for k in getattr(self, name)[i].tolist()] for name, table in WORDS.items()}
        things = [Thing(*row[:3], *xy, style=row[3]) for *row, xy, k in
                  zip(*words.values(), self.xy[i].tolist(), self.shape[i].tolist(), strict=True) if k >= 0]
        return Scene(tuple(BACKGROUNDS)[self.background[i]], tuple(things))

    @property
    def number(self) -> Int[Tensor, "b"]:
        """How many things each scene holds."""
        return (self.shape >= 0).sum(1)

    @staticmethod
    def of(scenes: list[Scene]) -> "Scenes":
        """The tensors of a list of scenes; an unknown word is an error that lists the known ones."""
        n = max((len(s.things) for s in scenes), default=1) or 1
        pad = [list(s.things) + [None] * (n - len(s.things)) for s in scenes]

        def column(name: str, empty: int) -> Tensor:
            return torch.tensor([[index(WORDS[name], getattr(t, name)) if t else empty for t in row] for row in pad])
        return Scenes(torch.tensor([index(tuple(BACKGROUNDS), s.background) for s in scenes]), column("shape", -1),
                      column("colour", 0), column("size", 0), column("style", 0),
                      torch.tensor([[(t.x, t.y) if t else (.5, .5) for t in row] for row in pad], dtype=torch.float32))


def index(table: tuple[str, ...], word: str) -> int:
    """The place of `word` in a table of names."""
    if word not in table:
        raise ValueError(f"{word!r} is no word of this world; one of {', '.join(table)} is meant")
    return table.index(word)


# --- the renderer ---------------------------------------------------------------------------------------------------

def rgb(table: dict[str, tuple]) -> Float[Tensor, "k 3"]:
    """A table of colours in [-1, 1]."""
    return torch.tensor(list(table.values())) * 2 - 1


def coverage(scenes: Scenes, u: Tensor, v: Tensor) -> Float[Tensor, "m h w"]:
    """How much of each pixel the thing of slot 0 covers; u, v [m h w]: pixel centres seen from its centre.

    The edge is one pixel wide: coverage = 1/2 - distance in pixels, kept in [0, 1].
    """
    pixel = (u[:1, 0, 1] - u[:1, 0, 0]).abs()
    radius = torch.tensor(list(SIZES.values()))[scenes.size[:, 0], None, None]
    out = torch.zeros_like(u)
    for k, distance in enumerate(SHAPES.values()):
        for s, style in enumerate(STYLES.values()):
            (i,) = torch.where((scenes.shape[:, 0] == k) & (scenes.style[:, 0] == s))
            if len(i):
                a, b = u[i] / radius[i], v[i] / radius[i]
                out[i] = (.5 - style(distance(a, b), a, b) * (radius[i] / pixel)).clamp_(0, 1)
    return out


def render(scenes: Scenes, size: int = 32) -> Float[Tensor, "b 3 h w"]:
    """The pictures of a batch of scenes, anti-aliased, in [-1, 1]; later slots are painted over earlier ones."""
    if len(scenes) > 128:                                          # pieces that fit a processor's cache
        return torch.cat([render(scenes[i:i + 128], size) for i in range(0, len(scenes), 128)])
    centres = (torch.arange(size) + .5) / size
    picture = rgb(BACKGROUNDS)[scenes.background][:, :, None, None].expand(-1, -1, size, size).clone()
    for slot in range(scenes.shape.shape[1]):
        (i,) = torch.where(scenes.shape[:, slot] >= 0)
        if len(i):
            one = Scenes(scenes.background[i], *(getattr(scenes, f)[i, slot:slot + 1] for f in
                                                 ("shape", "colour", "size", "style", "xy")))
            u = (centres - one.xy[:, 0, :1])[:, None, :].expand(-1, size, -1)
            v = (centres - one.xy[:, 0, 1:])[:, :, None].expand(-1, -1, size)
            ink = rgb(COLOURS)[one.colour[:, 0]][:, :, None, None]
            picture[i] = picture[i].lerp_(ink, coverage(one, u, v)[:, None])
    return picture


# --- the worlds -----------------------------------------------------------------------------------------------------

def held_out_pair(scenes: Scenes) -> Tensor:
    """Which things are of a held-out (colour, shape) pair, [b n]."""
    table = torch.zeros(len(COLOURS), len(SHAPES), dtype=torch.bool)
    for colour, shape in HELD_OUT_PAIRS:
        table[index(tuple(COLOURS), colour), index(tuple(SHAPES), shape)] = True
    return table[scenes.colour, scenes.shape] & (scenes.shape >= 0)


def held_out_relation(scenes: Scenes) -> Tensor:
    """Which two-object scenes show a held-out relation, in either order of telling, [b]."""
    found = torch.zeros(len(scenes), dtype=torch.bool)
    if scenes.shape.shape[1] < 2:
        return found
    for i, j in ((0, 1), (1, 0)):
        d = scenes.xy[:, i] - scenes.xy[:, j]
        for first, relation, second in HELD_OUT_RELATIONS:
            along = (d * torch.tensor(RELATIONS[relation], dtype=d.dtype)).sum(1)
            shapes = (scenes.shape[:, i] == index(tuple(SHAPES), first)) & (
                scenes.shape[:, j] == index(tuple(SHAPES), second))
            found |= shapes & (along > 0) & (along >= d.abs().amax(1))
    return found


def single(split: str = "train") -> Scenes:
    """World `single`: one object on nine places, every scene of it; split is train, held out or all."""
    rows = list(itertools.product(range(len(BACKGROUNDS)), range(len(SHAPES)), range(len(COLOURS)), range(len(SIZES)),
                                  PLACES.values()))
    back, shape, colour, size, cell = zip(*rows, strict=True)
    slots = [torch.tensor(c)[:, None] for c in (shape, colour, size)]
    scenes = Scenes(torch.tensor(back), *slots, torch.zeros_like(slots[0]), (torch.tensor(cell)[:, None] + 1) / 4)
    pick = {"train": ~held_out_pair(scenes)[:, 0], "held out": held_out_pair(scenes)[:, 0],
            "all": torch.ones(len(rows), dtype=torch.bool)}
    return scenes[pick[split_name(split, pick)]]


def split_name(split: str, known: dict) -> str:
    """`split`, if it is one of `known`."""
    if split not in known:
        raise ValueError(f"{split!r} is no split of this world; there are {', '.join(known)}")
    return split


# world `full`: which scenes each split holds, (number, any held-out pair, held-out relation); None = any
FULL_SPLITS = {"train": (None, 0, False), "one": (1, 0, False), "two": (2, 0, False),
               "one, held-out pair": (1, 1, False), "two, held-out pair": (2, 1, False),
               "two, held-out relation": (2, 0, True)}


def full(n: int, generator: torch.Generator, split: str = "train") -> Scenes:
    """World `full`: n scenes, half one object anywhere, half two in a relation.

    Whatever breaks a rule of the split is drawn again. Centres lie on a grid of 1/256 of the side, so that
    a checksum of integers is the same on every machine.
    """
    number, _, _ = FULL_SPLITS[split_name(split, FULL_SPLITS)]
    two = torch.rand(n, generator=generator) < .5 if number is None else torch.full((n,), number == 2)
    kinds = [lawful(int((two == flag).sum()), 1 + flag, split, generator) for flag in (False, True)]
    order = torch.argsort(torch.argsort(two.int(), stable=True))          # the ones first, then back in their places
    return join(kinds)[order]


def lawful(n: int, number: int, split: str, generator: torch.Generator) -> Scenes:
    """n scenes of `number` things that keep the rules of world `full` and of the split."""
    _, pairs, relation = FULL_SPLITS[split]
    kept, count = [candidates(0, number, generator)], 0
    while count < n:
        scenes = candidates(8 * n + 64, number, generator)
        good = clear(scenes) & (held_out_pair(scenes).sum(1) == pairs) & (held_out_relation(scenes) == relation)
        kept.append(scenes[good])
        count += len(kept[-1])
    return join(kept)[:n]


def candidates(n: int, number: int, generator: torch.Generator) -> Scenes:
    """n scenes with every word uniform and every thing wholly in the frame; no other rule is kept yet."""
    def pick(table: dict) -> Tensor:
        return torch.randint(len(table), (n, 2), generator=generator)
    background, shape, colour, size = pick(BACKGROUNDS)[:, 0], pick(SHAPES), pick(COLOURS), pick(SIZES)
    radius = torch.tensor(list(SIZES.values()))[size][..., None]
    xy = radius + torch.rand(n, 2, 2, generator=generator) * (1 - 2 * radius)
    xy = torch.round(xy * 256) / 256
    shape[:, number:] = -1
    return Scenes(background, shape, colour, size, torch.zeros_like(size), xy)


def clear(scenes: Scenes) -> Tensor:
    """Which scenes of world `full` are told by their names without doubt: no centre within a margin of a border."""
    x = scenes.xy
    place = ((x - 3 / 8).abs() >= MARGIN).all(-1) & ((x - 5 / 8).abs() >= MARGIN).all(-1)
    short, long = (x[:, 0] - x[:, 1]).abs().sort(1).values.unbind(1)
    radius = torch.tensor(list(SIZES.values()))[scenes.size].sum(1)
    apart = (long >= APART + MARGIN) & (long >= torch.maximum(short, radius) + 2 * MARGIN)      # no two things touch
    differ = (scenes.shape[:, 0] != scenes.shape[:, 1]) | (scenes.colour[:, 0] != scenes.colour[:, 1])
    return torch.where(scenes.number == 1, place[:, 0], apart & differ)


def join(parts: list[Scenes]) -> Scenes:
    """One batch of several."""
    return Scenes(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Scenes)))
