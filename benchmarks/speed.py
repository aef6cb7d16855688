"""How fast the world is: pictures drawn, pictures read, batches made. `python benchmarks/speed.py` prints the table."""
import argparse
import statistics
import time
from collections.abc import Callable

import torch

from minidiff import data
from minidiff.captions import parse, write
from minidiff.oracle import prompt_accuracy, read
from minidiff.scenes import full, render


def jobs() -> dict[str, tuple[int, str, Callable[[], object]]]:
    """By name: how many of what one call makes, and the call."""
    scenes = full(2000, data.rng("speed"))
    pictures, captions = render(scenes), write(scenes, data.rng("speed"))

    def accuracy() -> object:
        parse.cache_clear()
        return prompt_accuracy(pictures[:1000], captions[:1000])
    return {
        "draw 32 x 32": (2000, "pictures", lambda: render(scenes)),
        "draw 64 x 64": (500, "pictures", lambda: render(scenes[:500], 64)),
        "make scenes": (2000, "scenes", lambda: full(2000, data.rng("speed"))),
        "write captions": (2000, "captions", lambda: write(scenes, data.rng("speed"))),
        "read 32 x 32": (1000, "pictures", lambda: read(pictures[:1000])),
        "prompt accuracy": (1000, "pictures", accuracy),
        "batch of 64 pictures": (1, "batches", lambda: data.pictures(64)(0)),
        "batch of 64 pairs": (1, "batches", lambda: data.pairs(64)(0)),
        "batch of 64 contrasts": (1, "batches", lambda: data.contrasts(64)(0)),
    }


def rates(count: int, call: Callable[[], object], runs: int) -> tuple[float, float]:
    """The median of count / seconds over the runs, after one to warm up; by the clock, and by processor time."""
    call()
    seconds = []
    for _ in range(runs):
        clock, processor = time.perf_counter(), time.process_time()
        call()
        seconds.append((time.perf_counter() - clock, time.process_time() - processor))
    return tuple(count / statistics.median(column) for column in zip(*seconds, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"median of {options.runs} runs, threads: {options.threads}, torch {torch.__version__}\n")
    print("| job | a second | a second of processor time | |\n|---|---:|---:|---|")
    for name, (count, unit, call) in jobs().items():
        clock, processor = rates(count, call, options.runs)
        print(f"| {name} | {clock:,.0f} | {processor:,.0f} | {unit} |", flush=True)


if __name__ == "__main__":
    main()
