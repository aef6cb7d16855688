"""Whole or not at all: files and training steps that no interruption leaves half done."""
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn


def checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of some tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Save tensors and JSON values as one safetensors file, which replaces an older one only when it is whole."""
    tensors = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    text = json.dumps(about | {"checksum": checksum(tensors)}, ensure_ascii=False)
    content = save(tensors, {"minidiff": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        advice = "nothing was written and an older file is as it was; the model in memory is intact, so make room first"
        raise OSError(error.errno, f"{error.strerror}: {advice}", str(path)) from error


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and JSON values of a file that `write` made; any other or damaged file is refused."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, "pt") as file:
            notes, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in list(file.keys())}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): fetch or make it again.") from error
    if not {"minidiff", "sha256"} <= notes.keys():
        raise ValueError(f"{path} is a safetensors file, but not one that minidiff wrote.")
    sealed = hashlib.sha256(notes["minidiff"].encode()).hexdigest() == notes["sha256"]
    if not sealed or (about := json.loads(notes["minidiff"]))["checksum"] != checksum(tensors):
        raise ValueError(f"{path} has changed since it was written (its checksum is wrong): fetch or make it again.")
    return tensors, about


def pack(model: nn.Module, optimizer: torch.optim.Optimizer, averaged: nn.Module | None) -> dict[str, Tensor]:
    """A training's state under flat names: the model's tensors, the optimizer's by parameter, the averaged model's."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, p in model.named_parameters():
        tensors |= {f"optimizer/{name}/{key}": tensor for key, tensor in optimizer.state.get(p, {}).items()}
    mean = {} if averaged is None else averaged.state_dict()
    return tensors | {f"averaged/{name}": tensor for name, tensor in mean.items()}


def unpack(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer,
           averaged: nn.Module | None) -> None:
    """Put what `pack` took out into a model, an optimizer and an averaged model of the same make."""
    def under(prefix):
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    model.load_state_dict(under("model/"))
    if averaged is not None:
        averaged.load_state_dict(under("averaged/"))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    state = {i: {key: laid_out(value, p) for key, value in under(f"optimizer/{name}/").items()}
             for i, (name, p) in enumerate(trained)}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {i: kept for i, kept in state.items() if kept}, "param_groups": groups})


def laid_out(value: Tensor, p: nn.Parameter) -> Tensor:
    """A tensor in the memory order of its parameter (channels last, say): fused AdamW walks both in step."""
    return torch.empty_like(p, dtype=value.dtype).copy_(value) if value.shape == p.shape else value


@contextmanager
def whole_or_nothing(model: nn.Module) -> Iterator[None]:
    """A block that fails leaves the model's buffers (running statistics and the like) as they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    except BaseException:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
        raise


@contextmanager
def unbroken() -> Iterator[None]:
    """Ctrl-C waits for the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears Ctrl-C
        yield
        return
    caught = []
    usual = signal.signal(signal.SIGINT, lambda *_: caught.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if caught:
        raise KeyboardInterrupt
