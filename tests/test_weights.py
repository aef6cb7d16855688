"""Files come back exactly, and every damaged, foreign or mismatched one is refused with a sentence."""
import dataclasses
import errno
import hashlib
import json
import os
import struct
import sys
import types
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minidiff import checkpoint, weights


@dataclasses.dataclass(frozen=True)
class Inner:
    heads: int
    rates: tuple[float, ...] = (0.1, 0.2)


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 3
    scale: float = 1.0
    name: str = "é"
    pair: tuple[int, str] = (1, "a")
    inner: Inner = Inner(2)
    others: tuple[Inner, ...] = (Inner(1), Inner(2, ()))
    kind: Literal["a", "b"] = "a"
    maybe: int | None = None
    flag: bool = True


class Toy(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.width, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("table", torch.linspace(0, 1, 5, dtype=torch.float64))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("wall", torch.tensor([0.0, -torch.inf]))


class Whole(nn.Module):
    def __init__(self, config: Inner, left: Toy, right: Toy):
        super().__init__()
        self.config, self.left, self.right = config, left, right
        self.head = nn.Linear(2, config.heads)


class Untold(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.linear = config, nn.Linear(1, 1)


@pytest.fixture(autouse=True)
def toy_module(monkeypatch):
    """The classes above, as if they belonged to the library."""
    module = types.ModuleType("minidiff.toy")
    for kind in Toy, Whole, Untold:
        monkeypatch.setattr(kind, "__module__", "minidiff.toy")
        setattr(module, kind.__name__, kind)
    module.nn, module.Linear, module.Config = nn, nn.Linear, Config
    monkeypatch.setitem(sys.modules, "minidiff.toy", module)


def toy(seed: int = 0, **fields) -> Toy:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = Toy(Config(**fields))
        model.norm(torch.randn(4, 2))  # running statistics move
    return model


def assert_same(a: nn.Module, b: nn.Module, round_to=None):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        want = a[name].to(round_to).to(a[name].dtype) if round_to and a[name].dtype == torch.float32 else a[name]
        assert want.dtype == b[name].dtype and torch.equal(want, b[name]), name


def metadata(path: Path) -> dict:
    """Read by the format's own definition: eight bytes of length, then JSON."""
    data = path.read_bytes()
    return json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]


def forge(path: Path, tensors=None, **changes):
    """A whole file with false content: seals are right, the story is not."""
    held, about = checkpoint.read(path)
    about = {key: value for key, value in (about | changes).items() if value is not ...}
    checkpoint.write(path, held if tensors is None else tensors, about)


def test_a_model_comes_back_bit_for_bit_with_its_config_and_story(tmp_path):
    model = toy(scale=0.1, maybe=4, pair=(7, "ü"), kind="b").train()
    story = {"recipe": "minidiff/recipes/toy.py", "seed": 3, "quality": {"nll": [1.5, 0.1]}, "machine": "zwei Kerne"}
    weights.save(tmp_path / "toy.safetensors", model, about=story)
    before = torch.get_rng_state()
    again = weights.load(tmp_path / "toy.safetensors")
    assert torch.equal(before, torch.get_rng_state())
    assert_same(model, again)
    assert again.config == model.config and type(again.config.others[1].rates) is tuple
    assert not again.training and not again.norm.training and all(p.requires_grad for p in again.parameters())
    told = weights.describe(str(tmp_path / "toy.safetensors"))
    assert story.items() <= told.items() and told["class"] == "minidiff.toy.Toy" and told["config"]["pair"] == [7, "ü"]


def test_float16_rounds_float32_and_nothing_else(tmp_path):
    model = toy()
    weights.save(tmp_path / "half.safetensors", model, dtype=torch.float16)
    weights.save(tmp_path / "full.safetensors", model)
    stored = load_file(tmp_path / "half.safetensors")
    assert stored["linear.weight"].dtype == torch.float16 and stored["table"].dtype == torch.float64
    assert stored["mask"].dtype == torch.bool and stored["norm.num_batches_tracked"].dtype == torch.int64
    assert_same(model, weights.load(tmp_path / "half.safetensors"), round_to=torch.float16)
    assert weights.load(tmp_path / "half.safetensors").linear.weight.dtype == torch.float32
    with torch.no_grad():
        model.linear.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="linear.weight holds numbers too large for float16"):
        weights.save(tmp_path / "half.safetensors", model, dtype=torch.float16)


def test_the_file_is_plain_safetensors_with_an_honest_checksum(tmp_path):
    weights.save(tmp_path / "toy.safetensors", toy())
    digest = hashlib.sha256()
    for name, t in sorted(load_file(tmp_path / "toy.safetensors").items()):
        digest.update(f"{name} {t.dtype} {tuple(t.shape)} ".encode() + t.numpy().tobytes())
    assert json.loads(metadata(tmp_path / "toy.safetensors")["minidiff"])["checksum"] == digest.hexdigest()
    assert os.listdir(tmp_path) == ["toy.safetensors"]  # nothing temporary is left


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "toy.safetensors"
    weights.save(path, toy())
    data = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="toy.safetensors"):
            weights.load(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="toy.safetensors"):
        weights.load(path)


def test_every_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "toy.safetensors"
    model, untouched = toy(), 0
    weights.save(path, model)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ (0x01, 0x80)[place % 2]]) + data[place + 1:])
        try:
            again = weights.load(path)
        except ValueError as error:
            assert "toy.safetensors" in str(error) and "\n" not in str(error)
        else:
            untouched += 1
            assert_same(model, again)
    assert untouched < 8  # at most the padding of the header


def test_foreign_and_missing_files(tmp_path):
    path = tmp_path / "other.safetensors"
    with pytest.raises(FileNotFoundError, match="There is no file .*other.safetensors"):
        weights.load(path)
    with pytest.raises(FileNotFoundError):
        weights.load(tmp_path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not one that minidiff wrote"):
        weights.load(path)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        weights.load(path)
    checkpoint.write(path, {"a": torch.zeros(2)}, {"run": {}, "logs": []})
    with pytest.raises(ValueError, match="holds no model"):
        weights.describe(path)


@pytest.mark.parametrize("name", [
    "os.system", "builtins.eval", "torch.nn.Linear", "minidiff.toy.nn", "minidiff.toy.Linear", "minidiff.toy.Config",
    "minidiff.toy.Gone", "minidiff.gone.Toy", "minidiff.Toy", "Toy", "", "minidiff.__main__.main", "minidiff..toy.Toy",
    "minidiff.toy.nn.Linear", "minidiff.toy.Toy.forward", 7, None])
def test_only_networks_of_the_library_are_built(tmp_path, name):
    path = tmp_path / "toy.safetensors"
    weights.save(path, toy())
    forge(path, **{"class": name})
    with pytest.raises(ValueError, match="which is no network of this version of minidiff"):
        weights.load(path)


def changed(config: dict, **changes) -> dict:
    return {key: value for key, value in (config | changes).items() if value is not ...}


@pytest.mark.parametrize("changes, sentence", [
    ({"width": "3"}, r"config\.width should be int, not '3'"), ({"width": 3.0}, r"config\.width should be int, not 3"),
    ({"width": True}, r"config\.width should be int, not True"), ({"flag": 1}, r"config\.flag should be bool, not 1"),
    ({"wdith": 3}, r"differ in their fields: wdith"),
    ({"inner": {"heads": 1, "rates": ["x"]}}, r"config\.inner\.rates\[0\] should be float, not 'x'"),
    ({"inner": {"rates": [1.0]}}, r"config\.inner and the Inner .* fields: heads"),
    ({"inner": 3}, r"config\.inner should be Inner, not 3"),
    ({"others": [{"heads": 1, "rates": []}, 5]}, r"config\.others\[1\] should be Inner, not 5"),
    ({"pair": [1]}, r"config\.pair should be"), ({"pair": [1, 2]}, r"config\.pair\[1\] should be str, not 2"),
    ({"kind": "c"}, r"config\.kind should be"), ({"maybe": "x"}, r"config\.maybe should be")])
def test_configs_are_checked_field_by_field(tmp_path, changes, sentence):
    path = tmp_path / "toy.safetensors"
    weights.save(path, toy())
    forge(path, config=changed(weights.describe(path)["config"], **changes))
    with pytest.raises(ValueError, match=sentence):
        weights.load(path)


def test_a_field_that_is_newer_than_the_file_keeps_its_default(tmp_path):
    """A file of the time when `Config` had no scale and `Inner` no rates."""
    path = tmp_path / "toy.safetensors"
    weights.save(path, toy(width=5, scale=2.0, inner=Inner(7, (0.5,))))
    forge(path, config=changed(weights.describe(path)["config"], scale=..., inner={"heads": 7}))
    assert weights.load(path).config == Config(width=5, scale=1.0, inner=Inner(7))


def test_tensors_must_fit_the_class(tmp_path):
    path = tmp_path / "toy.safetensors"
    weights.save(path, toy())
    whole = checkpoint.read(path)[0]
    for tensors, name in [
            ({k: v for k, v in whole.items() if k != "table"}, "table"), (whole | {"extra": torch.zeros(1)}, "extra"),
            (whole | {"linear.bias": torch.zeros(3)}, "linear.bias"), (whole | {"table": torch.zeros(5)}, "table"),
            (whole | {"linear.bias": torch.zeros(2, dtype=torch.int64)}, "linear.bias")]:
        forge(path, tensors)
        with pytest.raises(ValueError, match=f"does not fit minidiff.toy.Toy: .* {name}\\."):
            weights.load(path)
    forge(path, {("linear.wieght" if k == "linear.weight" else k): v for k, v in whole.items()})
    with pytest.raises(ValueError, match="linear.weight, linear.wieght"):
        weights.load(path)
    forge(path, whole, config=weights.describe(path)["config"] | {"width": 4})
    with pytest.raises(ValueError, match="linear.weight"):
        weights.load(path)


def composite(folder: Path, dtype=None) -> Whole:
    left, right = toy(1), toy(2, scale=2.0)
    weights.save(folder / "left-toy.safetensors", left, dtype=dtype)
    weights.save(folder / "right-toy.safetensors", right)
    whole = Whole(Inner(2), left, right)
    weights.save(folder / "whole.safetensors", whole, parts={"left": "left-toy", "right": "right-toy"})
    return whole


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_composite_stores_its_parts_once(tmp_path, dtype):
    whole = composite(tmp_path, dtype)
    assert load_file(tmp_path / "whole.safetensors").keys() == {"head.weight", "head.bias"}
    again = weights.load(tmp_path / "whole.safetensors")
    assert_same(whole.head, again.head)
    assert_same(whole.right, again.right)
    assert_same(whole.left, again.left, round_to=dtype)
    assert (again.left.config, again.right.config) == (whole.left.config, whole.right.config)
    assert not again.left.training
    weights.save(tmp_path / "again.safetensors", again, parts={"left": "left-toy", "right": "right-toy"})
    assert_same(again, weights.load(tmp_path / "again.safetensors"))


def test_a_changed_or_missing_part_is_refused(tmp_path):
    whole = composite(tmp_path)
    weights.save(tmp_path / "right-toy.safetensors", whole.right, about={"quality": "measured later"})
    weights.load(tmp_path / "whole.safetensors")  # the story of a part may change
    for other in toy(3, scale=2.0), toy(2):       # its tensors or its config may not
        weights.save(tmp_path / "right-toy.safetensors", other)
        with pytest.raises(ValueError, match="another right-toy.safetensors than the one beside it"):
            weights.load(tmp_path / "whole.safetensors")
    (tmp_path / "right-toy.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="right-toy"):
        weights.load(tmp_path / "whole.safetensors")


def test_a_part_is_noted_only_if_its_file_holds_it(tmp_path):
    whole = composite(tmp_path)
    parts = {"left": "left-toy", "right": "right-toy"}
    for wrong in [{"left": "right-toy", "right": "left-toy"}, {"left": "left-toy", "right": "left-toy"}]:
        with pytest.raises(ValueError, match="holds another model than the part"):
            weights.save(tmp_path / "whole.safetensors", whole, parts=wrong)
    with torch.no_grad():
        whole.left.linear.bias += 1e-3
    with pytest.raises(ValueError, match="left-toy.safetensors holds another model"):
        weights.save(tmp_path / "whole.safetensors", whole, parts=parts)
    with pytest.raises(FileNotFoundError):
        weights.save(tmp_path / "whole.safetensors", whole, parts=parts | {"left": "nowhere"})


def test_what_cannot_be_stored_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    for bad in [lambda: weights.save(tmp_path / "x.pt", toy()), lambda: weights.save(path, toy(), dtype=torch.int8),
                lambda: weights.save(path, toy(), about={"class": "me"}), lambda: weights.save(path, nn.Linear(1, 1)),
                lambda: weights.save(path, toy(others=[Inner(2)])), lambda: weights.save(path, toy(name=torch.float16)),
                lambda: weights.save(path, Untold(Inner(2)))]:
        with pytest.raises(ValueError):
            bad()
    assert not path.exists()


def test_names_and_the_nearest_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "TRAINED", tmp_path)
    with pytest.raises(FileNotFoundError, match="no model is shipped"):
        weights.load("unet")
    model = toy()
    for name in "unet-scenes", "unet-digits", "flow", "vae":
        weights.save(tmp_path / f"{name}.safetensors", model)
    assert weights.names() == ["flow", "unet-digits", "unet-scenes", "vae"]
    assert_same(model, weights.load("flow"))
    with pytest.raises(FileNotFoundError, match="'unet-scene'; the nearest names are unet-scenes, "):
        weights.load("unet-scene")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path, model = tmp_path / "toy.safetensors", toy()
    weights.save(path, model)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left on device: nothing was written and an older file"):
            weights.save(path, toy(1))
    assert os.listdir(tmp_path) == ["toy.safetensors"]
    assert_same(model, weights.load(path))


def test_shipped_files_load_and_tell_their_story():
    for name in weights.names():
        assert isinstance(weights.load(name), nn.Module)
        assert {"recipe", "seed", "steps", "machine", "minutes"} <= weights.describe(name).keys(), name
