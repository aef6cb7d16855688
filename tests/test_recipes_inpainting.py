"""Ways to paint into a hole: the network that sees, the two tasks, what is counted, and the rows."""
import json

import pytest
import torch

from minidiff import weights
from minidiff.recipes import inpainting as i
from minidiff.scenes import render


@pytest.fixture(scope="module")
def base():
    return weights.load("ddpm-single").denoiser


def test_at_first_the_network_that_sees_answers_as_before(base):
    net, x, t = i.Seeing(base.net), torch.randn(3, 3, 16, 16), torch.tensor([.2, .5, .9])
    hole = i.holes(3)
    with torch.no_grad():
        assert torch.allclose(net(x, t, i.Seen(x + 1, hole)), base.net(x, t), atol=1e-5)
        torch.nn.init.normal_(net.net.conv_in.weight, std=.1)
        inside = torch.where(hole, torch.randn_like(x), x + 1)
        assert torch.equal(net(x, t, i.Seen(inside, hole)), net(x, t, i.Seen(x + 1, hole)))       # the hole is hidden
        assert not torch.allclose(net(x, t, i.Seen(x, hole)), net(x, t, i.Seen(x + 1, hole)), atol=1e-3)


def test_holes_are_rectangles_of_all_sizes():
    torch.manual_seed(0)
    holes = i.holes(2000)[:, 0]
    whole = holes.flatten(1).all(1).float().mean()
    assert .1 < whole < .16
    rows, columns = holes.any(2), holes.any(1)
    assert torch.equal(holes, rows[:, :, None] & columns[:, None, :])
    assert (rows.int().diff(dim=1).abs().sum(1) <= 2).all()                                 # in one piece
    area = holes.flatten(1).float().mean(1)
    assert .1 < area[area < 1].mean() < .14 and area[area < 1].max() > .7          # two sides of a third each


def test_half_of_each_thing_is_cut_out_or_all_of_it():
    halves, gone = i.halves(30, 0), i.gone(30, 0)
    clean = torch.cat([pictures[:1] for pictures in halves.right])
    ground = torch.stack([p.flatten(1).mode(1).values for p in clean])[:, :, None, None]
    thing = (clean - ground).abs().amax(1, keepdim=True) > .05
    left = (thing & ~halves.hole).flatten(1).sum(1) / thing.flatten(1).sum(1)
    assert (left > .3).all() and (left < .7).all()
    assert not (thing & ~gone.hole).any()
    assert all(len(scenes) == 96 and pictures.shape == (96, 3, 16, 16)
               for scenes, pictures in zip(gone.scenes, gone.right, strict=True))


@pytest.mark.parametrize("task", [i.halves, i.gone], ids=["halves", "gone"])
def test_the_picture_before_it_was_cut_is_right(task):
    asked = task(24, 3)
    found = i.judged(asked.known, asked)
    assert found["right"] == found["of"] == 24
    assert abs(found["error"]) < .002 and abs(found["seam"]) < .01


def test_a_flat_hole_is_wrong_and_a_wrong_ground_shows_at_the_seam():
    asked = i.gone(24, 4)
    ground = torch.stack([p[0].flatten(1).mode(1).values for p in asked.right])[:, :, None, None]
    flat = torch.where(asked.hole, ground, asked.known)
    assert i.judged(flat, asked)["right"] == 0
    other = torch.where(asked.hole, -ground, asked.known)
    assert i.judged(other, asked)["seam"] > .2 and i.judged(other, asked)["error"] > .2
    shifted = i.halves(24, 4)
    wrong = torch.cat([torch.cat(shifted.right)[1:], torch.cat(shifted.right)[:1]])
    mixed = torch.where(shifted.hole, wrong, shifted.known)
    assert i.judged(mixed, shifted)["right"] <= 2


def test_the_seam_by_counting():
    x, hole = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    hole[..., 4:8, 4:8] = True
    x[hole.expand_as(x)] = .5
    x[:, :, 4, 4] = 1.                                                        # a corner has two of the 16 borders
    assert abs(float(i.seam(x, hole)) - (14 * .25 + 2 * 1.) / 16) < 1e-6


def test_what_is_known_is_put_back_and_a_guess_that_knows_is_right():
    asked = i.halves(6, 5)
    truth = torch.cat(asked.right)
    for repeats in (1, 2):
        x = i.painted(lambda z, t: truth, asked, 0, steps=10, repeats=repeats)
        assert torch.allclose(torch.where(asked.hole, truth, asked.known), x, atol=1e-4)


def test_a_row_runs_to_its_end(monkeypatch, tmp_path):
    monkeypatch.setattr(i, "STEPS", 4)
    monkeypatch.setattr(i, "JUMP", 2)
    monkeypatch.setattr(i, "REPEATS", 2)
    monkeypatch.setattr(i, "RUNS", tmp_path)
    found = i.row(0, 1, 2)
    assert set(found["tasks"]) == {"halves", "gone"} and found["parameters"] < 450_000
    assert all(len(ways) == 7 and all(cell["of"] == 2 for cell in ways.values()) for ways in found["tasks"].values())


def test_the_noise_of_pictures_is_the_world_s():
    scenes, x = i.drawn(50, 6)
    assert abs(float((x - render(scenes, 16)).std()) - i.STD) < .002
    assert torch.equal(i.drawn(50, 6)[1], x) and not torch.equal(i.drawn(50, 7)[1], x)


def test_the_stored_record_is_whole():
    rows = json.loads((weights.TRAINED / "inpainting.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1, 2] and {row["steps"] for row in rows} == {i.TUNED}
    for ways in (ways for row in rows for ways in row["tasks"].values()):
        assert list(ways) == ["replaced", "resampled", "tuned blind, replaced", "tuned blind, resampled",
                              "replaced, as many calls", "mask channel", "mask channel, resampled"]
        assert all(cell["of"] == i.N and cell["right"] <= cell["legal"] for cell in ways.values())
