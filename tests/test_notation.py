"""The page of notation and glossary tells the truth: its names, numbers and examples are the library's."""
import ast
import doctest
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_structure import CHAPTER

from minidiff import guidance, oracle, plot, scenes, schedules
from minidiff.autoregressive import entropy
from minidiff.denoiser import TARGETS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "notebooks" / "notation.md").read_text(encoding="utf-8")
LIBRARY = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "minidiff").glob("*.py")}
CHAPTER_0 = (ROOT / "notebooks" / "source" / "00_drawing_is_not_writing.py").read_text(encoding="utf-8")
STRESSED = {"draw", "infinite"}  # bold in chapter 0 because the voice rises there, not because they are defined


def rows(*head: str) -> list[list[str]]:
    """The rows of all tables of the page whose first line has these cells ("*": any)."""
    found, table = [], None
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            table = None
        elif table is None:
            table = len(cells) == len(head) and all(a in ("*", b) for a, b in zip(head, cells, strict=True))
        elif table and not set("".join(cells)) <= set("-:"):
            found.append(cells)
    return found


def ticked(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


NAMES = [(code, module) for _, codes, _, modules in rows("in papers", "in the code", "what it is", "where")
         for code in ticked(codes) for module in ticked(modules)]
NUMBERS = [(value, ticked(how)[0]) for _, value, how in rows("*", "*", "ask the library")]
GLOSSARY = rows("term", "中文", "meaning", "chapter")
TERMS = {name.strip().casefold(): row for row in GLOSSARY for name in row[0].split(",")}


def test_the_tables_are_found():
    """A table whose head is misspelt would otherwise escape every test below."""
    assert len(NAMES) > 30 and len(NUMBERS) > 20 and len(GLOSSARY) > 150 and len(rows("letter", "axis")) > 5
    assert PAGE.count("\n|---|") == 12


# --- names ------------------------------------------------------------------------------------------------------------

def words_of(source: str) -> set[str]:
    """Every name that a source binds or uses, and every text in it with its quotes."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        for field in ("id", "arg", "attr", "name"):
            found.add(getattr(node, field, None))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(repr(node.value))
    return found


def missing(code: str, source: str) -> set[str]:
    """The names and quoted words of a piece of code that a source does not know."""
    return words_of(code) - words_of(source)


def test_each_name_is_in_the_library():
    assert {module for _, module in NAMES} <= CHAPTER.keys()
    there = [(code, module) for code, module in NAMES if module in LIBRARY]       # the others are still to come
    assert [(code, module) for code, module in there if missing(code, LIBRARY[module])] == []
    assert {module for _, module in NAMES} - LIBRARY.keys() <= {"mixture"}


def test_a_wrong_name_is_found():
    source = "def f(beta, *, eta=0.): return {'v': 1 - beta}, net.alpha_bar"
    assert not missing("1 - beta", source) and not missing("eta", source) and not missing('"v"', source)
    assert missing("1 - betas", source) and missing("v", source) and missing('"eps"', source)
    assert not missing("alpha_bar", source) and missing("alphas_cumprod", source)


def test_a_name_that_is_never_used_is_never_used():
    assert not any("alphas_cumprod" in words_of(source) for source in LIBRARY.values())


def test_axes_are_the_librarys():
    """Each letter names an axis somewhere, and batch, channels, height, width stand in this order everywhere."""
    shapes = [text.split() for source in LIBRARY.values()
              for text in re.findall(r'(?:Float|Int|Bool)\[[\w.]+, *"([^"]*)"\]', source)]
    for letter in (letter for cell, _ in rows("letter", "axis") for letter in ticked(cell)):
        assert any(letter in shape for shape in shapes), letter
    for shape in shapes:
        here = [letter for letter in shape if letter in "bchw"]
        assert here == sorted(here, key="bchw".index), shape


def test_time_runs_from_data_to_noise():
    for schedule in (schedules.trigonometric, schedules.rectified, schedules.DiscreteSchedule.cosine(100)):
        assert [float(c) for c in schedule(torch.tensor(0.))] == [1, 0]
        alpha, sigma = schedule(torch.tensor(1.))
        assert alpha < .01 and sigma > .99
    assert schedules.times(4).diff().max() < 0                                    # sampling walks backwards


def test_beta_alpha_bar_alpha_sigma_and_targets_are_what_the_page_says():
    """Three steps, multiplied out by hand; then what a network is asked for at the second."""
    discrete = schedules.DiscreteSchedule.from_betas(torch.tensor([.1, .3, .5]))
    assert discrete.T == 3 and discrete.alpha_bar.tolist() == pytest.approx([1, .9, .9 * .7, .9 * .7 * .5])
    alpha, sigma = discrete(torch.tensor(2 / 3))
    assert float(alpha) ** 2 == pytest.approx(.63) and float(sigma) ** 2 == pytest.approx(.37)
    x0, eps = 2., 5.
    pairs = {name: target(alpha, sigma) for name, target in TARGETS.items()}
    assert {name: float(a * x0 + b * eps) for name, (a, b) in pairs.items()} == pytest.approx(
        {"eps": 5, "x0": 2, "v": .63 ** .5 * 5 - .37 ** .5 * 2, "velocity": 3})


def test_a_scale_of_one_is_no_guidance_and_of_nought_no_caption():
    x, t = torch.zeros(1, 1), torch.tensor(.5)
    guided = [guidance.cfg(lambda x, t: x + 1, lambda x, t: x - 1, scale)(x, t).item() for scale in (0., 1., 3.)]
    assert guided == [-1, 1, 5]


def test_units():
    every_byte = torch.arange(256.).reshape(1, 1, 16, 16).expand(-1, 3, -1, -1)
    assert (plot.to_uint8(every_byte / 127.5 - 1)[0, :, :, 0].flatten() == range(256)).all()
    assert entropy(torch.tensor([[0], [0], [1], [1]])) == 1                       # two equal halves are one bit


def test_places_are_measured_from_the_top_left():
    spot = scenes.Scenes.of([scenes.Scene("black", (scenes.Thing("square", "white", "small", .75, .25),))])
    picture = scenes.render(spot)[0, 0]
    assert picture[8, 24] == 1 and picture[24, 8] == -1 and spot[0].things[0].place == "top right"


# --- numbers and examples ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def example() -> dict:
    """The page's examples, run and compared with what the page says they print; the names that they leave behind."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == PAGE.count("```") / 2 >= 2
    known = {}
    for block in blocks:
        test = doctest.DocTestParser().get_doctest(block, known, "notation.md", None, 0)
        assert test.examples and doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
        known = test.globs
    return known


def agrees(cell: str, value: object) -> bool:
    """Whether a cell of the page says a value: numbers to the digits that are printed, names joined by commas."""
    if isinstance(value, int | float):
        digits = cell.replace(",", "")
        return float(digits) == round(value, len(digits.partition(".")[2]))
    words = [" ".join(word) if isinstance(word, tuple) else word for word in value]
    said = cell.split("; " if ";" in cell else ", ")
    return len(said) == len(words) and all(
        a == b if isinstance(b, str) else agrees(a, b) for a, b in zip(said, words, strict=True))


@pytest.mark.parametrize(("value", "how"), NUMBERS, ids=[how for _, how in NUMBERS])
def test_each_number_is_the_librarys(value, how, example):
    assert agrees(value, eval(how, dict(example)))


def test_a_wrong_number_is_found():
    assert agrees("3,456", 3456) and agrees("1.443", 1.4427) and agrees("0.25, 0.5", [.25, .5])
    assert agrees("red star, blue ring", (("red", "star"), ("blue", "ring"))) and agrees("one; two, or so", {
        "one": 0, "two, or so": 0})
    assert not (agrees("3,455", 3456) or agrees("1.44", 1.4462) or agrees("0.25", [.25, .5]) or agrees("a, b", "ba"))


def test_the_numbers_belong_together():
    """The scenes counted once more, by multiplying and subtracting what the page itself says."""
    said = {what: value for what, value, _ in rows("what", "how many, or which", "ask the library")}
    shapes, colours, backgrounds, sizes, places = (
        len(said[what].split(", ")) for what in ("shapes", "colours of things", "backgrounds", "sizes", "places"))
    every, train, held = (int(said[what].replace(",", "")) for what in
                          ("scenes of world `single`", "… for training", "… held out"))
    pairs, relations = (value.split(", ") for _, value, _ in rows("what", "which", "ask the library"))
    rest = backgrounds * sizes * places
    assert every == shapes * colours * rest
    assert held == len(set(pairs)) * rest and train == every - held and len(relations) == 2
    assert len({pair.split()[0] for pair in pairs}) == len({pair.split()[1] for pair in pairs}) == 6
    assert oracle.MOST == 5 and rf"\sqrt{{{oracle.DIM:g}^2 + " in PAGE


def test_the_oracles_own_error_is_tested_as_the_page_says():
    tests = (ROOT / "tests" / "test_oracle.py").read_text(encoding="utf-8")
    for name in ("no_error_on_all_of_single", "no_error_on_ten_thousand_of_full",
                 "under_one_per_cent_at_noise_of_a_tenth"):
        assert f"def test_{name}(" in tests


# --- the glossary -----------------------------------------------------------------------------------------------------

def alphabetical(term: str) -> str:
    """Small letters without accents."""
    plain = unicodedata.normalize("NFKD", term.casefold())
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def test_the_glossary_is_in_order_and_without_doubles():
    first = [alphabetical(row[0].split(",")[0]) for row in GLOSSARY]
    assert first == sorted(first)
    assert len(TERMS) == sum(len(row[0].split(",")) for row in GLOSSARY)
    chinese = [row[1] for row in GLOSSARY]
    assert sorted({word for word in chinese if chinese.count(word) > 1}) == []


def flaws(term: str, chinese: str, meaning: str, chapter: str) -> Iterator[str]:
    """What is wrong with an entry: it should be one sentence of at most 30 words, with a simplified Chinese word."""
    if not meaning.endswith(".") or re.search(r"[.!?] [A-Z]", meaning):
        yield f"{term}: not one sentence"
    if len(meaning.split()) > 30:
        yield f"{term}: {len(meaning.split())} words"
    if not (chapter.isdigit() and int(chapter) <= 12):
        yield f"{term}: no chapter {chapter}"
    han = "".join(letter for letter in chinese if "\u4e00" <= letter <= "\u9fff")
    if not han or han.encode("gb2312", "ignore").decode("gb2312") != han:         # GB 2312 has simplified letters only
        yield f"{term}: {chinese} is not simplified Chinese"


def test_each_entry_is_one_short_sentence_in_two_languages():
    assert [flaw for row in GLOSSARY for flaw in flaws(*row)] == []


def test_a_flaw_is_found():
    assert list(flaws("a", "码", " ".join(["word"] * 30) + ".", "12")) == []
    assert len(list(flaws("a", "碼", "One. Two", "13"))) == len(list(flaws("a", "x", "word " * 31 + ".", "0"))) + 1 == 3


def test_a_term_that_names_a_module_names_its_chapter():
    """`denoiser`, `mixture`, `U-Net`, `schedule`: what has a module of its own is built where the module is."""
    found = 0
    for row in GLOSSARY:
        name = re.sub(r"[^a-z]", "", row[0].split(",")[0].casefold())
        for module in ({name, f"{name}s"} & CHAPTER.keys()) - {"gaussians", "likelihood"}:   # of one kind only
            found += 1
            assert int(row[3]) == CHAPTER[module], row[0]
    assert found >= 10


def defined(source: str) -> Iterator[str]:
    """The terms that a chapter's text sets in bold: one to three words, no table, no comma, no closing mark."""
    for cell in re.split(r"^# %%", source, flags=re.M):
        if cell.startswith(" [markdown]"):
            lines = [line.removeprefix("#").strip() for line in cell.splitlines()[1:]]
            text = " ".join(line for line in lines if not line.startswith("|"))
            for bold in re.findall(r"\*\*([^*]+)\*\*", text):
                if len(bold.split()) <= 3 and not re.search(r"[.,:;!?]", bold) and bold not in STRESSED:
                    yield bold


def in_glossary(term: str) -> bool:
    return any(name in TERMS for name in (term.casefold(), term.casefold().removesuffix("s")))


def test_every_term_that_chapter_0_defines_is_in_the_glossary():
    terms = set(defined(CHAPTER_0))
    assert {"entropy", "bits", "chimera", "Kullback–Leibler divergence", "Latent diffusion"} <= terms
    unknown = sorted(term for term in terms if not in_glossary(term))
    assert unknown == [], "write these into notebooks/notation.md, or into STRESSED if they are only stressed"


def test_chapters_link_to_this_page():
    """It lies beside the notebooks, so that the link works in JupyterLab and on a code host."""
    for source in sorted((ROOT / "notebooks" / "source").glob("[0-9][0-9]_*.py")):
        assert "](notation.md)" in source.read_text(encoding="utf-8"), f"{source.name} should link to notation.md"


def test_a_defined_term_is_recognised():
    text = "# %% [markdown]\n# A **new word** and **Predict first.**\n# | **Time** | 1 |\n# it is **called\n# odd**\n"
    assert list(defined(text + "# %%\ny = 2 **v** 2\n")) == ["new word", "called odd"]
    assert not in_glossary("new word") and in_glossary("Bits")


# --- how it is written ------------------------------------------------------------------------------------------------

def test_mathematics_survives_every_renderer():
    """Dollars in pairs with room around them; nothing inside that Markdown would take for its own."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "code", PAGE, flags=re.S)
    display = re.findall(r"^\$\$(.*?)\$\$$", text, re.S | re.M)
    lines = re.sub(r"^\$\$.*?\$\$$", "", text, flags=re.S | re.M).splitlines()
    assert "`" not in text and len(display) == 1 and all(line.count("$") % 2 == 0 for line in lines)
    inline = [formula for line in lines for formula in line.split("$")[1::2]]
    assert len(inline) > 90
    for formula in inline:
        assert formula == formula.strip() and not re.search(r"[|<>*]", formula), formula
    for before in (before for line in lines for before in line.split("$")[:-1:2]):
        assert before == "" or before[-1] in " (", before
    for after in (after for line in lines for after in line.split("$")[2::2]):
        assert after == "" or after[0] in " ,.;:)", after
    for formula in [*display, *inline]:
        assert not re.search(r"\\[^A-Za-z]|\}_\{", formula), formula


def test_lines_of_prose_are_short():
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.S).splitlines()
    assert all(len(line) <= 120 for line in prose if not line.startswith("|"))
