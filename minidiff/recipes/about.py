"""What every recipe does besides training: start from a seed, choose the precision, report, and tell the machine."""
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from minidiff.plot import write
from minidiff.train import Log, Training, seeded

RUNS = Path("runs")                                    # checkpoints of unfinished recipes, in the folder one stands in


def fast_precision() -> torch.dtype | None:
    """bfloat16 where this processor computes in it, None (float32) elsewhere."""
    native = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else None


def made(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with its first weights drawn from a seed, its convolutions in the layout that is fast on a CPU."""
    with seeded("first weights", seed):
        return build().to(memory_format=torch.channels_last)


def machine() -> str:
    """What the recipe ran on, in words."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{device}, {platform.machine()}, torch {torch.__version__}, {fast_precision() or torch.float32}"


class Notes:
    """Rows that a run has measured on its way, kept in a JSON file so that an interrupted run does not lose them."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = json.loads(path.read_text()) if path.exists() else []

    def add(self, row: dict) -> None:
        """One more row; an older one of the same step, from before an interruption, is replaced."""
        self.rows = [old for old in self.rows if old["step"] < row["step"]] + [row]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, json.dumps(self.rows, indent=1).encode())
        print("   ", {name: kept["right"] for name, kept in row["accuracy"].items()}, flush=True)


def followed(run: Training, name: str, every: int = 100) -> Iterator[Log]:
    """The run's logs; now and then a line with the mean losses since the last line."""
    sums, started = {}, time.perf_counter()
    for log in run:
        sums = {key: sums.get(key, 0.) + value for key, value in log.losses.items()}
        if (log.step + 1) % every == 0 or log.step + 1 == run.steps:
            n = (log.step % every) + 1
            means = ", ".join(f"{key} {value / n:.4g}" for key, value in sums.items())
            print(f"{name}: step {log.step + 1} of {run.steps}, {log.seconds / 60:.1f} min: {means}", flush=True)
            sums = {}
        yield log
    print(f"{name}: done, {(time.perf_counter() - started) / 60:.1f} min in this call", flush=True)
