"""The oracle on trial: clean pictures, noise, graded damage, wrong pictures, wrong input. All scores stand on it."""
import inspect
import itertools
import math
import sys
from dataclasses import replace

import pytest
import torch
from mutations import survives
from scipy.stats import binomtest

from benchmarks.oracle_damage import DAMAGES, damaged, same, validation, verdicts
from minidiff.captions import write
from minidiff.data import rng
from minidiff.oracle import MOST, Rate, analyse, prompt_accuracy, read
from minidiff.scenes import (
    BACKGROUNDS,
    COLOURS,
    FULL_SPLITS,
    SHAPES,
    STYLES,
    Scene,
    Scenes,
    Thing,
    full,
    render,
    rgb,
    single,
)


def errors(pictures, truth, **styles):
    """How many pictures are not read as their scene."""
    found = read(pictures, **styles)
    return sum(scene is None or not same(scene, true) for scene, true in zip(found, truth, strict=True))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_no_error_on_all_of_single(size):
    scenes = single("all")
    assert errors(render(scenes, size), scenes) == 0


def test_no_error_on_ten_thousand_of_full():
    scenes = full(10_000, rng("clean"))
    assert errors(render(scenes), scenes) == 0


@pytest.mark.parametrize("split", list(FULL_SPLITS)[1:])
def test_no_error_on_the_other_splits(split):
    scenes = full(300, rng("clean", split), split)
    assert errors(render(scenes, 32), scenes) == 0


def test_under_one_per_cent_at_noise_of_a_tenth():
    """2,500 pictures of each world, std 0.1: the upper end of the 95 % interval of the error stays under 1 %."""
    generator = rng("noise")
    for scenes in (full(2500, generator), single("all")[torch.randperm(3456, generator=generator)[:2500]]):
        x = render(scenes)
        wrong = errors(x + .1 * torch.randn(x.shape, generator=generator), scenes)
        assert Rate(wrong, 2500).interval[1] < .01, wrong


def test_centres_are_read_to_a_fifth_of_a_pixel():
    scenes = full(500, rng("centres"))
    off = [32 * min(math.dist((a.x, a.y), (b.x, b.y)) for b in true.things)
           for found, true in zip(read(render(scenes)), scenes, strict=True) for a in found.things]
    assert max(off) < .2 and sorted(off)[len(off) // 2] < .02


def test_a_batch_does_not_matter():
    scenes = full(300, rng("batch"))
    x = render(scenes) + .05 * torch.randn(300, 3, 32, 32, generator=rng("batch noise"))
    together = analyse(x)
    for i in (0, 255, 256, 299):
        alone = analyse(x[i:i + 1])
        assert alone.scenes[0] == together.scenes[i] and torch.allclose(alone.worst, together.worst[i:i + 1])


# --- damage -----------------------------------------------------------------------------------------------------------

# at least this share is read right at the mildest grade, at most that share at the strongest
SHARES = dict.fromkeys(DAMAGES, (.97, .06)) | {
    "blob": (.2, 0.), "speck": (0., 0.),                    # even half a pixel's radius, even one pixel, mostly shows
    "erased": (.85, .06),                                   # a twentieth of the width: the tip of a star
    "recoloured": (.97, .2), "morphed": (.97, .35),         # half-way: nearly the same colour or shape
    "smeared": (.97, .35), "nearer": (.95, .06)}


@pytest.mark.parametrize("name", list(DAMAGES))
def test_graded_damage(name):
    """Mild damage is read right, strong damage is not, and more damage is never read better (up to chance)."""
    scenes = validation(120)
    shares = [verdicts(analyse(pictures), truth)[0] for truth, pictures in
              (damaged(name, grade, scenes) for grade in DAMAGES[name][2])]
    mild, strong = SHARES[name]
    assert shares[0] >= mild and shares[-1] <= strong, shares
    assert all(later <= earlier + .05 for earlier, later in itertools.pairwise(shares)), shares


@pytest.mark.parametrize("name, grade, most", [
    ("speck", 1, .06), ("speck", 2, .02), ("checks", .15, 0.), ("noise", .2, 0.), ("blur", 1.5, .45),
    ("erased", .3, .25), ("faded", .5, .1), ("resized", .4, .45), ("ghost", .2, .15), ("hole", .7, .25)])
def test_visible_damage_is_refused(name, grade, most):
    truth, pictures = damaged(name, grade, validation(120))
    assert verdicts(analyse(pictures), truth)[0] <= most


def wrong_scenes(scenes):
    """For each kind of error the scenes that have it, and the claim that it breaks (None: it is no legal picture)."""
    def other(name, table, k=0):
        column = getattr(scenes, name).clone()
        if column.ndim == 1:
            return replace(scenes, **{name: (column + 1) % len(table)})
        column[:, k] = (column[:, k] + 1) % len(table)
        return replace(scenes, **{name: column})
    gone = scenes.shape.clone()
    gone[:, 1] = -1
    more = Scenes.of([replace(s, things=(*s.things, Thing("ring", "red", "small", *free(s)))) for s in scenes])
    return {"background": other("background", BACKGROUNDS), "colour": other("colour", COLOURS),
            "shape": other("shape", SHAPES), "size": replace(scenes, size=1 - scenes.size),
            "relation": replace(scenes, xy=1 - scenes.xy), "number": replace(scenes, shape=gone), "more": more}


def free(scene):
    """The corner farthest from the things."""
    corners = itertools.product((.16, .84), repeat=2)
    return max(corners, key=lambda c: min(math.dist(c, (t.x, t.y)) for t in scene.things))


def test_wrong_pictures_are_counted_wrong():
    """Two things, everything named: one wrong word, one thing more or less, and no picture is right."""
    scenes = full(150, rng("wrong"), "two")
    room = [min(math.dist(free(s), (t.x, t.y)) for t in s.things) > .4 for s in scenes]
    scenes = scenes[torch.tensor(room)]
    captions = write(scenes, rng("wrong captions"), complete=True)
    true = prompt_accuracy(render(scenes), captions)
    assert {name: rate.value for name, rate in true.items()} == dict.fromkeys(true, 1.) and len(scenes) > 60
    for claim, changed in wrong_scenes(scenes).items():
        rates = prompt_accuracy(render(changed), captions)
        assert rates["right"].k == 0, claim
        broken = "number" if claim == "more" else claim
        assert rates[broken].value <= .02, (claim, rates[broken])
        if claim in ("background", "colour", "shape", "relation"):
            assert rates["legal"].value > .9
            kept = [name for name in ("number", "background", "colour", "shape", "size", "relation") if name != broken]
            assert all(rates[name].value > .9 for name in kept), (claim, {k: str(v) for k, v in rates.items()})


@pytest.mark.parametrize("name, grade", [("smeared", 12), ("speck", 4), ("erased", .5), ("blob", 1.5), ("blob", 4),
                                         ("checks", .3)])
def test_damaged_pictures_are_counted_wrong(name, grade):
    scenes = full(60, rng("damaged"), "two")
    _, pictures = damaged(name, grade, scenes)
    assert prompt_accuracy(pictures, write(scenes, rng("captions"), complete=True))["right"].value <= .07


def test_blank_captions_ask_for_a_legal_picture():
    x = torch.cat([render(full(20, rng("blank"))), torch.randn(20, 3, 32, 32, generator=rng("blank"))])
    rates = prompt_accuracy(x, ["a picture"] * 40)
    assert (rates["right"].k, rates["legal"].k, rates["number"].k) == (20, 20, 40)
    assert "colour" not in rates


# --- what must be refused ---------------------------------------------------------------------------------------------

def test_empty_pictures_are_refused():
    empty = render(Scenes.of([Scene(b, ()) for b in BACKGROUNDS]))
    flat = torch.stack([torch.full((3, 32, 32), level) for level in (-.6, .4, 1.)])
    half = torch.where(torch.arange(32) < 16, -1., 1.).expand(1, 3, 32, 32)
    assert read(torch.cat([empty, flat, half])) == [None] * 8


def test_five_things_are_read_and_six_refused():
    places = [(.16, .16), (.84, .16), (.5, .3), (.16, .6), (.84, .6), (.5, .8)]
    things = [Thing(shape, colour, "small", *xy) for shape, colour, xy in zip(SHAPES, COLOURS, places, strict=False)]
    scenes = [Scene("black", tuple(things[:n])) for n in range(1, 7)]
    found = read(render(Scenes.of(scenes)))
    assert MOST == 5 and found[5] is None
    assert all(same(a, b) for a, b in zip(found[:5], scenes[:5], strict=True))


@pytest.mark.parametrize("pictures, message", [
    (torch.zeros(2, 1, 32, 32), r"\[b, 3, h, h\], not a tensor \[2, 1, 32, 32\]"),
    (torch.zeros(3, 32, 32), r"not a tensor \[3, 32, 32\]"),
    (torch.zeros(1, 3, 32, 16), r"not a tensor \[1, 3, 32, 16\]"),
    (torch.full((1, 3, 32, 32), math.nan), "not finite; pictures lie in"),
    (torch.full((1, 3, 32, 32), math.inf), "not finite; pictures lie in"),
])
def test_bad_input_is_an_error(pictures, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(analyse)(pictures)                   # as users have it, without the tests' checker around


def test_a_caption_for_each_picture():
    with pytest.raises(ValueError, match="2 pictures but 1 captions: each picture needs one caption"):
        prompt_accuracy(torch.zeros(2, 3, 32, 32), ["a picture"])


# --- styles -----------------------------------------------------------------------------------------------------------

def test_outlines_and_stripes_are_read():
    """The three styles at random: under 3 % errors among 400 of each world; without styles they are refused."""
    generator = rng("styles")
    for scenes in (full(400, generator), single("all")[torch.randperm(3456, generator=generator)[:400]]):
        styled = replace(scenes, style=torch.randint(len(STYLES), scenes.style.shape, generator=generator))
        assert errors(render(styled), styled, styles=tuple(STYLES)) < 12
    striped = replace(scenes, style=torch.full_like(scenes.style, list(STYLES).index("striped")))
    assert sum(scene is not None for scene in read(render(striped))) < 20


def test_solid_things_stay_solid_when_styles_are_open():
    scenes = full(300, rng("solid"))
    assert errors(render(scenes), scenes, styles=tuple(STYLES)) <= 1


# --- rates ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("k, n", [(0, 1), (1, 1), (0, 40), (3, 40), (20, 40), (40, 40), (997, 1000), (5, 60_000)])
def test_interval_is_wilsons(k, n):
    theirs = binomtest(k, n).proportion_ci(confidence_level=.95, method="wilson")
    assert Rate(k, n).interval == pytest.approx((theirs.low, theirs.high), abs=1e-7)
    assert Rate(k, n).value == k / n


def test_rates_in_words():
    assert str(Rate(3, 40)) == "7.5 % [2.6, 19.9] of 40"
    assert math.isnan(Rate(0, 0).value) and Rate(0, 0).interval == (0., 1.)


# --- planted errors: shapes are not checked here, for two imports of one dataclass confuse the checker ---------------

LIMITS = "INSIDE, OUTSIDE, WORST, DIM, SINGLE, DRIFT = .20, .20, .33, .60, .42, .10"


@pytest.mark.parametrize("original, mutated, test", [
    (LIMITS, LIMITS.replace(".33", "math.inf"), "visible_damage_is_refused"),
    (LIMITS, LIMITS.replace(".42", "math.inf"), "visible_damage_is_refused"),
    (LIMITS, LIMITS.replace(", .10", ", math.inf"), "visible_damage_is_refused"),
    ("(self.scenes.number > 0) & ", "", "empty_pictures_are_refused"),
    ("(self.scenes.number <= MOST)", "(self.scenes.number <= MOST + 1)", "five_things_are_read_and_six_refused"),
    ("torch.isfinite(pictures).all()", "True", "bad_input_is_an_error"),
    ("legal and all(verdicts.values())", "legal", "wrong_pictures_are_counted_wrong"),
    ("z * math.sqrt(p * (1 - p) / self.n + z * z / (4 * self.n ** 2))", "z * math.sqrt(p * (1 - p) / self.n)",
     "interval_is_wilsons"),
    ("patches.centre - centroids(x.shape[-1])[shape, size, style]", "patches.centre", "outlines_and_stripes_are_read"),
])
def test_planted(original, mutated, test, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "jaxtyping" not in type(f).__module__])
    for name in [m for m in sys.modules if m.startswith("benchmarks")]:
        monkeypatch.delitem(sys.modules, name)           # it imports the oracle, so it is imported afresh as well
    module = "rates" if test == "interval_is_wilsons" else "oracle"
    assert not survives(module, original, mutated, f"test_oracle::test_{test}")


def test_empty_pictures_and_no_pictures_are_read():
    """Nothing but background: no scene of ours, and no crash either, whatever stands beside it."""
    nothing = rgb(BACKGROUNDS)[:, :, None, None].expand(-1, -1, 16, 16)
    assert read(nothing) == [None] * 4 and read(nothing[:0]) == []
    thing = render(single("train")[:1], 16)
    assert [scene is None for scene in read(torch.cat([nothing[:1], thing, nothing[1:]]))] == [
        True, False, True, True, True]
