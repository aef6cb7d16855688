"""The Fréchet distance of features as large as Inception's, 2,048 numbers of 10,000 pictures: ours and scipy's root.

`python benchmarks/frechet.py` prints both times, both answers, and the memory that the matrices take.
"""
import argparse
import time

import numpy as np
import scipy.linalg
import torch

from minidiff.data import rng
from minidiff.metrics import FeatureStatistics, frechet_distance


def features(n: int, d: int, seed: int) -> torch.Tensor:
    """Correlated features whose variances fall over three decades, as those of a trained network do."""
    generator = rng("benchmark", seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    return torch.randn(n, d, generator=generator) * torch.logspace(0, -1.5, d) @ turn + .01 * seed


def main() -> None:
    """The table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("-d", type=int, default=2048)
    options.add_argument("-n", type=int, default=10_000)
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    a, b = (sum(map(FeatureStatistics.of, features(args.n, args.d, k).split(1000))) for k in (0, 1))
    mean1, cov1, mean2, cov2 = a.mean, a.covariance, b.mean, b.covariance
    began = time.perf_counter()
    ours = frechet_distance(mean1, cov1, mean2, cov2)
    took = time.perf_counter() - began
    began = time.perf_counter()
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy())
    theirs = float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()) - 2 * np.trace(root).real
    took_theirs = time.perf_counter() - began
    print(f"d = {args.d}, n = {args.n}, {args.threads} threads, torch {torch.__version__}, scipy {scipy.__version__}")
    print(f"minidiff {took:6.1f} s   {ours:.8g}")
    print(f"sqrtm    {took_theirs:6.1f} s   {theirs:.8g}   {took_theirs / took:.1f} times as long, "
          f"relative difference {abs(ours - theirs) / theirs:.1e}")
    print(f"matrices held at once: six of {8 * args.d ** 2 / 2 ** 20:.0f} MiB")


if __name__ == "__main__":
    main()
