"""The metrics' trial: every damage does what it says, the forgery lowers FID, and the record is whole."""
import json

import numpy as np
import pytest
import scipy.linalg
import torch

from minidiff import oracle, weights
from minidiff.data import rng
from minidiff.metrics import FeatureStatistics, fid, frechet_distance
from minidiff.recipes import trial as t
from minidiff.scenes import SHAPES, full, render


@pytest.fixture(scope="module")
def two():
    return full(60, rng("two"), "two")


def dice():
    return rng("dice of a test")


def test_a_blur_keeps_the_mean_and_takes_short_waves(two):
    x, y = render(two), t.blurred(two, 1.5, dice())
    inside = (slice(None), slice(None), slice(9, -9), slice(9, -9))
    point = torch.zeros(1, 3, 32, 32)
    assert torch.allclose(t.blurred(two, .05, dice()), x, atol=1e-5)
    assert (y[inside].diff(dim=3).square().mean() < .3 * x[inside].diff(dim=3).square().mean())
    assert point.shape == y[:1].shape and abs(float(y.mean() - x.mean())) < .01


def test_noise_has_its_std(two):
    assert float((t.grainy(two, .2, dice()) - render(two)).std()) == pytest.approx(.2, rel=.02)


def test_a_swirl_turns_the_middle_alone(two):
    x, y = render(two), t.swirled(two, 1., dice())
    assert torch.allclose(t.swirled(two, 0., dice()), x, atol=1e-4)
    assert torch.allclose(y[..., 0, 0], x[..., 0, 0], atol=1e-4)
    assert (y - x)[..., 8:24, 8:24].abs().mean() > 3 * (y - x)[..., :3, :].abs().mean()


def words(x, name):
    return [sorted(getattr(thing, name) for thing in scene.things) for scene in oracle.read(x)]


def test_a_missing_thing_is_missing(two):
    assert all(len(scene.things) == 1 for scene in oracle.read(t.without_a_thing(two, 1., dice())))
    some = [len(scene.things) for scene in oracle.read(t.without_a_thing(two, .5, dice()))]
    assert 15 < some.count(1) < 45


def test_exchanged_colours_and_places_are_the_same_words_on_other_things(two):
    two = two[two.size[:, 0] == two.size[:, 1]]               # else a large one may stick out at the other place
    before = oracle.read(render(two))
    for damage in (t.other_colours, t.other_places):
        x = damage(two, 1., dice())
        assert all(words(x, name) == words(render(two), name) for name in ("colour", "shape", "size"))
        for scene, was in zip(oracle.read(x), before, strict=True):
            for thing in scene.things:
                old = min(was.things, key=lambda o, here=thing: abs(o.x - here.x) + abs(o.y - here.y))
                other, = (o for o in was.things if o is not old)
                assert abs(old.x - thing.x) + abs(old.y - thing.y) < .05            # somebody stood here
                assert (thing.shape, thing.colour) == ((old.shape, other.colour) if damage is t.other_colours
                                                       else (other.shape, other.colour))
        assert torch.equal(damage(two, 0., dice()), render(two))


def test_dropped_shapes_never_come_and_copies_are_few(two):
    seen = {shape for row in words(t.fewer_shapes(full(100, rng(0)), 3, dice()), "shape") for shape in row}
    assert seen == set(list(SHAPES)[3:])
    number = [len(scene.things) for scene in oracle.read(t.fewer_shapes(two[:20], 3, dice()))]
    assert number == [2] * 20
    assert len(t.copies(two, 7, dice()).flatten(1).unique(dim=0)) == 7


def test_the_distance_with_a_gradient_is_the_distance():
    a, b = torch.randn(200, 8, generator=rng("a")), 2 * torch.randn(300, 8, generator=rng("b")) + 1
    assert float(t.fooled(a, FeatureStatistics.of(b))) == pytest.approx(fid(a, b), rel=1e-6)


def test_the_forgery_goes_downhill():
    eye = weights.load("features").requires_grad_(False)
    there = FeatureStatistics.of(t.seen(eye, render(full(1000, rng("there")))))

    def far(x):
        return float(t.fooled(t.seen(eye, x), there))
    before, after = (far(t.forged(eye, there, 0, n=80, steps=steps)) for steps in (0, 12))
    assert after < .5 * before


def test_the_stored_record_is_whole():
    rows = json.loads((weights.TRAINED / "trial.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert row["undamaged"]["legal"] == row["undamaged"]["right"] == row["undamaged"]["of"] == t.N
        assert {kind: len(c) for kind, c in row["damages"].items()} == {k: len(v[1]) for k, v in t.DAMAGES.items()}
        assert list(row["forgery"]["sets"]) == ["of the world", "noise", "forged"]


def test_a_cell_of_the_record_by_numpy():
    """FID in rough pixels of the noisy pictures of seed 0, with SciPy's root."""
    row, = (r for r in json.loads((weights.TRAINED / "trial.json").read_text())["rows"] if r["seed"] == 0)
    look, scenes = t.eyes()["pixels"], full(t.N, rng("trial", 0))
    found, there = (look(x).double().numpy() for x in (
        t.grainy(scenes, .4, rng("dice", 0)), render(full(t.MANY, rng("reference", 0)))))
    (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (found, there))
    root = np.trace(scipy.linalg.sqrtm(c1 @ c2)).real
    want = np.square(m1 - m2).sum() + np.trace(c1 + c2) - 2 * root
    assert row["damages"]["noise"]["0.4"]["fid"]["pixels"] == pytest.approx(want, rel=1e-3)
    m1, c1, m2, c2 = map(torch.from_numpy, (m1, c1, m2, c2))
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(want, rel=1e-6)
