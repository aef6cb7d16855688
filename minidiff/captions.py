"""Captions: sentences about scenes in English and Chinese, what they claim, and their words as numbers.

One scene has many captions (`write`), and one caption has many scenes: `parse` gives what it claims, `matches` tells
whether a scene keeps it. What a caption does not name is free.
"""
import difflib
import functools
import itertools
import re
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from minidiff.scenes import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Scene, Scenes

LENGTH = 24                                   # tokens of a caption, the start token included
LANGUAGES = ("en", "zh")
ATTRIBUTES = ("size", "colour", "shape", "place")

# Chinese names, in the order of the tables in `scenes`
CHINESE = {
    "colour": dict(zip(COLOURS, "红色 橙色 黄色 绿色 蓝色 紫色 粉色 白色".split(), strict=True)),
    "background": dict(zip(BACKGROUNDS, "黑色 灰色 深蓝色 米色".split(), strict=True)),
    "shape": dict(zip(SHAPES, "圆形 方形 三角形 星形 十字形 环形".split(), strict=True)),
    "size": dict(zip(SIZES, "小的 大的".split(), strict=True)),
    "place": dict(zip(PLACES, "左上角 上方 右上角 左侧 中间 右侧 左下角 下方 右下角".split(), strict=True)),
    "relation": dict(zip(RELATIONS, "左边 右边 上面 下面".split(), strict=True)),
}
# Words that mean the same and that no caption uses: refused, with the known word as the advice.
SYNONYMS = {"crimson": "red", "scarlet": "red", "amber": "orange", "golden": "yellow", "emerald": "green",
            "azure": "blue", "violet": "purple", "rosy": "pink", "snowy": "white", "tiny": "small", "little": "small",
            "big": "large", "huge": "large", "disc": "circle", "box": "square", "plus": "cross", "hoop": "ring",
            "beneath": "below", "over": "above"}


# --- what the words mean --------------------------------------------------------------------------------------------

def lexicon() -> dict[tuple[str, ...], tuple[str, str | None]]:
    """Phrases (tuples of words) with their meaning (kind, value); kind `open` is an article, `skip` means nothing."""
    table = {(w,): (kind, w) for kind, words in (("colour", COLOURS), ("background", BACKGROUNDS), ("shape", SHAPES),
                                                 ("size", SIZES)) for w in words}
    table |= {tuple(p.split()): ("place", p) for p in PLACES} | {tuple(r.split()): ("relation", r) for r in RELATIONS}
    table |= {("to", "the", *r.split()): ("relation", r) for r in RELATIONS if r.endswith(" of")}
    table |= {(w,): (kind, v) for kind, words in CHINESE.items() for v, w in words.items()}
    table |= {("a", "picture"): ("skip", None), ("a", "picture", "of"): ("skip", None)}
    table |= {(w,): ("open", None) for w in ("a", "an", "一个")}
    table |= {(w,): ("noun", None) for w in ("shape", "图形")} | {("something",): ("something", None)}
    skip = "picture the on at in of is and to left right background 在 的 有 和 背景 上 一张图".split()
    return table | {(w,): ("skip", None) for w in skip if (w,) not in table}


LEXICON = lexicon()
# Trained models know words by their place in this list: new words go to its end (a text encoder refuses another order).
VOCABULARY = ("<pad>", "<start>", *sorted({w for phrase in LEXICON for w in phrase}))
NUMBER_OF = {word: k for k, word in enumerate(VOCABULARY)}
CHARACTERS = "|".join(sorted((w for w in VOCABULARY if not w.isascii()), key=len, reverse=True))
CUT = re.compile(CHARACTERS + r"|[a-z]+|[^\s,.;，。；]")


class UnknownWord(ValueError):
    """A caption holds a word that the course's captions never use."""


def words(caption: str) -> list[str]:
    """The words of a caption; an unknown one is an error that names it and the nearest known words."""
    if not isinstance(caption, str):
        raise TypeError(f"a caption is a text, not {type(caption).__name__}")
    found = CUT.findall(caption.lower())
    for word in found:
        if word not in NUMBER_OF:
            known = [w for w in VOCABULARY[2:] if w.isascii() == word.isascii()]
            near = [SYNONYMS[word]] if word in SYNONYMS else difflib.get_close_matches(word, known, n=3, cutoff=.6)
            advice = f"the nearest known: {', '.join(near)}" if near else f"known are: {', '.join(known)}"
            raise UnknownWord(f"the word {word!r} was never seen in training; {advice}")
    return found


def encode(captions: list[str]) -> Int[Tensor, "b l"]:
    """Captions as rows of word numbers: <start>, the words, then <pad> up to LENGTH."""
    if isinstance(captions, str):
        raise TypeError("encode takes a list of captions; put the one caption into brackets")
    rows = [[1] + [NUMBER_OF[w] for w in words(c)] for c in captions]
    for row, caption in zip(rows, captions, strict=True):
        if len(row) > LENGTH:
            raise ValueError(f"a caption may have {LENGTH - 1} words; this one has {len(row) - 1}: {caption!r}")
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows], dtype=torch.long).reshape(-1, LENGTH)


@dataclass(frozen=True)
class Meaning:
    """What a caption claims: the things it tells of (dicts of attributes), their relation, the background."""
    things: tuple[dict, ...]
    relation: str | None
    background: str | None


@functools.lru_cache(maxsize=100_000)
def parse(caption: str) -> Meaning:
    """What a caption claims: words are gathered into things; an article, a relation or "and" begins the next one.

    A relation stands between two things (in Chinese after them, 在 between); anything else about it is an error.
    """
    rest, things, relation, background = words(caption), [{}], None, None
    while rest:
        n = max(k for k in range(1, 5) if tuple(rest[:k]) in LEXICON)
        (kind, value), word, rest = LEXICON[tuple(rest[:n])], rest[0], rest[n:]
        if kind == "background":
            if background or rest and LEXICON.get(tuple(rest[:1]), ("",))[0] in ("shape", "noun"):
                raise ValueError(f"{caption!r}: {word!r} is a background's colour, one for a picture, as in 'on black'")
            background = value
        elif kind == "relation":
            if relation or not any(things) or rest[:1] == ["有"]:
                raise ValueError(f"{caption!r}: one relation follows a first thing, as in 'a red circle above a ring'")
            relation = value
        if begins(things[-1], kind, word):
            things.append({})
        if kind in (*ATTRIBUTES, "noun", "something"):
            things[-1][kind] = value
    things = tuple(t for t in things if t)
    if len(things) > 5:
        raise ValueError(f"{caption!r} tells of {len(things)} things; a picture holds at most five")
    if relation and len(things) != 2:
        raise ValueError(f"{caption!r}: {relation!r} stands between two things, and here are {len(things)}")
    return Meaning(things, relation, background)


def begins(thing: dict, kind: str, word: str) -> bool:
    """Whether a word of this kind cannot belong to the thing told so far."""
    named = "shape" in thing or "noun" in thing
    if kind in ATTRIBUTES:
        return kind in thing or named and kind != "place"
    new = kind in ("relation", "something") or word in ("and", "和")
    return new or kind == "open" and not thing.keys() <= {"place"}


def matches(scene: Scene, caption: str) -> bool:
    """Whether a scene is a right picture of a caption: number, background, every attribute and relation named."""
    return all(judge(scene, parse(caption)).values())


def judge(scene: Scene, meaning: Meaning) -> dict[str, bool]:
    """The claims of a caption one by one, things paired with the scene's so that most claims hold.

    Where two pairings keep as many, things are known by their looks: rather the relation is wrong than a word.
    """
    verdicts = {"number": len(scene.things) == len(meaning.things) or not meaning.things,
                "background": meaning.background in (None, scene.background)}
    n = len(meaning.things)
    pairings = itertools.permutations(range(max(n, len(scene.things))), n)
    every = [claims(scene, meaning, p) for p in pairings]
    return verdicts | max(every, key=lambda kept: (sum(kept.values()), not kept.get("relation")))


def claims(scene: Scene, meaning: Meaning, pairing: tuple[int, ...]) -> dict[str, bool]:
    """Which attributes hold when the caption's k-th thing is the scene's pairing[k]-th."""
    verdicts = {}
    for told, i in zip(meaning.things, pairing, strict=True):
        thing = scene.things[i] if i < len(scene.things) else None
        for name in ATTRIBUTES:
            if name in told:
                verdicts[name] = verdicts.get(name, True) and thing is not None and getattr(thing, name) == told[name]
    if meaning.relation:
        both = len(pairing) == 2 and max(pairing) < len(scene.things)
        verdicts["relation"] = both and scene.relation(*pairing) == meaning.relation
    return verdicts


# --- writing --------------------------------------------------------------------------------------------------------

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
TEMPLATES = {
    "en": {1: ("{a} {place} {back}", "a picture of {a} {place} {back}", "{back}, {a} {place}"),
           2: ("{a} {relation} {b} {back}", "a picture of {a} {relation} {b} {back}", "{back}, {a} {relation} {b}",
               "{a} is {relation} {b} {back}"),
           "list": ("{a} and {b} {back}", "{back}, {a} and {b}")},
    "zh": {1: ("{back}，{place}有{a}", "{place}有{a}，{back}", "{a}在{place}，{back}"),
           2: ("{back}，{a}在{b}的{relation}", "{a}在{b}的{relation}，{back}"),
           "list": ("{a}和{b}，{back}", "{back}，{a}和{b}")},
}


def thing_in_words(words_of: dict[str, str | None], language: str) -> str:
    """One thing, as "a small red circle" or 一个小的红色圆形, with what is None left out."""
    size, colour, shape = (words_of[k] for k in ("size", "colour", "shape"))
    if language == "zh":
        parts = [CHINESE[k][w] for k, w in (("size", size), ("colour", colour), ("shape", shape)) if w]
        return "一个" + "".join(parts) + ("" if shape else "图形")
    if not (size or shape):
        return f"something {colour}" if colour else "something"
    noun = " ".join(filter(None, (size, colour, shape or "shape")))
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def sentence(scene: Scene, language: str, keep: list[bool], pick: list[int]) -> str:
    """One caption; keep: which of background, place or relation, then size, colour, shape of each thing are named."""
    told = list(scene.things)
    if len(told) == 2 and pick[0] % 2:
        told.reverse()                                            # either of the two may be told of first
    names = [{k: getattr(t, k) if keep[2 + 3 * i + j] else None for j, k in enumerate(ATTRIBUTES[:3])}
             for i, t in enumerate(told)]
    slots = dict(zip("ab", (thing_in_words(n, language) for n in names), strict=False))
    relation = Scene(scene.background, tuple(told)).relation() if len(told) == 2 else None
    back, place = keep[0] and scene.background, len(told) == 1 and keep[1] and told[0].place
    if language == "zh":
        slots |= {"back": f"{CHINESE['background'][back]}背景上" if back else "",
                  "place": CHINESE["place"].get(place, ""), "relation": CHINESE["relation"].get(relation, "")}
        if len(told) == 1 and not place:
            return slots["back"] + ("有" if back else "") + slots["a"]
    else:
        backs = (f"on {back}", f"on a {back} background")
        long = f"to the {relation}" if relation in ("left of", "right of") and pick[1] % 2 else relation
        slots |= {"back": backs[pick[2] % 3 // 2] if back else "", "place": f"at the {place}" if place else "",
                  "relation": long}
    forms = TEMPLATES[language]["list" if len(told) == 2 and not (keep[1] and relation) else len(told)]
    return " ".join(forms[pick[3] % len(forms)].format(**slots).split()).strip(" ,，")


def write(scenes: Scenes, generator: torch.Generator, language: str = "en", *, complete: bool = False) -> list[str]:
    """A caption for each scene (of one or two things).

    complete: every attribute is named; else half of the captions are complete, one in fifty is "a picture", and each
    attribute of the others is named with probability 0.6.
    """
    if language not in LANGUAGES:
        raise ValueError(f"{language!r} is no language of the captions; there are {', '.join(LANGUAGES)}")
    chance = torch.rand(len(scenes), 10, generator=generator)
    keep: Bool[Tensor, "b 8"] = (chance[:, 2:] < .6) | (chance[:, :1] < .5) | complete
    pick = torch.randint(1_000_000, (len(scenes), 4), generator=generator).tolist()
    nothing = (chance[:, 1] < .02).tolist() if not complete else [False] * len(scenes)
    empty = "a picture" if language == "en" else "一张图"
    return [empty if none else sentence(s, language, k, p)
            for s, none, k, p in zip(scenes, nothing, keep.tolist(), pick, strict=True)]
