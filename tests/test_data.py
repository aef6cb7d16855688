"""Batches are functions of (seed, step); their captions fit their pictures; near misses miss."""
import hashlib
import itertools
import sys

import pytest
import torch
from mutations import survives

from minidiff import data
from minidiff.captions import VOCABULARY, matches, parse
from minidiff.oracle import read
from minidiff.scenes import HELD_OUT_PAIRS, HELD_OUT_RELATIONS, full, render

MAKERS = {"pictures": lambda seed: data.pictures(8, seed), "pairs": lambda seed: data.pairs(8, seed, chinese=.5),
          "contrasts": lambda seed: data.contrasts(8, seed)}


def tensors(batch):
    return [batch] if isinstance(batch, torch.Tensor) else list(batch)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def sentence(row):
    """The caption of a row of word numbers; blanks between Chinese words do not change what it means."""
    return " ".join(VOCABULARY[k] for k in row.tolist() if k > 1)


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_batch_is_a_function_of_seed_and_step(name):
    """The same twice, in any order of calls, with other random numbers drawn in between; other keys, other batches."""
    make = MAKERS[name]
    forward = {step: make(7)(step) for step in (0, 1, 2)}
    torch.rand(5)
    at = make(7)
    backward = {step: at(step) for step in (2, 0, 1)}
    assert all(equal(forward[step], backward[step]) for step in forward)
    different = [*forward.values(), make(8)(0), make(8)(1)]
    assert not any(torch.equal(tensors(a)[0], tensors(b)[0]) for a, b in itertools.combinations(different, 2))


def test_kinds_of_batches_share_no_pictures():
    """Whoever trains on `pairs` and tests on `pictures` with the same seed sees fresh pictures."""
    seen = torch.cat([data.pictures(64, 0)(0), data.pairs(64, 0)(0).pictures, data.contrasts(64, 0)(0).pictures])
    assert len({picture.numpy().tobytes() for picture in seen}) == 192


def test_keys_of_random_generators():
    """A key is hashed as a whole: neighbours, orders, kinds and groupings of its parts give unrelated streams."""
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), ("0",), ("a", 1), ("a1",), (10,), (1, 0, 0), (-1,), (2 ** 70,)]
    draws = torch.stack([torch.rand(2000, generator=data.rng(*key)) for key in keys])
    off = torch.corrcoef(draws) - torch.eye(len(keys))
    assert off.abs().max() < 5 / 2000 ** .5
    assert torch.equal(torch.rand(5, generator=data.rng("a", 1)), draws[6, :5])


def test_generators_are_the_same_on_every_machine():
    draws = torch.randint(1000, (6,), generator=data.rng("machine", 3)).tolist()
    assert draws == [110, 623, 652, 446, 405, 891]


def test_batches_are_the_same_on_every_machine():
    """The checksum of word numbers, integers from scenes and grammar."""
    captions = data.pairs(64, 5, chinese=.25)(9).captions
    assert hashlib.sha256(str(captions.tolist()).encode()).hexdigest()[:16] == "df1cdc03d2ea1a48"


def test_captions_are_true_of_their_pictures():
    """Read back by the oracle and parsed from their numbers, in both languages; a quarter is Chinese."""
    batch = data.pairs(200, 1, chinese=.25)(3)
    captions = [sentence(row) for row in batch.captions]
    assert all(matches(scene, caption) for scene, caption in zip(read(batch.pictures), captions, strict=True))
    assert [caption.isascii() for caption in captions] == [False] * 50 + [True] * 150


def test_hard_pairs_are_two_things_told_completely_and_half_of_them_alike():
    batch = data.pairs(80, 2, chinese=.25, hard=.5)(4)
    captions, found = [sentence(row) for row in batch.captions], read(batch.pictures)
    assert all(matches(scene, caption) for scene, caption in zip(found, captions, strict=True))
    hard = found[40:]
    assert all(len(scene.things) == 2 for scene in hard) and any(len(scene.things) == 1 for scene in found[:40])
    alike = [a.colour == b.colour or a.shape == b.shape for a, b in (scene.things for scene in hard)]
    assert 20 <= sum(alike) <= 36                     # the half that is chosen so, and about a quarter of the others
    for scene, caption in zip(hard, captions[40:], strict=True):
        meaning = parse(caption)
        assert meaning.background == scene.background and meaning.relation
        assert all({"shape", "colour", "size"} <= thing.keys() for thing in meaning.things)
    assert [caption.isascii() for caption in captions] == ([False] * 10 + [True] * 30) * 2


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1, not 1.5"):
        data.pairs(8, hard=1.5)


def test_a_share_of_hard_pairs_leaves_the_others_as_they_are_drawn():
    plain = data.pairs(64, 5, chinese=.25)(9)
    assert plain.captions.equal(data.pairs(64, 5, chinese=.25, hard=0.)(9).captions)


def test_sizes_of_pictures():
    small, large = (data.pairs(4, 0, size=size)(0).pictures for size in (16, 64))
    assert small.shape == (4, 3, 16, 16)
    assert (torch.nn.functional.avg_pool2d(large, 4) - small).abs().mean() < .01       # the same scenes


NEAR = [(scene, sentence(right), sentence(row), ok)
        for step in range(3)
        for batch in [data.contrasts(150, 2, chinese=.3, misses=4)(step)]
        for scene, right, rows, counts in zip(full(150, data.rng("contrasts", 2, step)), batch.captions, batch.wrong,
                                              batch.counts.tolist(), strict=True)
        for row, ok in zip(rows, counts, strict=True)]


def test_right_captions_of_contrasts_are_true():
    assert all(matches(scene, right) for scene, right, _, _ in NEAR)
    batch = data.contrasts(50, 2)(0)
    assert torch.equal(batch.pictures, render(full(50, data.rng("contrasts", 2, 0))))


def test_near_misses_miss():
    """Those that count are false of the picture, up to one in fifty that tells the same in another order."""
    counted = [(scene, wrong) for scene, _, wrong, ok in NEAR if ok]
    assert len(counted) > .5 * len(NEAR)
    assert sum(matches(scene, wrong) for scene, wrong in counted) < .02 * len(counted)


def test_near_misses_are_near():
    """A near miss has the same phrasing: at most a few words of the right caption change."""
    changed = [sum(a != b for a, b in zip(right.split(), wrong.split(), strict=False)) + abs(
        len(right.split()) - len(wrong.split())) for _, right, wrong, ok in NEAR if ok]
    assert min(changed) >= 1 and sum(c <= 4 for c in changed) / len(changed) > .9


def test_near_misses_never_tell_of_held_out_combinations():
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    told = {True: 0, False: 0}
    for _, _, wrong, ok in NEAR:
        meaning = parse(wrong)
        pairs = any((t.get("colour"), t.get("shape")) in HELD_OUT_PAIRS for t in meaning.things)
        shapes = [t.get("shape") for t in meaning.things]
        relation = meaning.relation and {(shapes[0], meaning.relation, shapes[1]),
                                         (shapes[1], opposite[meaning.relation], shapes[0])} & set(HELD_OUT_RELATIONS)
        told[ok] += bool(pairs or relation)
    assert told[True] == 0 and told[False] > 10                      # they were made, and do not count


@pytest.mark.parametrize("original, mutated, test", [
    ('rng("pairs", seed, step)', 'rng("pairs", seed)', "a_batch_is_a_function_of_seed_and_step"),
    ('rng("pictures", seed, step)', 'rng("pictures", step)', "a_batch_is_a_function_of_seed_and_step"),
    ("repr(key)", "''.join(map(str, key))", "keys_of_random_generators"),
    ("~(held_out_pair(m).any(1) | held_out_relation(m))", "~held_out_relation(m)",
     "near_misses_never_tell_of_held_out_combinations"),
    ("& (wrong != right[:, None]).any(-1)", "", "near_misses_miss"),
    ("generator.set_state(state)", "generator", "near_misses_are_near"),
])
def test_planted(original, mutated, test, monkeypatch):
    """Shapes are not checked here, for two imports of one dataclass confuse the checker."""
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "jaxtyping" not in type(f).__module__])
    assert not survives("data", original, mutated, f"test_data::test_{test}")
