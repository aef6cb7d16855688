"""What every recipe does besides training: start from a seed, choose the precision, report, and tell the machine."""
import json
import platform
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn

from minidiff import weights
from minidiff.plot import write
from minidiff.train import Log, Training, seeded

RUNS = Path("runs")                                    # checkpoints of unfinished recipes, in the folder one stands in


def device() -> str:
    """"cuda" where there is a graphics card, "cpu" elsewhere; only recipes that ask for it leave the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def there(batches: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """The same batches, on that device."""
    return lambda step: batches(step).to(device())


def fast_precision(on: str = "cpu") -> torch.dtype | None:
    """bfloat16 where the processor has instructions for it, None (float32) elsewhere; on: "cuda" never asks for it."""
    if on != "cpu":
        return None
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")         # not in every version of PyTorch
    return torch.bfloat16 if any(getattr(torch.cpu, ask, lambda: False)() for ask in asks) else None


def made(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with its first weights drawn from a seed, its convolutions in the layout that is fast on a CPU."""
    with seeded("first weights", seed):
        return build().to(memory_format=torch.channels_last)


def machine(dtype: torch.dtype | None = None, on: str = "cpu") -> str:
    """What the recipe ran on, in words; dtype, if it did not compute in the fast precision."""
    if on != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, float32 with TF32 in convolutions"
    precision = str(dtype or fast_precision() or torch.float32).removeprefix("torch.")
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}, torch {torch.__version__}, {precision}"


def measured(path: Path, measure: Callable[[nn.Module], dict]) -> None:
    """Measure the model as the file holds it, and put what it reached into the file."""
    about = {k: v for k, v in weights.describe(path).items() if k not in weights.IDENTITY}
    parts = {child: note["file"] for child, note in weights.describe(path)["parts"].items()}
    quality = measure(weights.load(path))
    weights.save(path, weights.load(path), dtype=torch.float16, about=about | {"quality": quality}, parts=parts)


def recorded(path: Path, recipe: str, rows: dict[str, Callable[[], dict]], runs: Path = RUNS) -> None:
    """PATH.json from the rows that these calls give, each with the processor's minutes; `rows` names each row's file.

    A row is kept in `runs` as soon as it is there, so an interrupted comparison goes on with the next.
    """
    runs.mkdir(exist_ok=True)
    kept = {runs / f"{name.replace(' ', '-')}.json": make for name, make in rows.items()}
    for file, make in kept.items():
        if not file.exists():
            began = time.process_time()
            found = make() | {"minutes": round((time.process_time() - began) / 60, 2)}
            write(file, json.dumps(found).encode())
            print(found, flush=True)
    about = {"recipe": recipe, "machine": machine(), "date": str(date.today()),
             "rows": [json.loads(file.read_text()) for file in kept]}
    write(path, json.dumps(about, indent=1).encode())


class Notes:
    """Rows that a run has measured on its way, kept in a JSON file so that an interrupted run does not lose them."""

    def __init__(self, path: Path, steps: int):
        self.path = path
        rows = json.loads(path.read_text()) if path.exists() else []
        self.rows = [row for row in rows if row["step"] <= steps]                   # not those of an earlier run

    def has(self, step: int) -> bool:
        """Whether this step has its row."""
        return any(row["step"] == step for row in self.rows)

    def add(self, row: dict) -> None:
        """One more row."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, json.dumps(self.rows, indent=1).encode())
        print("   ", {name: kept["right"] for name, kept in row["accuracy"].items()}, flush=True)


def followed(run: Training, name: str, every: int = 100) -> Iterator[Log]:
    """The run's logs; now and then a line with the mean losses since the last line."""
    sums, n = {}, 0
    for log in run:
        sums, n = {key: sums.get(key, 0.) + value for key, value in log.losses.items()}, n + 1
        if (log.step + 1) % every == 0 or log.step + 1 == run.steps:
            means = ", ".join(f"{key} {value / n:.4g}" for key, value in sums.items())
            print(f"{name}: step {log.step + 1} of {run.steps}, {log.seconds / 60:.1f} min: {means}", flush=True)
            sums, n = {}, 0
        yield log
