"""What a generator's pictures of world `full` are worth, by what the world knows: read by the oracle, beside the data.

No picture is thrown away, drawn again or mended before it is judged.
"""
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff.data import rng
from minidiff.oracle import read
from minidiff.rates import Rate
from minidiff.scenes import Scene, full, render

Draw = Callable[[int, int], Float[Tensor, "n 3 h w"]]                  # n, seed -> n pictures


def sharpness(x: Float[Tensor, "n 3 h w"]) -> float:
    """The mean energy of a picture in waves shorter than 4 pixels."""
    h, w = x.shape[2:]
    waves = (torch.fft.fftfreq(h)[:, None].square() + torch.fft.fftfreq(w).square()).sqrt()
    return float((torch.fft.fft2(x).abs().square() * (waves > 1 / 4)).sum((1, 2, 3)).mean() / (h * w))


def legible(x: Float[Tensor, "n 3 h w"]) -> list[Scene | None]:
    """What the oracle reads in each picture; numbers beyond -1 and 1 are cut off first, as on a screen."""
    return [scene for piece in x.clamp(-1, 1).split(256) for scene in read(piece)]


def psnr(x: Float[Tensor, "*d"], y: Float[Tensor, "*d"]) -> float:
    """10 log10(4 / mean squared error), the peak being 2; 90 stands for all that is better still."""
    return round(float(10 * torch.log10(4 / (x - y).square().mean().clamp(min=4e-9))), 2)


def unlike(scenes: list[Scene], others: list[Scene]) -> dict[str, float]:
    """Total variation between two lists in what the things are, and how many: 0 equal, 1 nothing in common."""
    def shares(told: list) -> dict:
        return {word: told.count(word) / len(told) for word in set(told)}

    def facts(scenes: list[Scene]) -> dict[str, dict]:
        out = {fact: [getattr(t, fact) for s in scenes for t in s.things] for fact in ("shape", "colour", "size")}
        told = out | {"background": [s.background for s in scenes], "number": [len(s.things) for s in scenes]}
        return {fact: shares(words) for fact, words in told.items()}
    ours, theirs = facts(scenes), facts(others)
    return {fact: round(sum(abs(ours[fact].get(w, 0) - theirs[fact].get(w, 0)) for w in
                            ours[fact].keys() | theirs[fact].keys()) / 2, 3) for fact in ours}


def judged(draw: Draw, n: int = 2000, seeds: int = 5) -> dict:
    """Legal pictures of n a seed, the energy of their short waves against the data's, the attributes of legal ones."""
    pictures = [draw(n, seed) for seed in range(seeds)]
    truth = full(n, rng("quality"))
    found = [[scene for scene in legible(x) if scene] for x in pictures]
    every, shares = [scene for scenes in found for scene in scenes], [100. * len(scenes) / n for scenes in found]
    sharp = sharpness(render(truth, pictures[0].shape[-1]))
    return {"legal": str(Rate(len(every), n * seeds)), "spread": round(float(torch.tensor(shares).std()), 2),
            "short waves": round(sum(map(sharpness, pictures)) / seeds / sharp, 3),
            "unlike the data": unlike(every, list(truth)) if every else None}
