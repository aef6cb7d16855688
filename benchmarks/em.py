"""Seconds for one iteration of EM, ours and scikit-learn's: full covariances, the same points, start and threads.

`python benchmarks/em.py` prints the table; scikit-learn is needed (`pip install scikit-learn`).
"""
import argparse
import os
import time
import warnings
from collections.abc import Callable

Clock = tuple[float, float]                                        # seconds by the clock, and of processor time


def seconds(call: Callable[[], object]) -> Clock:
    """How long a call takes."""
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - processor


def iteration(fit: Callable[[int], object], few: int = 2, many: int = 12) -> Clock:
    """One iteration: what `many` take longer than `few`, so that the start does not count."""
    short, long = seconds(lambda: fit(few)), seconds(lambda: fit(many))
    return tuple((b - a) / (many - few) for a, b in zip(short, long, strict=True))


def fits(n: int, d: int, k: int) -> dict[str, Callable[[int], object]]:
    """Fits of so many iterations to n points of k random Gaussians in d dimensions, from k of these points."""
    import torch
    from sklearn.mixture import GaussianMixture as Theirs

    from minidiff.data import rng
    from minidiff.mixture import GaussianMixture
    generator = rng("benchmark")
    means, mixing = (torch.randn(*shape, generator=generator).double() for shape in ((k, 1, d), (k, d, d)))
    x = (2 * means + torch.randn(k, n // k, d, generator=generator).double() @ mixing / 2).flatten(0, 1)
    weights, start, unit = torch.full((k,), 1 / k), x[torch.randperm(len(x), generator=generator)[:k]], torch.eye(d)
    begin = GaussianMixture.of(weights, start, unit.expand(k, d, d))
    points, given = x.numpy(), {"weights_init": begin.weights_.numpy(), "means_init": start.numpy(),
                                "precisions_init": unit.double().expand(k, d, d).numpy()}
    return {"minidiff": lambda steps: GaussianMixture(k, tol=0, max_iter=steps).fit(x, begin),
            "scikit-learn": lambda steps: Theirs(k, tol=0, max_iter=steps, reg_covar=1e-6, **given).fit(points)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("n", 100_000), ("d", 16), ("k", 20), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    for library in ("OMP", "OPENBLAS", "MKL"):                     # read when NumPy and PyTorch are imported
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)
    warnings.simplefilter("ignore")                                # scikit-learn's: it has not converged
    found = {name: iteration(fit) for name, fit in fits(options.n, options.d, options.k).items()}
    print(f"n = {options.n:,}, d = {options.d}, k = {options.k}, threads: {options.threads}; one run\n")
    print("| an iteration of EM | seconds | of processor time |\n|---|---:|---:|")
    for name, (clock, processor) in found.items():
        print(f"| {name} | {clock:.3f} | {processor:.3f} |")
    ratios = [ours / theirs for ours, theirs in zip(*found.values(), strict=True)]
    print(f"| ratio, ours to theirs | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
