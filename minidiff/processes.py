"""Several processes under `torchrun`, one batch: each takes its share, then all average their gradients."""
import dataclasses
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> tuple[int, int]:
    """(rank, number of processes): (0, 1), or what `torchrun` says, whose group is joined on the first call."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def share(batch, rank: int, size: int):
    """The rank-th of `size` equal parts of a batch: tensors in any nest of tuples, lists, dicts and dataclasses."""
    if isinstance(batch, dict):
        return {key: share(value, rank, size) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return getattr(type(batch), "_make", type(batch))(share(value, rank, size) for value in batch)
    if dataclasses.is_dataclass(batch):
        return dataclasses.replace(batch, **share(vars(batch), rank, size))
    if not isinstance(batch, Tensor) or not batch.ndim:
        raise TypeError(f"Processes share batches of tensors with a batch axis, not a {type(batch).__name__}.")
    if len(batch) % size:
        raise ValueError(f"{size} processes cannot share a batch of {len(batch)}: make its size a multiple of {size}.")
    return batch.chunk(size)[rank]


def average_gradients(parameters: list[nn.Parameter], size: int) -> None:
    """∇L = (1/n) Σ_i ∇L_i over n processes, as one long vector, so that all of them exchange the same amount."""
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, g in zip(parameters, (flat / size).split([p.numel() for p in parameters]), strict=True):
        p.grad = g.view_as(p)
