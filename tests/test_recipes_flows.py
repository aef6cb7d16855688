"""The recipes of chapter 3, a small run from end to end, and the numbers that they measure with."""
import json
import math
from dataclasses import replace

import pytest
import torch

from minidiff import weights
from minidiff.data import pictures
from minidiff.flow import Flow, FlowConfig
from minidiff.mixture import of_world
from minidiff.recipes import flows


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Checkpoints of this test alone, and networks that are small."""
    monkeypatch.setattr(flows, "RUNS", tmp_path / "runs")
    for name in ("SINGLE", "GLOW"):
        monkeypatch.setattr(flows, name, replace(getattr(flows, name), steps=1, width=4))
    return tmp_path


class Turned(Flow):
    """A code that is the picture itself, pixel after pixel, times a number; its density is the world's."""

    def __init__(self):
        super().__init__(FlowConfig(3, 16, steps=1, width=1))

    def encode(self, x):
        return 2 * x.flatten(1), torch.full((len(x),), 768 * math.log(2))

    def decode(self, z):
        return z.reshape(-1, 3, 16, 16) / 2

    def log_prob(self, x):
        return of_world("single", flows.STD, size=16).log_prob(x)


def test_of_the_truth_itself_the_distance_is_nought():
    """And its bits are the entropy's, 0.5 log2(2 pi e std^2 127.5^2) for the noise and log2(3024)/768 for the scene."""
    found = flows.distance(Turned(), 50)
    assert found["KL"] == 0 == found["standard error"] and found["bits a number"] == found["least possible"]
    noise = math.log2(2 * math.pi * math.e * (flows.STD * 127.5) ** 2) / 2
    assert found["least possible"] == pytest.approx(noise + math.log2(3024) / 768, abs=1e-3)


def test_psnr_of_a_share_of_the_code_is_that_of_pictures_cut_off():
    """The code here is the picture's rows: keeping half of it is to paint the rest grey."""
    x = pictures(5, 3, 16)(0)
    found = flows.kept(Turned(), x)
    rows = x.flatten(1)
    for share in (1 / 4, 1 / 2):
        lost = rows[:, int(768 * share):].square().sum(1).mean() / 768
        assert found["PSNR"][f"{share:.4g}"] == pytest.approx(10 * math.log10(4 / float(lost)), abs=.01)
    assert found["inverse error"] == 0


def test_batches_are_pictures_with_noise():
    """Nearest scene of the list, and what is left is noise of the right width; another step, another batch."""
    world, x = of_world("single", flows.STD, size=16), flows.of_single(200)(3)
    means = world.means_.float()
    left = x.flatten(1) - means[torch.cdist(x.flatten(1), means).argmin(1)]
    assert float(left.std()) == pytest.approx(flows.STD, rel=.01) and abs(float(left.mean())) < .001
    assert flows.of_single(200)(3).equal(x) and not flows.of_single(200)(4).equal(x)
    grain = flows.of_full(50, 2)(7) - pictures(50, 2)(7)
    assert float(grain.std()) == pytest.approx(flows.STD, rel=.01) and abs(float(grain.mean())) < .001


def test_the_recipes_write_what_they_measured(runs):
    flows.flow_single(runs, steps=2, n=40)
    told, flow = weights.describe(runs / "flow-single.safetensors"), weights.load(runs / "flow-single.safetensors")
    assert told["quality"]["KL"] == flows.distance(flow, 40)["KL"] and told["steps"] == 2
    assert told["recipe"] == "flows.flow_single" and 0 < told["quality"]["inverse error"] < 1e-3
    flows.glow(runs, steps=2, n=4)
    told = weights.describe(runs / "glow.safetensors")
    assert told["recipe"] == "flows.glow" and told["quality"]["samples"]["legal"].endswith("of 20")
    assert len(told["quality"]["tuning"]["legal"]) == len(flows.TEMPERATURES)


def test_the_temperature_is_that_of_the_most_legal_pictures(monkeypatch):
    """A flow that draws clean scenes at one temperature and fog at the others."""
    class Fickle(Turned):
        def sample(self, n, *, seed, temperature=1., first=0):
            return pictures(n, seed, 16)(0) if temperature == .7 else torch.zeros(n, 3, 16, 16)
    tried = flows.best_temperature(Fickle(), 6)
    assert next(iter(tried)) == .7 and tried[.7] > 80 and tried[.9] == 0


def test_the_comparison_is_made_of_rows(runs, monkeypatch):
    small = {name: (replace(flows.VARIANTS[name][0], width=4), 20) for name in ("splines", "one level")}
    monkeypatch.setattr(flows, "VARIANTS", small)
    flows.compare(runs, seeds=1, share=.1, n=20)
    rows = json.loads((runs / "flows.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(small) and {row["steps"] for row in rows} == {2}
    again = flows.compared("splines", seed=0, share=.1, n=20)
    assert again["KL"] == pytest.approx(rows[0]["KL"], rel=1e-3)
    assert all(row["inverse error"] < 1e-3 for row in rows) and len({row["KL"] for row in rows}) == len(rows)


def test_every_flow_of_the_comparison_is_of_bench_size():
    for config, _ in flows.VARIANTS.values():
        assert sum(p.numel() for p in Flow(config).parameters()) <= 300_000
    for config in (flows.SINGLE, flows.GLOW):
        assert sum(p.numel() for p in Flow(config).parameters()) <= 500_000
