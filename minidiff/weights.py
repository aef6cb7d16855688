"""Trained models as files: tensors in safetensors, everything else as JSON beside them, nothing that could run code."""
import contextlib
import dataclasses
import difflib
import importlib
import json
import re
import typing
from collections.abc import Iterable
from pathlib import Path
from types import UnionType

import torch
from torch import Tensor, nn

from minidiff.checkpoint import read, write

TRAINED = Path(__file__).parent / "trained"
IDENTITY = "class", "config", "parts", "checksum"  # these make a file that model; the rest of `describe` is its story


def save(path: str | Path, model: nn.Module, *, dtype: torch.dtype | None = None, parts: dict[str, str] | None = None,
         about: dict | None = None) -> None:
    """Write a model made as `Model(config, **parts)` with its story: recipe, seed, steps, machine, minutes, quality, …

    `dtype=torch.float16` halves the file: float32 tensors are rounded, all others kept. `parts={"text": "my-encoder"}`
    leaves the child `text` in its own file my-encoder.safetensors in the same folder and notes which one it is.
    """
    path, about, parts = Path(path), about or {}, parts or {}
    if path.suffix != ".safetensors" or dtype not in (None, torch.float16) or about.keys() & {*IDENTITY}:
        raise ValueError(f"Weights go to NAME.safetensors, with dtype float16 or None, and about has no {IDENTITY}.")
    tensors = own(model, parts)
    for name, tensor in tensors.items():
        tensors[name] = tensor.half() if dtype and tensor.dtype == torch.float32 else tensor
        if not tensors[name].isfinite().equal(tensor.isfinite()):
            raise ValueError(f"{name} holds numbers too large for float16: save this model with dtype=None.")
    made = {"class": dotted(model), "config": plain(model)}
    if rebuilt(made["config"], config_class(found(made["class"], path)), "config") != model.config:
        raise ValueError(f"The config of {made['class']} changes when written as JSON: use plain values, tuples.")
    stored = {child: part(path, file, model.get_submodule(child)) for child, file in parts.items()}
    write(path, tensors, about | made | {"parts": stored})


def load(name: str | Path) -> nn.Module:
    """The model in a file, or a shipped one by its bare name, in eval mode; the random state is left as it was."""
    path = located(name)
    tensors, about = opened(path)
    model_class, parts = found(str(about["class"]), path), {}
    for child, noted in about["parts"].items():
        file = path.with_name(f"{noted['file']}.safetensors")
        if identity(describe(file)) != identity(noted):
            raise ValueError(f"{path} was made with another {file.name} than the one beside it: fetch both again.")
        parts[child] = load(file)
    with torch.random.fork_rng([]):
        model = model_class(rebuilt(about["config"], config_class(model_class), f"{path}: config"), **parts)
    wanted = own(model, parts)
    wrong = [name for name in wanted | tensors if not fits(tensors.get(name), wanted.get(name))]
    if wrong:
        raise ValueError(f"{path} does not fit {about['class']}: missing, extra or ill-shaped {', '.join(wrong[:3])}.")
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def describe(name: str | Path) -> dict:
    """What a file says of its model: class, config, parts, checksum, and the story that `save` was told."""
    return opened(located(name))[1]


def names() -> list[str]:
    """The shipped models."""
    return sorted(path.stem for path in TRAINED.glob("*.safetensors"))


def located(name: str | Path) -> Path:
    """A path as it is; a bare name in the folder of shipped models."""
    if isinstance(name, Path) or Path(name).name != name or name.endswith(".safetensors"):
        return Path(name)
    if name not in names():
        nearest = ", ".join(difflib.get_close_matches(name, names(), cutoff=0)) or "none: no model is shipped yet"
        raise FileNotFoundError(f"No shipped model is called {name!r}; the nearest names are {nearest}.")
    return TRAINED / f"{name}.safetensors"


def opened(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and notes of a model's file."""
    tensors, about = read(path)
    if not {*IDENTITY} <= about.keys():
        raise ValueError(f"{path} holds no model that `weights.save` wrote (a training's checkpoint, perhaps).")
    return tensors, about


def identity(about: dict) -> dict:
    """The entries that make a file that model, and not another."""
    return {key: about[key] for key in IDENTITY}


def own(model: nn.Module, parts: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of a model that do not belong to one of its parts."""
    inside = tuple(f"{child}." for child in parts)
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(inside)}


def part(path: Path, file: str, child: nn.Module) -> dict:
    """The note on a part: its file, which must hold this very child up to rounding, and its identity."""
    tensors, about = opened(path.with_name(f"{file}.safetensors"))
    here = own(child, about["parts"])
    same = (about["class"], about["config"], tensors.keys()) == (dotted(child), plain(child), here.keys())
    if not same or not all(tensor.equal(here[name].to(tensor.dtype)) for name, tensor in tensors.items()):
        raise ValueError(f"{file}.safetensors holds another model than the part of {path.name}: save that part first.")
    return {"file": file} | identity(about)


def fits(tensor: Tensor | None, place: Tensor | None) -> bool:
    """Same shape, same type or float16 for float32."""
    kinds = tensor is not None and place is not None and (tensor.dtype, place.dtype)
    return bool(kinds) and tensor.shape == place.shape and (
        kinds[0] == kinds[1] or kinds == (torch.float16, torch.float32))


def dotted(model: nn.Module) -> str:
    """The full name of a model's class."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def found(name: str, path: Path) -> type[nn.Module]:
    """The class with a dotted name, if it is a network of this library: a file can ask for nothing else."""
    module, _, last = name.rpartition(".")
    kind = None
    if re.fullmatch(r"minidiff(\.[a-z]\w*)+", module):
        with contextlib.suppress(ImportError):
            kind = getattr(importlib.import_module(module), last, None)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module) or kind.__module__ != module:
        raise ValueError(f"{path} asks for the class {name}, which is no network of this version of minidiff.")
    return kind


def config_class(model_class: type[nn.Module]) -> type:
    """The dataclass C of `def __init__(self, config: C, …)`."""
    kind = typing.get_type_hints(model_class.__init__).get("config")
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{model_class.__name__}.__init__ must name the dataclass of its config: `config: C`.")
    return kind


def plain(model: nn.Module) -> dict:
    """The config of a model as JSON values."""
    try:
        return json.loads(json.dumps(dataclasses.asdict(getattr(model, "config", None))))
    except TypeError as error:
        raise ValueError(f"{dotted(model)} needs a .config, a dataclass of plain values ({error}).") from error


def rebuilt(value, kind, where: str):
    """The JSON value as an instance of the annotated type `kind`, field by field; `where` names it in messages."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = {field.name: typing.get_type_hints(kind)[field.name] for field in dataclasses.fields(kind)}
        needed = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
        strange = (value.keys() - hints.keys()) | (needed - value.keys())         # a newer field keeps its default
        if strange:
            raise ValueError(f"{where} and the {kind.__name__} of this minidiff differ in their fields: "
                             f"{', '.join(sorted(strange))}.")
        return kind(**{name: rebuilt(kept, hints[name], f"{where}.{name}") for name, kept in value.items()})
    if origin is tuple and isinstance(value, list):
        kinds = inner[:1] * len(value) if inner[-1:] == (...,) else inner
        if len(kinds) == len(value):
            return tuple(rebuilt(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    for arm in inner if origin in (typing.Union, UnionType) else ():
        try:
            return rebuilt(value, arm, where)
        except ValueError:
            continue
    if origin is typing.Literal and value in inner or type(value) is kind or (kind, type(value)) == (float, int):
        return value
    if value is None and kind is type(None):
        return value
    raise ValueError(f"{where} should be {getattr(kind, '__name__', kind)}, not {value!r}.")
