"""Batches as functions of (seed, step): what a run saw at step 5,000 can be drawn again without the first 4,999."""
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from minidiff import captions
from minidiff.scenes import COLOURS, SHAPES, SIZES, Scenes, full, held_out_pair, held_out_relation, join, render

DATASETS = Path(__file__).parent.parent / "datasets"


def rng(*key: int | str) -> torch.Generator:
    """A random generator that depends on `key` alone, e.g. `rng(seed, step)` or `rng(seed, "noise", i)`.

    The key is hashed (SHA-256), so neighbouring seeds and steps give unrelated streams, equal on every machine;
    PyTorch's generator keeps 32 bits of the hash. Numbers in the key are Python's own.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def noise(shape: tuple[int, ...], seed: int, *, first: int = 0) -> Float[Tensor, "b *d"]:
    """Normal noise whose row i depends on (seed, first + i) alone: a picture is the same in a batch of 1 or of 64."""
    return torch.stack([torch.randn(shape[1:], generator=rng("start", seed, first + i)) for i in range(shape[0])])


def batches(array: Shaped[Tensor, "n *d"], batch: int, seed: int = 0) -> Callable[[int], Shaped[Tensor, "b *d"]]:
    """Rows of an array: step -> batch. Every epoch has an order of its own and leaves out the rest of n / batch."""
    array = torch.as_tensor(array)
    if not 0 < batch <= len(array):
        raise ValueError(f"a batch of {batch} cannot be drawn from {len(array)} rows; it must be 1 to {len(array)}")
    whole = len(array) // batch

    def at(step: int) -> Shaped[Tensor, "b *d"]:
        order = torch.randperm(len(array), generator=rng("epoch", seed, step // whole))
        return array[order[step % whole * batch:(step % whole + 1) * batch]]
    return at


def digits() -> tuple[Float[Tensor, "n 1 8 8"], Int[Tensor, "n"]]:
    """1,797 handwritten digits, 8x8 in [-1, 1], and which digit each is.

    Source: Alpaydin & Kaynak 1998, UCI Machine Learning Repository (CC BY 4.0); see datasets/digits/README.md.
    """
    file = DATASETS / "digits" / "digits.npz"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: get the whole repository and install it with `pip install -e .`")
    with np.load(file) as kept:
        return torch.from_numpy(kept["pictures"]).float()[:, None] / 8 - 1, torch.from_numpy(kept["labels"]).long()


class Pairs(NamedTuple):
    """Pictures with the word numbers of their captions."""
    pictures: Float[Tensor, "b 3 h w"]
    captions: Int[Tensor, "b l"]


def pictures(batch: int, seed: int = 0, size: int = 32) -> Callable[[int], Float[Tensor, "b 3 h w"]]:
    """Endless fresh pictures of world `full`: step -> batch."""
    return lambda step: render(full(batch, rng("pictures", seed, step)), size)


def pairs(batch: int, seed: int = 0, *, size: int = 32, chinese: float = 0.,
          hard: float = 0.) -> Callable[[int], Pairs]:
    """Endless fresh pictures of world `full` with captions, a share `chinese` of them in Chinese: step -> batch.

    hard: the share of pictures of two things, every second pair alike in colour or shape, all told completely.
    """
    if not 0 <= hard <= 1:
        raise ValueError(f"hard is a share of the batch, from 0 to 1, not {hard:g}")
    few = round(batch * hard)

    def at(step: int) -> Pairs:
        generator = rng("pairs", seed, step)
        scenes = full(batch - few, generator)
        told = bilingual(scenes, generator, chinese)
        if few:
            two = join([full(few - few // 2, generator, "two"), alike(few // 2, generator)])
            two = two[torch.randperm(few, generator=generator)]
            scenes, told = join([scenes, two]), told + bilingual(two, generator, chinese, complete=True)
        return Pairs(render(scenes, size), captions.encode(told))
    return at


def alike(n: int, generator: torch.Generator) -> Scenes:
    """Scenes of two things that share their colour or their shape, where a model is most easily confused."""
    many = full(8 * n, generator, "two")                                    # a quarter of them are
    same = (many.colour[:, 0] == many.colour[:, 1]) | (many.shape[:, 0] == many.shape[:, 1])
    return many[torch.argsort(~same, stable=True)[:n]]


def bilingual(scenes: Scenes, generator: torch.Generator, chinese: float, *, complete: bool = False) -> list[str]:
    """Captions of which the first share is in Chinese, the rest in English."""
    k = round(len(scenes) * chinese)
    parts = ("zh", scenes[:k]), ("en", scenes[k:])
    return [line for language, part in parts if len(part)
            for line in captions.write(part, generator, language, complete=complete)]


class Contrast(NamedTuple):
    """Pictures, their captions, and captions that are wrong in one point with whether they count."""
    pictures: Float[Tensor, "b 3 h w"]
    captions: Int[Tensor, "b l"]
    wrong: Int[Tensor, "b k l"]
    counts: Bool[Tensor, "b k"]


def contrasts(batch: int, seed: int = 0, *, size: int = 32, chinese: float = 0., misses: int = 2,
              split: str = "train") -> Callable[[int], Contrast]:
    """Pairs of world `full`, each with some of the four near misses of its caption (hard negatives): step -> batch.

    split: "one" shows single things alone.

    A near miss does not count where it reads like the right caption, or tells of what is held out of training.
    """
    def at(step: int) -> Contrast:
        generator = rng("contrasts", seed, step)
        scenes = full(batch, generator, split)
        near = swapped(scenes, generator)
        near = [near[k] for k in torch.randperm(len(near), generator=generator)[:misses].tolist()]
        state = generator.get_state()                             # the same phrasing for right and wrong captions
        right = captions.encode(bilingual(scenes, generator, chinese))
        wrong = torch.stack([captions.encode(bilingual(m, generator.set_state(state), chinese)) for m in near], 1)
        allowed = [~(held_out_pair(m).any(1) | held_out_relation(m)) for m in near]
        return Contrast(render(scenes, size), right, wrong, torch.stack(allowed, 1) & (wrong != right[:, None]).any(-1))
    return at


def swapped(scenes: Scenes, generator: torch.Generator) -> list[Scenes]:
    """Near misses of each scene, for captions that are wrong in one point: colours, shapes, sizes, places exchanged.

    Where a scene has one thing, or two that agree in the word, the word is replaced by another instead.
    """
    misses = []
    for name, table in (("colour", COLOURS), ("shape", SHAPES), ("size", SIZES)):
        now = getattr(scenes, name)
        step = torch.randint(1, len(table), now[:, :1].shape, generator=generator)
        other = torch.cat([torch.where(now[:, :1] < 0, now[:, :1], (now[:, :1] + step) % len(table)), now[:, 1:]], 1)
        exchange = (scenes.number == 2) & (now[:, 0] != now[:, 1])
        misses.append(replace(scenes, **{name: torch.where(exchange[:, None], now.flip(1), other)}))
    moved = (scenes.xy[:, :1] + torch.randint(1, 3, (len(scenes), 1, 2), generator=generator) / 4 - .125) % .75 + .125
    xy = torch.where((scenes.number == 2)[:, None, None], scenes.xy.flip(1), moved.expand(-1, scenes.xy.shape[1], -1))
    return [*misses, replace(scenes, xy=xy)]
