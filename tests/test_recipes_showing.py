"""Two ways to paint over a picture: what the network hears and sees, what is counted, and the rows."""
import json
from dataclasses import replace

import pytest
import torch

from minidiff import captions, weights
from minidiff.denoiser import Denoiser
from minidiff.recipes import showing as s
from minidiff.scenes import Scenes, render


@pytest.fixture(scope="module")
def edits():
    return s.Edits(60, "test")


def test_the_colour_alone_is_told():
    told = s.Edits(20, "test", colour_alone=True)
    assert all(captions.matches(scene, line) and len(captions.words(line)) == 2
               for scene, line in zip(told.after, told.lines, strict=True))
    for name in ("shape", "size", "place"):
        assert not any(name in captions.parse(line).things[0] for line in told.lines)


def test_an_edit_changes_the_colour_alone(edits):
    for before, after, line in zip(edits.before, edits.after, edits.lines, strict=True):
        (a,), (b,) = before.things, after.things
        assert a.colour != b.colour and replace(a, colour=b.colour) == b and before.background == after.background
        assert captions.matches(after, line)
        assert captions.matches(before, line) != any("colour" in told for told in captions.parse(line).things)


def test_what_is_not_shown_is_not_seen(edits):
    torch.manual_seed(0)
    net = s.Seeing()
    torch.nn.init.normal_(net.net.conv_out[-1].weight, std=.1)
    z, t, rows = torch.randn(4, 4, 8, 8), torch.full((4,), .5), torch.arange(4)

    def answer(before, shown):
        with torch.no_grad():
            return net(z, t, s.Told(edits.told(rows), before, torch.full((4,), shown)))
    a, b = edits.codes[:4], edits.codes[4:8]
    assert torch.equal(answer(a, False), answer(b, False))
    assert (answer(a, True) - answer(b, True)).abs().max() > 1e-4
    moved = answer(a.roll(2, 3), True)
    assert (answer(a, True) - moved).abs().max() > 1e-4                      # it knows where a square was


def test_counting_the_truth_and_its_rivals(edits):
    every = s.judged(render(edits.after), edits)
    assert every["obeys"] == every["keeps"] == every["both"] == 60 and every["legal"] >= 59
    old = s.judged(render(edits.before), edits)
    assert old["keeps"] == 60 and old["obeys"] == old["both"] == 0
    moved = Scenes(edits.after.background, edits.after.shape, edits.after.colour, edits.after.size,
                   edits.after.style, (edits.after.xy + .25) % .75 + .125)
    elsewhere = s.judged(render(moved), edits)
    assert elsewhere["obeys"] >= 58 and elsewhere["both"] <= 2


def test_a_perfect_painter_edits_both_ways(edits, monkeypatch):
    """A denoiser that knows the code of the picture after the change."""
    class Knowing(torch.nn.Module):
        def forward(self, z, t, cond):
            seen.append(bool(cond.shown.all()))
            return edits.wanted.repeat(2, 1, 1, 1)
    seen = []
    for way in ({"shown": True}, {"strength": .6}):
        assert s.judged(s.edited(Knowing(), edits, 0, **way), edits)["both"] >= 59
    assert seen[0] and not seen[-1] and len(seen) == 15 + 9


def test_a_row_runs_to_its_end(monkeypatch):
    monkeypatch.setattr(s, "POOL", 70)
    found = s.row(0, 1, 4)
    assert found["shown"]["of"] == 4 and set(found["restarted"]) == {str(v) for v in s.STRENGTHS}


def test_half_of_the_pictures_are_shown(edits, monkeypatch):
    seen = []
    monkeypatch.setattr(Denoiser, "loss", lambda self, x0, t, told: seen.append(told) or x0.mean() * 0 + sum(
        p.sum() for p in self.parameters()))
    monkeypatch.setattr(s, "BATCH", 60)
    run = s.training(edits, 0, 40)
    for _ in run:
        pass
    shown = torch.cat([told.shown for told in seen]).float().mean()
    empty = torch.cat([(told.text.mask.sum(1) == edits.text.mask[-1].sum()) for told in seen]).float().mean()
    assert .46 < shown < .54 and .08 < empty < .12


def test_the_stored_record_is_whole():
    rows = json.loads((weights.TRAINED / "showing.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    for votes in (v for row in rows for v in (row["shown"], *row["restarted"].values())):
        assert 0 <= votes["both"] <= min(votes["obeys"], votes["keeps"]) <= votes["of"] == s.N
