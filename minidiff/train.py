"""One training loop for every network of the course: draw a batch, take the loss, follow the gradient, repeat.

Batches and noise are functions of (seed, step), so a run that was interrupted goes on as if nothing had happened.
Under `torchrun` several processes share each batch and average their gradients.
"""
import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from minidiff import checkpoint as files
from minidiff.data import rng
from minidiff.processes import average_gradients, share, world


def cosine(u: float) -> float:
    """(1 + cos πu)/2: the learning rate falls from 1 to 0 while u, the finished share of the run, goes from 0 to 1."""
    return (1 + math.cos(math.pi * u)) / 2


def constant(u: float) -> float:
    """1, always."""
    return 1.0


@dataclasses.dataclass(frozen=True)
class Log:
    """What one step did: the scalars that the loss returned, and `seconds` of training up to its end."""
    step: int
    losses: dict[str, float]
    lr: float
    grad_norm: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class History:
    """A run, ready to plot: one array entry a step; `ema` is the averaged model (None if no average was asked for)."""
    steps: np.ndarray
    losses: dict[str, np.ndarray]
    minutes: np.ndarray
    ema: nn.Module | None

    def smooth(self, name: str = "loss", window: int = 50) -> np.ndarray:
        """The mean of the last `window` values (fewer at the start) of one scalar, at each step."""
        total = np.cumsum(self.losses[name])
        total[window:] = total[window:] - total[:-window]
        return total / np.minimum(np.arange(1, len(total) + 1), window)


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Inside, torch's own random numbers depend on `key` alone; afterwards they go on as if none had been drawn."""
    with torch.random.fork_rng(range(len(torch.cuda.default_generators))):
        # ten times as fast as torch.manual_seed, which also prepares for devices that are not there
        for generator in (torch.default_generator, *torch.cuda.default_generators):
            generator.manual_seed(rng(*key).initial_seed())
        yield


@dataclasses.dataclass
class Training:
    """Minimise E[loss(batch)] over the parameters of `model` with AdamW; iterating takes one step and gives its `Log`.

    `batches(k)` gives the batch of step k = 0, 1, … and `loss(batch)` gives {"loss": scalar, …}. Both may draw random
    numbers from torch: these depend on (seed, k) only. Between the logs the model is in eval mode. With a path as
    `checkpoint`, the same call made again after an interruption goes on exactly where the first one stopped.
    AdamW: Loshchilov & Hutter 2019, Algorithm 2.
    """
    model: nn.Module
    loss: Callable
    batches: Callable
    _: dataclasses.KW_ONLY
    steps: int
    lr: float = 1e-3
    seed: int = 0
    warmup: int = 50                                # steps in which the learning rate rises from 0 to lr
    lr_schedule: Callable[[float], float] = cosine  # times this factor, a function of the finished share of the run
    weight_decay: float = 0.0
    grad_clip: float = 1.0                          # longer gradients are cut to this norm; math.inf never cuts
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float | None = None                        # 0.999 averages the weights over about 1,000 steps
    autocast: torch.dtype | None = None             # torch.bfloat16 computes the loss in that precision
    checkpoint: str | Path | None = None
    checkpoint_every: int = 500

    def __post_init__(self):
        if not callable(self.batches):
            raise TypeError("batches must be a function step -> batch, such as data.batches(array, 64), not "
                            f"a {type(self.batches).__name__}.")
        if self.steps < 1 or self.warmup < 0 or self.lr <= 0 or self.grad_clip <= 0 or not 0 <= (self.ema or 0) < 1:
            raise ValueError("A training needs steps >= 1, warmup >= 0, lr > 0, grad_clip > 0 and 0 <= ema < 1, not "
                             f"{self.steps}, {self.warmup}, {self.lr}, {self.grad_clip} and {self.ema}.")
        self.rank, self.size = world()
        self.logs, self.open_step = [], []  # the second: what an unfinished step has done, where a step has parts
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ValueError("The model has no parameter that requires a gradient, so there is nothing to train.")
        for tensor in self.model.state_dict().values() if self.size > 1 else ():
            dist.broadcast(tensor, 0)  # all start from the weights of the first process
        self.device = next(iter(self.parameters.values())).device.type
        self.optimizer = torch.optim.AdamW(self.parameters.values(), betas=self.betas, weight_decay=self.weight_decay,
                                           fused=self.device in ("cpu", "cuda"))
        self.averaged = None if self.ema is None else copy.deepcopy(self.learner).eval().requires_grad_(False)
        if self.checkpoint and Path(self.checkpoint).exists():
            self.restore()

    def __iter__(self) -> Iterator[Log]:
        try:
            while len(self.logs) < self.steps:
                log = self.step()
                if len(self.logs) % self.checkpoint_every == 0 or len(self.logs) == self.steps:
                    self.save()
                yield log
        except (KeyboardInterrupt, GeneratorExit) as interruption:
            self.save()
            advice = "make the same call again to go on" if self.checkpoint else "with a checkpoint path it could go on"
            interruption.args = (f"stopped after {len(self.logs)} of {self.steps} steps: {advice}",)
            raise
        finally:
            self.optimizer.zero_grad()
            self.model.eval()

    @property
    def learner(self) -> nn.Module:
        """What is averaged: here the whole model."""
        return self.model

    def lr_at(self, k: int) -> float:
        """lr · min(1, (k + 1)/warmup) · lr_schedule(k/steps)"""
        return self.lr * min(1.0, (k + 1) / max(self.warmup, 1)) * self.lr_schedule(k / self.steps)

    def step(self) -> Log:
        """Loss, gradient, clipping, AdamW, average."""
        k, started = len(self.logs), time.perf_counter()
        values, norm = self.gradient(self.loss, list(self.parameters.values()), k)
        with files.unbroken():  # an update that Ctrl-C cuts in two could not be resumed
            self.optimizer.param_groups[0]["lr"] = self.lr_at(k)
            self.optimizer.step()
            self.average(k)
            self.logs.append(Log(k, values, self.lr_at(k), norm, self.clock(started)))
        self.model.eval()
        return self.logs[-1]

    def clock(self, started: float) -> float:
        """Seconds of training up to now, if the running step began at `started`."""
        return (self.logs[-1].seconds if self.logs else 0.0) + time.perf_counter() - started

    def gradient(self, loss: Callable, parameters: list[nn.Parameter], k: int) -> tuple[dict[str, float], float]:
        """Leave the clipped gradient of loss(batch k) in these parameters alone; what the loss said, and the norm."""
        with files.whole_or_nothing(self.model.train()):
            losses = self.losses(loss, k)
            values = self.numbers(losses)
            self.optimizer.zero_grad()
            losses["loss"].backward(inputs=parameters)
            if self.size > 1:
                average_gradients(parameters, self.size)
            norm = float(nn.utils.clip_grad_norm_(parameters, self.grad_clip))
            if not math.isfinite(norm):
                self.stop(f"the gradient is not finite though the loss is {values['loss']:.4g}")
        return values, norm

    def losses(self, loss: Callable, k: int) -> dict[str, Float[Tensor, ""] | float]:
        """What the loss says of this process's share of batch k."""
        with seeded(self.seed, "batch", k):
            batch = self.batches(k)
        batch = share(batch, self.rank, self.size) if self.size > 1 else batch
        precision = torch.autocast(self.device, self.autocast, enabled=self.autocast is not None)
        with seeded(self.seed, "noise", k, self.rank), precision:
            losses = loss(batch)
        if not isinstance(losses, dict) or "loss" not in losses:
            raise TypeError('The loss function must return a dict with the scalar to minimise: {"loss": scalar}.')
        return losses

    def numbers(self, losses: dict[str, Float[Tensor, ""] | float]) -> dict[str, float]:
        """The scalars, averaged over the processes; a loss that is not finite ends the run."""
        values = torch.tensor([torch.as_tensor(value).item() for value in losses.values()], dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(values)
        values = dict(zip(losses, (values / self.size).tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            self.stop(", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)))
        return values

    def stop(self, reason: str) -> None:
        raise FloatingPointError(
            f"Training stopped at step {len(self.logs)} because {reason}; the model keeps its last good weights: try a "
            f"smaller lr than {self.lr:g}, more warmup, or look for a logarithm, root or division that meets zero.")

    @torch.no_grad()
    def average(self, k: int) -> None:
        """θ̄ ← d·θ̄ + (1 − d)·θ with d = min(ema, (1 + k)/(10 + k)), so that the first weights are soon forgotten."""
        if self.averaged is None:
            return
        mean, decay = dict(self.averaged.named_parameters()), min(self.ema, (1 + k) / (10 + k))
        for name, p in self.learner.named_parameters():
            if p.requires_grad:
                mean[name].lerp_(p, 1 - decay)
        for kept, buffer in zip(self.averaged.buffers(), self.learner.buffers(), strict=True):
            kept.copy_(buffer)

    def fingerprint(self) -> dict[str, str]:
        """What has to be equal for a checkpoint to belong to this run."""
        settings = "steps", "lr", "seed", "warmup", "weight_decay", "grad_clip", "betas", "ema", "autocast"
        frozen = {name: p for name, p in self.model.named_parameters() if not p.requires_grad}
        return {name: str(getattr(self, name)) for name in settings} | {"frozen": files.checksum(frozen)[:16],
            "lr_schedule": str([self.lr_schedule(i / 8) for i in range(8)]), "processes": str(self.size),
            "model": f"{type(self.model).__name__} with {sum(p.numel() for p in self.parameters.values())} parameters"}

    def save(self) -> None:
        """Put all that the next step depends on into the checkpoint, if there is to be one."""
        if self.checkpoint and self.rank == 0:
            about = {"run": self.fingerprint(), "logs": [dataclasses.astuple(log) for log in self.logs],
                     "open": self.open_step}
            files.write(Path(self.checkpoint), files.pack(self.model, self.optimizer, self.averaged), about)

    def restore(self) -> None:
        """Take up the run that the checkpoint holds, if it is this one."""
        tensors, about = files.read(Path(self.checkpoint))
        here, there = self.fingerprint(), about.get("run", {})
        changed = [f"{key} is {there.get(key)} there, {here[key]} here" for key in here if here[key] != there.get(key)]
        if changed:
            raise ValueError(f"{self.checkpoint} belongs to another run ({'; '.join(changed)}): choose another path.")
        files.unpack(tensors, self.model, self.optimizer, self.averaged)
        self.logs, self.open_step = [Log(*log) for log in about["logs"]], about.get("open", [])

    def history(self) -> History:
        """The steps so far as arrays, with those before an interruption."""
        losses = {name: np.array([log.losses[name] for log in self.logs]) for name in self.logs[0].losses}
        minutes = np.array([log.seconds / 60 for log in self.logs])
        return History(np.arange(len(self.logs)), losses, minutes, self.averaged)


def fit(model: nn.Module, loss: Callable, batches: Callable, *, steps: int, lr: float = 1e-3, seed: int = 0,
        warmup: int = 50, lr_schedule: Callable[[float], float] = cosine, weight_decay: float = 0.0,
        grad_clip: float = 1.0, betas: tuple[float, float] = (0.9, 0.99), ema: float | None = None,
        autocast: torch.dtype | None = None, checkpoint: str | Path | None = None,
        checkpoint_every: int = 500) -> History:
    """Minimise loss(batch)["loss"] over batches(0), batches(1), … with AdamW, behind a progress bar.

    warmup and lr_schedule shape the learning rate, grad_clip bounds the gradient's norm, ema (such as 0.999) averages
    the weights, autocast (torch.bfloat16) computes the loss in that precision, checkpoint is a file from which the same
    call made again goes on. `Training` has the details. Afterwards `model` holds the last weights and `history.ema`, if
    asked for, the averaged ones, both in eval mode.
    """
    run = Training(model, loss, batches, steps=steps, lr=lr, seed=seed, warmup=warmup, lr_schedule=lr_schedule,
                   weight_decay=weight_decay, grad_clip=grad_clip, betas=betas, ema=ema, autocast=autocast,
                   checkpoint=checkpoint, checkpoint_every=checkpoint_every)
    return watched(run, lambda losses: f"loss {losses['loss']:.4f}")


def watched(run: Training, said: Callable[[dict[str, float]], str]) -> History:
    """Take all steps behind a progress bar, which shows what `said` makes of the last losses."""
    hidden = run.rank > 0 or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    with closing(iter(run)) as logs, tqdm(total=run.steps, initial=len(run.logs), disable=hidden) as bar:
        for log in logs:
            bar.set_postfix_str(said(log.losses), refresh=False)
            bar.update()
    return run.history()
