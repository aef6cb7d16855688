"""Chapter 7's guides: what they are asked, how they push, what is counted, and the rows."""
import json
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from minidiff import captions, guidance, weights
from minidiff.recipes import guides as g
from minidiff.scenes import COLOURS, PLACES, SHAPES, full, render
from minidiff.schedules import trigonometric


@pytest.fixture(scope="module")
def painter():
    return weights.load("text-to-image").requires_grad_(False)


def test_the_answers_are_those_of_the_scenes():
    batch = full(200, g.rng("test"))
    found = g.answers(batch)
    for k, scene in enumerate(batch):
        assert found["number"][k] == len(scene.things) - 1
        if len(scene.things) == 1:
            thing = scene.things[0]
            want = [list(COLOURS).index(thing.colour), list(PLACES).index(thing.place), list(SHAPES).index(thing.shape)]
            assert [int(found[name][k]) for name in ("colour", "place", "shape")] == want


class Certain(torch.nn.Module):
    """A classifier that is sure of the answers it was made with."""

    def __init__(self, **sure):
        super().__init__()
        self.said = torch.cat([4. * F.one_hot(torch.tensor(words.index(sure[name])), len(words))
                               for name, words in g.HEADS.items()])

    def forward(self, z, t):
        return self.said.expand(len(z), -1)


def test_a_caption_is_as_probable_as_its_claims_together():
    guide = Certain(number="one", colour="red", place="top left", shape="star")
    z, t = torch.zeros(3, 4, 8, 8), torch.tensor(.5)
    told = ["a red shape at the top left", "a red shape at the right", "a blue shape at the right"]
    sizes = {name: len(words) for name, words in g.HEADS.items()}

    def log_p(name, right):
        return 4. * right - torch.tensor([4., *[0.] * (sizes[name] - 1)]).logsumexp(0)
    want = [log_p("number", True) + log_p("colour", a) + log_p("place", b)
            for a, b in ((True, True), (True, False), (False, False))]
    assert torch.allclose(g.says(guide, "classifier", told)(z, t), torch.stack(want), atol=1e-5)


def test_clip_is_asked_for_the_cosine(painter):
    torch.manual_seed(0)
    guide = g.Downward(g.OUT["clip"])
    z, told = torch.randn(2, 4, 8, 8), ["a red circle", "a blue ring"]
    with torch.no_grad():
        found = g.says(guide, "clip", told)(z, torch.tensor(.3))
        cosines = F.cosine_similarity(guide(z, torch.full((2,), .3)), g.of_captions(told), dim=1)
    assert torch.allclose(found, guide.sharpness * cosines, atol=1e-4)


@torch.no_grad()
def test_the_losses_by_their_definition():
    shown = g.Shown(60, 0)
    said, rows = torch.randn(12, g.OUT["classifier"]), torch.arange(20, 32)
    total = 0.
    for k, row in enumerate(rows.tolist()):
        for name, logits in g.heads(said).items():
            if name == "number" or shown.answers["number"][row] == 0:
                total -= float(logits[k].log_softmax(0)[shown.answers[name][row]])
    assert abs(float(g.asked(g.Downward(2), said, shown, rows)) - total / 12) < 1e-4
    guide, said = g.Downward(g.OUT["clip"]), torch.randn(12, 128)
    tau = float(guide.sharpness)
    table = torch.tensor([[tau * float(F.cosine_similarity(a, shown.texts[r], dim=0)) for r in rows] for a in said])
    want = -(table.log_softmax(1).diagonal().mean() + table.log_softmax(0).diagonal().mean()) / 2
    assert abs(float(g.contrast(guide, said, shown, rows)) - float(want)) < 1e-4


def test_the_guide_looks_at_every_place_and_at_the_time():
    torch.manual_seed(0)
    guide = g.Downward(5)
    for part in guide.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=.1)                     # some begin with 0
    z = torch.randn(1, 4, 8, 8, requires_grad=True)
    slope, = torch.autograd.grad(guide(z, torch.tensor([.3])).sum(), z)
    assert (slope.abs().sum(1) > 0).all()
    assert not torch.allclose(guide(z, torch.tensor([.3])), guide(z, torch.tensor([.9])))


def test_before_the_latest_time_nothing_pushes(painter):
    z = torch.randn(2, 4, 8, 8)
    guess = g.pushed(painter, lambda z, t: z.flatten(1).sum(1), 2.)
    with torch.no_grad():
        assert torch.equal(guess(z, torch.tensor(.97)), g.told_nothing(painter)(z, torch.tensor(.97)))
        alpha, sigma = trigonometric(torch.tensor(.5))
        pushed = guess(z, torch.tensor(.5)) - g.told_nothing(painter)(z, torch.tensor(.5))
    assert torch.allclose(pushed, torch.full_like(z, float(2 * sigma ** 2 / alpha)), atol=1e-5)


def test_told_nothing_is_the_empty_caption(painter):
    z = torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        want = painter.denoise(["", "", ""], "", 1.)(z, torch.tensor(.4))
        assert torch.allclose(g.told_nothing(painter)(z, torch.tensor(.4)), want, atol=1e-5)


def test_counting_the_truth_and_its_rivals(painter):
    scenes = full(40, g.rng("count"), "one")
    told = [f"a {scene.things[0].colour} shape at the {scene.things[0].place}" for scene in scenes]
    x, z = render(scenes), torch.randn(40, 4, 8, 8)
    every = g.judged(z, x, told)
    assert every["right"] == every["legal"] == every["of"] == 40
    assert every["size"] == scenes.size[:, 0].bincount(minlength=2).tolist()
    assert every["background"] == scenes.background.bincount(minlength=4).tolist()
    assert every["shape"] == scenes.shape[:, 0].bincount(minlength=6).tolist()
    other = g.judged(z, x, told[1:] + told[:1])
    kept = sum(captions.matches(s, line) for s, line in zip(scenes, told[1:] + told[:1], strict=True))
    assert other["right"] == kept < 10 and sum(other["size"]) == kept
    loud = g.judged(2 * z, 1.2 * x, told)
    assert loud["std of the code"] > 1.9 and loud["beyond"] > .1 > every["beyond"]


def test_a_guess_that_knows_paints_the_truth(painter):
    scenes = full(6, g.rng("knows"), "one")
    codes = g.encoded(painter.autoencoder, render(scenes))
    told = [f"a {scene.things[0].colour} shape" for scene in scenes]
    found = g.outcome(lambda z, t: codes, painter, told, seed=0, steps=3)
    assert found["right"] == 6


def test_rows_run_to_their_end(monkeypatch, tmp_path):
    monkeypatch.setattr(g, "SCALES", {"noised": (2.,), "clean": (1.,)})
    monkeypatch.setattr(g, "FREE", (1., 3.))
    monkeypatch.setattr(g, "FEW", (2,))
    monkeypatch.setattr(g, "RUNS", tmp_path)
    monkeypatch.setattr(g, "training", partial(g.training, pool=70))
    monkeypatch.setattr(g, "outcome", lambda guess, painter, told, *, seed, steps=2: g.judged(
        *g.paint(guess, painter, len(told), seed=seed, steps=2), told))
    told = ["a red shape at the top", "a blue shape at the left"]
    noised, clean = (g.guided("classifier", flag, 0, 2, told=told) for flag in (True, False))
    assert set(noised["ways"]) == {"noised"} and set(clean["ways"]) == {"clean on z_t", "clean on the guess"}
    assert noised["parameters"] < 300_000
    assert list(g.also_told(0, 2, told)["ways"]["noised"]) == [2.]
    assert g.free(0, told)["by scale"][3.]["of"] == g.hurried(0, 2, told)["by steps"][2]["of"] == 2


def test_asked_about_the_guess_the_gradient_goes_through_the_painter(painter):
    log_prob = g.of_the_guess(painter, lambda z, t: -z.square().flatten(1).sum(1))
    z = torch.randn(1, 4, 8, 8)
    push = guidance.by_gradient(g.told_nothing(painter), log_prob, trigonometric, 1.)(z, torch.tensor(.5))
    assert (push - guidance.by_gradient(g.told_nothing(painter), log_prob, trigonometric, 0.)(z, torch.tensor(.5))
            ).abs().max() > 1e-2
    at = z.clone().requires_grad_()
    slope, = torch.autograd.grad(-g.told_nothing(painter)(at, torch.tensor(.5)).square().sum(), at)
    alpha, sigma = trigonometric(torch.tensor(.5))
    with torch.no_grad():
        want = g.told_nothing(painter)(z, torch.tensor(.5)) + float(sigma ** 2 / alpha) * slope
    assert torch.allclose(push, want, atol=1e-3)


def test_the_stored_record_is_whole():
    rows = json.loads((weights.TRAINED / "guides.json").read_text())["rows"]
    kinds = sorted((row["guide"], row["seed"], *row.get("ways", {})) for row in rows)
    want = [(kind, seed, *ways) for seed in range(3) for kind, *ways in (
        ("none",), ("hurried",), ("clip, told", "noised"), *((name, *w) for name in ("classifier", "clip") for w in (
            ("noised",), ("clean on z_t", "clean on the guess"))))]
    assert kinds == sorted(want)
    for row in rows:
        for cells in row.get("ways", {}).values():
            assert list(map(float, cells)) == list(g.SCALES["noised" if "noised" in row["ways"] else "clean"])
            assert all(c["of"] == 72 and c["right"] <= c["legal"] and sum(c["size"]) == c["right"]
                       for c in cells.values())
