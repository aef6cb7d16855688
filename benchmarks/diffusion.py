"""Seconds for a training step and for a sampled picture: our U-Net, and diffusers' UNet2DModel of the same size.

`python benchmarks/diffusion.py` prints the table; diffusers is needed (`pip install -e ".[peers]"`). Both are networks
of random weights for 32x32 pictures, three levels with attention at the lowest, and both are trained and sampled by the
same loop, which is ours: only the networks differ. Below the table: what the sampling loop costs beyond bare calls of
the network, and what share of this machine's matrix multiplication a training step reaches (float32, three times the
forward pass's multiply-adds).
"""
import argparse
import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minidiff.data import noise, pictures
from minidiff.ddpm import DDPM
from minidiff.denoiser import Denoiser
from minidiff.recipes.about import fast_precision, made
from minidiff.recipes.diffusion import FULL
from minidiff.samplers import sample
from minidiff.schedules import times


class Theirs(nn.Module):
    """UNet2DModel as net(x, t, cond): one block a level, four heads, steps from 0 to 1000."""

    def __init__(self, widths: tuple[int, int, int]):
        super().__init__()
        from diffusers import UNet2DModel
        down, up = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
        self.net = UNet2DModel(sample_size=32, in_channels=3, out_channels=3, layers_per_block=1, norm_num_groups=4,
                               block_out_channels=widths, down_block_types=down, up_block_types=up,
                               attention_head_dim=widths[-1] // 4)

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
        return self.net(x, 1000 * t).sample.float()


def size(net: nn.Module) -> tuple[int, float]:
    """Parameters, and multiply-adds for one picture in millions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 32, 32), torch.ones(1))
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops() / 2e6


def nearest(which: int, wanted: float) -> nn.Module:
    """Their network whose size (0: parameters, 1: multiply-adds) is nearest to ours."""
    every = product(range(16, 25, 4), range(28, 37, 4), range(36, 49, 4))
    return made(lambda: min(map(Theirs, every), key=lambda net: abs(size(net)[which] - wanted)))


def seconds(call: Callable[[], object], runs: int) -> float:
    """The median over the runs, after two to warm up."""
    found = []
    for _ in range(runs + 2):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found[2:])


def timed(net: nn.Module, runs: int, batch: int = 32, steps: int = 50) -> tuple[float, float]:
    """Seconds for a training step on a batch, and for a picture out of `steps` steps of DDIM."""
    model = Denoiser(net, DDPM(FULL).schedule, "v")
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    x0, precision = pictures(batch)(0), fast_precision()

    def train() -> None:
        with torch.autocast("cpu", precision, enabled=precision is not None):
            loss = model.loss(x0, torch.randint(1, 1001, (batch,)) / 1000)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def draw() -> None:
        sample(model, noise((batch, 3, 32, 32), 0), times(steps // 10, 1000), model.schedule)
    return seconds(train, runs), 10 * seconds(draw, max(runs // 5, 3)) / batch


def loop_over_calls(net: nn.Module, runs: int, batch: int = 32, steps: int = 10) -> float:
    """Seconds of the sampling loop over those of as many bare calls of the network, pair by pair, less 1."""
    model, x = Denoiser(net, DDPM(FULL).schedule, "v"), noise((batch, 3, 32, 32), 0)
    list_of_times = times(steps, 1000)

    def calls() -> None:
        with torch.no_grad():
            for t in list_of_times[:-1]:
                net(x, t.float().expand(batch))
    ratios = [seconds(lambda: sample(model, x, list_of_times, model.schedule), 1) / seconds(calls, 1)
              for _ in range(runs)]
    return statistics.median(ratios) - 1


def peak(runs: int = 20, n: int = 1024) -> float:
    """Multiply-adds a second of an n x n float32 matrix product, in millions."""
    a, b = torch.randn(2, n, n)
    return n ** 3 / seconds(lambda: a @ b, runs) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours = made(lambda: DDPM(FULL)).denoiser.net
    wanted = size(ours)
    nets = {"minidiff": ours, "diffusers, as many parameters": nearest(0, wanted[0]),
            "diffusers, as many multiply-adds": nearest(1, wanted[1])}
    print(f"batch 32, training in {fast_precision() or 'float32'}, 50 steps a picture in float32; median of "
          f"{options.runs} runs, threads: {options.threads}, torch {torch.__version__}\n")
    reached = 0.
    print("| network | parameters | multiply-adds (M) | s a training step | s a picture |\n|---|---:|---:|---:|---:|")
    for name, net in nets.items():
        count, work = size(net)
        step, picture = timed(net, options.runs)
        reached = 3 * 32 * work / step if net is ours else reached
        print(f"| {name} | {count:,} | {work:.0f} | {step:.3f} | {picture:.3f} |", flush=True)
    print(f"\nThe sampling loop over bare calls of the network: {loop_over_calls(ours, 7):+.1%}.")
    print(f"Share of the matrix products' peak in a training step: {reached / peak():.0%}.")


if __name__ == "__main__":
    main()
