"""Chapter 7's comparison of ways to paint into a hole: keep overwriting what is known, or a network that sees it.

`ddpm-single`, which knows no holes, is used as it is with what is known put back at every step, once or by RePaint's
way back and forth; and a copy with four more input channels is tuned to see the picture around the hole. A second copy,
tuned as long without seeing anything, says what the longer training alone gives. 16x16 pictures of world `single` with
its noise, judged by the oracle.
"""
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from minidiff import weights
from minidiff.data import noise, rng
from minidiff.denoiser import Denoiser
from minidiff.guidance import back_and_forth, inpaint, repaint_path
from minidiff.oracle import analyse
from minidiff.recipes.about import RUNS, fast_precision, made, recorded
from minidiff.recipes.flows import STD, of_single
from minidiff.samplers import Denoise, ddim_step, last, noise_like
from minidiff.scenes import COLOURS, SHAPES, SIZES, Scene, Scenes, render, single
from minidiff.schedules import times
from minidiff.train import Training
from minidiff.unet import UNet

TUNED, BATCH, SIDE, N = 2000, 32, 16, 64                          # steps of the tuning; pictures of each task
STEPS, JUMP, REPEATS = 50, 5, 5                                   # of the samplers
WORLD = single("train")


class Seen(NamedTuple):
    """A picture with a hole, and where the hole is."""
    known: Float[Tensor, "b 3 h w"]
    hole: Bool[Tensor, "b 1 h w"]


class Seeing(nn.Module):
    """A trained U-Net with four more channels of input, whose weights are 0 at first: it answers as it did."""

    def __init__(self, small: UNet):
        super().__init__()
        self.net = UNet(replace(small.config, channels=7))
        for name, values in self.net.state_dict().items():
            part = tuple(slice(0, size) for size in small.state_dict()[name].shape)
            values.zero_()[part] = small.state_dict()[name]

    def forward(self, x: Float[Tensor, "b 3 h w"], t: Float[Tensor, "b"], cond: Seen) -> Float[Tensor, "b 3 h w"]:
        """Source: Nichol et al. 2021 (arXiv 2112.10741), section 4.3."""
        around = torch.where(cond.hole, 0., cond.known)
        return self.net(torch.cat([x, around, cond.hole.to(x)], 1), t)[:, :3]


# --- training ---------------------------------------------------------------------------------------------------------

def holes(n: int) -> Bool[Tensor, "n 1 h w"]:
    """Rectangles of all sizes; one in eight is the whole picture."""
    ends = torch.randint(0, SIDE + 1, (2, n, 2)).sort(0).values
    ends = torch.where(torch.rand(n, 1) < 1 / 8, torch.tensor([0, SIDE])[:, None, None], ends)
    at = torch.arange(SIDE)
    rows, columns = ((at >= ends[0, :, k, None]) & (at < ends[1, :, k, None]) for k in (0, 1))
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def training(seed: int, steps: int, sees: bool = True) -> Training:
    """The copy that sees, tuned on fresh pictures and holes; or the control, for which all is hole."""
    base = weights.load("ddpm-single")
    model = Denoiser(made(lambda: Seeing(base.denoiser.net), seed), base.schedule, "v")

    def loss(x0: Tensor) -> dict[str, Tensor]:
        hole = holes(len(x0))
        return {"loss": model.loss(x0, base.draw(len(x0)), Seen(x0, hole if sees else torch.ones_like(hole)))}
    return Training(model, loss, of_single(BATCH, 100 + seed), steps=steps, lr=1e-3, warmup=100, ema=.995, seed=seed,
                    autocast=fast_precision(), checkpoint=RUNS / f"inpainting-{seed}-{steps}-{sees}.safetensors")


def tuned(seed: int, steps: int, sees: bool = True) -> tuple[Denoiser, float]:
    """The averaged copy when its training is over, and the seconds that it took."""
    run = training(seed, steps, sees)
    for _ in run:
        pass
    return run.averaged.eval(), round(run.logs[-1].seconds, 1)


# --- what is asked ----------------------------------------------------------------------------------------------------

class Task(NamedTuple):
    """Pictures with holes, and for each all scenes that would be right, as clean pictures and in words."""
    known: Float[Tensor, "n 3 h w"]
    hole: Bool[Tensor, "n 1 h w"]
    right: list[Float[Tensor, "k 3 h w"]]
    scenes: list[list[Scene]]


def drawn(n: int, seed: int) -> tuple[Scenes, Float[Tensor, "n 3 h w"]]:
    """Scenes of the world, and pictures of them with its noise."""
    scenes = WORLD[torch.randint(len(WORLD), (n,), generator=rng("holes", seed))]
    return scenes, render(scenes, SIDE) + STD * noise((n, 3, SIDE, SIDE), 70 + seed)


def around(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """How far each pixel lies from the thing's centre, to the right and down, in pixels: [n 1 1 w] and [n 1 h 1]."""
    at, (x, y) = torch.arange(SIDE) + .5, (scenes.xy[:, 0] * SIDE).unbind(1)
    return (at - x[:, None])[:, None, None, :], (at - y[:, None])[:, None, :, None]


def halves(n: int, seed: int) -> Task:
    """All that lies right of the thing's centre is cut out: it must be continued."""
    scenes, x = drawn(n, seed)
    hole = (around(scenes)[0] > 0).expand(-1, 1, SIDE, -1)
    return Task(x, hole, list(render(scenes, SIDE)[:, None]), [[scene] for scene in scenes])


def gone(n: int, seed: int) -> Task:
    """The whole thing is cut out: any thing will do, at that place on that ground, for every picture shows one."""
    scenes, x = drawn(n, seed)
    hole = torch.maximum(*(far.abs() for far in around(scenes))) < 5
    words = [(c, s, z) for c in COLOURS for s in SHAPES for z in SIZES]
    wanted = [[Scene(scene.background, (replace(scene.things[0], colour=c, shape=s, size=z),)) for c, s, z in words]
              for scene in scenes]
    return Task(x, hole, [render(Scenes.of(every), SIDE) for every in wanted], wanted)


# --- painting and judging ---------------------------------------------------------------------------------------------

def painted(denoise: Denoise, task: Task, seed: int, *, steps: int = STEPS, repeats: int = 1) -> Tensor:
    """From noise, by DDIM with fresh noise, what is known put back; repeats: RePaint's way back and forth."""
    schedule, fresh = weights.load("ddpm-single").schedule, noise_like(seed)
    at = back_and_forth(times(steps, schedule.T), JUMP, repeats)
    walk = repaint_path(inpaint(denoise, task.known, task.hole), noise(tuple(task.known.shape), 700 + seed), at,
                        schedule, randn_like=fresh, step=partial(ddim_step, eta=1., randn_like=fresh))
    return last(walk)


def seam(x: Float[Tensor, "b 3 h w"], hole: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, "b"]:
    """Mean squared jump between neighbours of which one is in the hole."""
    total, count = torch.zeros(len(x)), torch.zeros(len(x))
    for axis in (2, 3):
        border = hole.diff(dim=axis)
        total += (x.diff(dim=axis).square() * border).sum((1, 2, 3))
        count += 3 * border.sum((1, 2, 3))
    return total / count.clamp(min=1)


def judged(x: Float[Tensor, "n 3 h w"], task: Task) -> dict:
    """Right: legal, and one of the right scenes; the error in the hole to the nearest of them; the seam beyond its."""
    reading, right, error, beyond = analyse(x.clamp(-1, 1)), 0, [], []
    for k, (scene, legal) in enumerate(zip(reading.scenes, reading.legal.tolist(), strict=True)):
        gaps = ((x[k] - task.right[k]).square() * task.hole[k]).sum((1, 2, 3)) / (3 * task.hole[k].sum())
        nearest = task.right[k][gaps.argmin()][None]
        fresh = nearest + STD * noise(tuple(nearest.shape), 7000 + k)
        right += legal and any(alike(scene, wanted) for wanted in task.scenes[k])
        error.append(float(gaps.min()) - STD ** 2)
        beyond.append(float(seam(x[k:k + 1], task.hole[k:k + 1]) - seam(fresh, task.hole[k:k + 1])))
    return {"of": len(x), "right": right, "legal": int(reading.legal.sum()),
            "error": round(sum(error) / len(x), 4), "seam": round(sum(beyond) / len(x), 4)}


def alike(a: Scene, b: Scene) -> bool:
    """The same ground and words, and the one thing in the same ninth."""
    if (a.background, len(a.things)) != (b.background, 1):
        return False
    p, q = a.things[0], b.things[0]
    return (p.shape, p.colour, p.size, p.place) == (q.shape, q.colour, q.size, q.place)


def ways(seeing: Denoiser, blind: Denoiser, task: Task, seed: int) -> dict[str, dict]:
    """What each way of painting into the holes reaches on one task."""
    base, none = weights.load("ddpm-single").denoiser, Seen(task.known, torch.ones_like(task.hole))
    networks = {"": base, "tuned blind, ": partial(blind, cond=none)}
    found = {f"{name}{way}": painted(net, task, seed, repeats=repeats) for name, net in networks.items()
             for way, repeats in {"replaced": 1, "resampled": REPEATS}.items()}
    sees = partial(seeing, cond=Seen(task.known, task.hole))
    found |= {"replaced, as many calls": painted(base, task, seed, steps=STEPS * REPEATS),
              "mask channel": painted(sees, task, seed),
              "mask channel, resampled": painted(sees, task, seed, repeats=REPEATS)}
    return {way: judged(x, task) for way, x in found.items()}


def row(seed: int, steps: int = TUNED, n: int = N) -> dict:
    """All ways, on both tasks, from one seed."""
    (seeing, seconds), (blind, as_long) = (tuned(seed, steps, sees) for sees in (True, False))
    tasks = {"halves": halves(n, seed), "gone": gone(n, seed)}
    return {"seed": seed, "steps": steps, "seconds": [seconds, as_long],
            "parameters": sum(q.numel() for q in seeing.parameters()),
            "tasks": {name: ways(seeing, blind, task, seed) for name, task in tasks.items()}}


def compared(folder: Path = weights.TRAINED, seeds: int = 3) -> None:
    """inpainting.json: all rows; an interrupted run keeps what it has in runs/."""
    recorded(folder / "inpainting.json", "inpainting.compared",
             {f"inpainting-{seed}": partial(row, seed) for seed in range(seeds)}, RUNS)


RECIPES = {"inpainting": compared}
