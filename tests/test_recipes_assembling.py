"""Chapter 6's second comparison: what learns and how fast, pixels in place of codes, rows and the file."""
import json
from dataclasses import replace

import pytest
import torch

from minidiff import weights
from minidiff.recipes import assembling as a
from minidiff.recipes import painters, painting
from minidiff.recipes.painting import Arm, Painter, Pool, training


@pytest.fixture
def short():
    """Two steps, eight pairs."""
    def arm(name):
        return replace(a.ARMS[name](0), pairs=64, steps=2)
    return arm


@pytest.mark.parametrize("name, learns", [
    ("codes", {"denoiser"}), ("pixels", {"denoiser"}), ("text learns", {"denoiser", "reader"}),
    ("all learn", {"denoiser", "reader", "codes"})])
def test_what_learns(short, name, learns):
    arm = short(name)
    run = training(arm, Pool(arm, 0), 0, 2)
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    for _ in run:
        pass
    moved = {key.split(".")[0] for key, value in run.model.state_dict().items() if not value.equal(before[key])}
    assert moved == learns
    assert not any(key in ("codes.mean", "codes.std") and not value.equal(before[key])
                   for key, value in run.model.state_dict().items())


def test_slow_parts_move_by_their_share(short):
    """AdamW's first step is the rate, whatever the gradient: parts of the reader move a tenth as far."""
    arm = replace(short("text learns"), slow=.1, rate=1e-3)
    run = training(arm, Pool(arm, 0), 0, 2)
    torch.nn.init.normal_(run.model.denoiser.net.conv_out[-1].weight, std=.1)       # zeros let no gradient through
    before = {key: value.clone() for key, value in run.parameters.items()}
    next(iter(run))
    far = {part: max(float((value - before[key]).detach().abs().max()) for key, value in run.parameters.items()
                     if key.startswith(part)) for part in ("denoiser", "reader")}
    assert far["reader"] == pytest.approx(.1 * far["denoiser"], rel=.02)


def test_without_slow_parts_it_is_the_usual_training(short):
    arm, stepped = short("codes"), []
    for kind in (painting.Unequal, painting.Training):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(painting, "Unequal", lambda *x, slow, kind=kind, **k: kind(
                *x, **k, **({"slow": slow} if kind.__name__ == "Unequal" else {})))
            run = training(arm, Pool(arm, 0), 0, 2)
        stepped.append([log.losses["loss"] for log in run])
    assert stepped[0] == stepped[1]


def test_pixels_are_their_own_code_and_are_kept_in_range(short):
    arm = replace(short("pixels"), pairs=4)
    pool = Pool(arm, 0)
    assert pool.codes.equal(pool.pictures) and pool.codes.shape == (4, 3, 32, 32)
    torch.manual_seed(0)
    model = Painter(arm).eval()
    torch.nn.init.normal_(model.denoiser.net.conv_out[-1].weight, std=3.)
    seen = []
    model.codes.decode = lambda z: seen.append(z) or z
    assert model.paint(["a circle"], 0, 3).shape == (1, 3, 32, 32)
    assert seen[0].abs().max() <= 1.0001                      # the last guess is what is painted, and it is clamped


def test_the_networks_differ_in_levels_but_not_in_what_they_end_with():
    nets = [painters.crossing(), a.ARMS["pixels"](0).net(), a.ARMS["pixels 64, short"](0).net()]
    assert [net.config.side for net in nets] == [8, 32, 64]
    assert {net.config.side >> (len(net.config.widths) - 1) for net in nets} == {4}
    sizes = [sum(q.numel() for q in net.parameters()) for net in nets]
    assert max(sizes) < 1.35 * min(sizes) and all(net.config.widths[-2:] == (24, 48) for net in nets)


@pytest.mark.parametrize("name", ["pixels 64, short", "all learn"])
def test_kinds_run_to_their_end(monkeypatch, name):
    brief = replace(a.ARMS[name](0), pairs=64, steps=1)
    monkeypatch.setitem(a.ARMS, name, lambda seed: brief)
    monkeypatch.setattr(a, "reconstruction", lambda model, n: {"psnr": 1.})
    found = a.row(name, 0, 2)
    assert found["end"]["two, en"]["of"] == 2
    assert set(found["codes"]) == ({"std", "psnr"} if name == "all learn" else set())


def test_the_comparison_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(a, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(a, "ARMS", dict.fromkeys(("codes", "pixels")))
    calls = []

    def row(name, seed):
        calls.append((name, seed))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"model": name, "seed": seed}
    monkeypatch.setattr(a, "row", row)
    with pytest.raises(KeyboardInterrupt):
        a.compared(tmp_path, 1)
    a.compared(tmp_path, 1)
    assert calls == [("codes", 0), ("pixels", 0), ("pixels", 0)]
    rows = json.loads((tmp_path / "assembling.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["codes", "pixels"]


def test_the_stored_record_is_whole():
    """Every kind and seed once, with counts that can be."""
    rows = json.loads((weights.TRAINED / "assembling.json").read_text())["rows"]
    assert sorted((row["model"], row["seed"]) for row in rows) == sorted((n, s) for n in a.ARMS for s in range(3))
    for row in rows:
        assert isinstance(a.ARMS[row["model"]](row["seed"]), Arm) and row["steps"] == a.ARMS[row["model"]](0).steps
        for votes in row["end"].values():
            assert 0 <= votes["right"] <= votes["legal"] <= votes["of"] == a.N
