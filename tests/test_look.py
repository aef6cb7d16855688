"""The program that looks at pages and at JupyterLab: it loses no row, and finds what was planted.

What needs a browser is run on request only: COURSE_BROWSER=1 pytest tests/test_look.py
"""
import importlib.util
import itertools
import os
import random
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks" / "source"))
import look  # noqa: E402

# What MathJax 2 leaves in a page for a good formula, an unknown \word, and a formula that it cannot read.
GOOD = """<p>Let <span class="mjx-chtml"><span class="mjx-math" aria-hidden="true"><b class="mjx-char">a</b></span>
<span class="MJX_Assistive_MathML"><math><mi>a</mi></math></span></span><script type="math/tex">a \\in A</script>
be <code>$5$</code>, and <pre>$HOME$ \\n |---|</pre> code; it costs $5.</p><table><tr><th>a</th></tr></table>"""
UNKNOWN = """<p><span class="mjx-chtml"><span class="mjx-mtext" style="color: red;">\\nosuch</span><span>y</span>
<span class="MJX_Assistive_MathML"><math><mtext mathcolor="red">\\nosuch</mtext><mi>y</mi></math></span></span></p>"""
BROKEN = """<p><span class="mjx-chtml"><span class="mjx-noError">\\frac{a</span>
<span class="MJX_Assistive_MathML"><math><merror><mtext>\\frac{a</mtext></merror></math></span></span>
<script type="math/tex">\\frac{a</script></p>"""
CRASHED = '<p><span class="MathJax_Preview"></span><span class="MathJax_Error">[Math Processing Error]</span></p>'
# MathJax 3, as JupyterLab has it: the visible letters are no text.
BROKEN_3 = """<mjx-container><mjx-math><mjx-merror data-mjx-error="Double exponent"><mjx-c class="mjx-c61"></mjx-c>
</mjx-merror></mjx-math><mjx-assistive-mml><math><merror data-mjx-error="Double exponent"><mtext>a^b^c</mtext></merror>
</math></mjx-assistive-mml></mjx-container>"""


@pytest.mark.parametrize(
    "page, texts",
    [
        (GOOD, []),
        (UNKNOWN, ["\\nosuch"]),
        (BROKEN, ["\\frac{a"]),
        (CRASHED, ["[Math Processing Error]"]),
        (BROKEN_3, ["Double exponent a^b^c"]),
        (GOOD + BROKEN + UNKNOWN + BROKEN, ["\\frac{a", "\\nosuch"]),
        ("<p>the norm $x<em>i + y</em>i$ of it</p>", ["$xi + yi$"]),  # Markdown saw emphasis before MathJax saw dollars
        ("<p>an angle \\alpha</p>", ["\\alpha"]),
        ("<p>| a | b |\n|---|:-:|\n| 1 | 2 |</p>", ["|---|:-:|"]),  # a table that became a paragraph
    ],
)
def test_what_did_not_render_is_named(page, texts):
    assert look.unrendered(page) == [f"did not render: {text}" for text in texts]


def striped(height: int) -> Image.Image:
    """A picture in which each row differs from the others."""
    picture = Image.new("RGB", (3, height))
    picture.putdata([(row // 256, row % 256, column) for row in range(height) for column in range(3)])
    return picture


@pytest.mark.parametrize("height", [1, 99, 100, 101, 1234])
@pytest.mark.parametrize("tops", [[], [0], [0, 30, 95, 100, 180, 333, 340, 400, 1230], list(range(0, 1300, 7))])
def test_cutting_loses_no_row(height, tops):
    whole, parts = striped(height), look.cut(striped(height), tops, 100)
    assert b"".join(part.tobytes() for part in parts) == whole.tobytes()
    assert all(0 < part.height <= 100 for part in parts)


def test_a_part_begins_with_a_cell():
    """90 is the last top within 100 rows, 150 the next one from there; then none is near enough, so 100 rows."""
    heights = [part.height for part in look.cut(striped(500), [0, 40, 90, 150, 380], 100)]
    assert heights == [90, 60, 100, 100, 30, 100, 20]


def test_scrolling_passes_every_row():
    """A window of random size that stops where it is told has shown each row, and never looks past the end."""
    rows = random.Random(0)
    for _ in range(200):
        total, window, overlap = rows.randint(1, 3000), rows.randint(20, 900), rows.randint(0, 19)
        tops = look.stops(total, window, overlap)
        assert {row for top in tops for row in range(top, min(top + window, total))} == set(range(total))
        assert all(top == 0 or top + window <= total for top in tops)
        assert all(below - above <= window - overlap for above, below in itertools.pairwise(tops))


@pytest.mark.parametrize(
    "values, pictures, wrong",
    [
        (("1", "4"), (["a"], ["b"]), ""),
        (("1", "4"), (["a", "b"], ["a", "c"]), ""),
        (("1", "4"), ([], ["b"]), ""),
        (("1", "4"), (["a"], ["a"]), "the picture stays the same"),
        (("1", "4"), (["a"], []), "leaves no picture"),
        (("1", "1"), (["a"], ["a"]), "does not move"),
    ],
)
def test_dead_sliders(values, pictures, wrong):
    said = look.dead(values, pictures)
    assert wrong in said and bool(wrong) == bool(said)


def test_mishaps():
    new, error = nbformat.v4, nbformat.v4.new_output("error", ename="E", evalue="why", traceback=[])
    cells = [
        new.new_markdown_cell("text"),
        new.new_code_cell("1", execution_count=1),
        new.new_code_cell("2", execution_count=2, outputs=[error]),
        new.new_code_cell("3", execution_count=3, outputs=[error], metadata={"tags": ["raises-exception"]}),
        new.new_code_cell("4"),
        new.new_code_cell(" "),
    ]
    assert look.mishaps(new.new_notebook(cells=cells)) == ["cell 3 fails: E: why", "cell 5 never ran"]


# What is missing is said in one sentence.


@pytest.mark.parametrize("named, words", [(None, "A browser was not found"), ("no-such", r"CHROME \(no-such\)")])
def test_no_browser(monkeypatch, named, words):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CHROME", raising=False)
    if named:
        monkeypatch.setenv("CHROME", named)
    with pytest.raises(SystemExit, match=f"{words}.*install Chromium"):
        look.browser()


def test_the_named_browser_is_taken_and_no_other(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/somewhere/{name}")
    monkeypatch.delenv("CHROME", raising=False)
    assert look.browser() == "/somewhere/chromium"
    monkeypatch.setenv("CHROME", "my-chrome")
    assert look.browser() == "/somewhere/my-chrome"


def test_no_playwright(monkeypatch):
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(SystemExit, match="playwright.*is not installed: pip install"), look.window(100, 100):
        pass


def test_mathjax(monkeypatch, tmp_path):
    monkeypatch.delenv("MATHJAX", raising=False)
    monkeypatch.setattr(look, "MATHJAX", str(tmp_path))
    assert look.mathjax() is None
    monkeypatch.setenv("MATHJAX", str(tmp_path))
    with pytest.raises(SystemExit, match="There is no MathJax.js in"):
        look.mathjax()
    (tmp_path / "MathJax.js").touch()
    assert look.mathjax() == tmp_path.resolve()


def test_commands(monkeypatch, capsys, tmp_path):
    """Numbers of chapters and paths are understood; the exit code is 1 where something is wrong."""
    monkeypatch.setattr(look, "look_at_page", lambda path, out: ["a", "b"] if path.name == "bad.ipynb" else [])
    monkeypatch.setattr(look, "look_at_lab", lambda path, out, limit: [f"limit {limit:g}"])
    monkeypatch.chdir(tmp_path)
    for name in ("good.ipynb", "bad.ipynb"):
        Path(name).touch()
    assert look.main(["page", "good.ipynb"]) == 0 and "nothing to mend" in capsys.readouterr().out
    assert look.main(["page", "good.ipynb", "bad.ipynb"]) == 1 and "2 to mend\n  a\n  b" in capsys.readouterr().out
    assert look.main(["lab", "bad.ipynb", "--limit", "7"]) == 1 and "limit 7" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="There is no chapter 98"):
        look.main(["page", "good.ipynb", "98"])
    with pytest.raises(SystemExit, match="There is no chapter lost.ipynb"):
        look.main(["page", "lost.ipynb"])
    with pytest.raises(SystemExit, match="2"):
        look.main(["dance", "00"])


# With a real browser, on request.


def why_not() -> str:
    """Why the tests with a browser do not run; empty if they do."""
    if os.environ.get("COURSE_BROWSER", "0") in ("", "0"):
        return "COURSE_BROWSER=1 asks for the tests with a browser"
    if importlib.util.find_spec("playwright") is None:
        return 'playwright is not installed: pip install -e ".[look]"'
    return "" if any(map(shutil.which, [os.environ.get("CHROME", ""), *look.BROWSERS])) else "there is no browser"


with_a_browser = pytest.mark.skipif(bool(why_not()), reason=why_not())
NEIGHBOUR = "def picture(shade):\n    from PIL import Image\n    return Image.new('L', (9, 9), shade)\n"
SLIDERS = """from ipywidgets import interact, IntSlider
from exercises import picture
interact(picture, shade=IntSlider(40, 0, 255, description="alive"))
interact(lambda shade: picture(7), shade=IntSlider(255, 0, 255, description="asleep"));"""


@pytest.fixture
def notebook(tmp_path):
    """Stores a notebook of some cells (text begins with #), and a module of exercises beside it."""
    (tmp_path / "exercises.py").write_text(NEIGHBOUR)

    def store(*sources: str) -> Path:
        new = nbformat.v4
        cells = [new.new_markdown_cell(s) if s.startswith("#") else new.new_code_cell(s) for s in sources]
        book = new.new_notebook(cells=cells, metadata=look.build.METADATA)
        nbformat.write(book, tmp_path / "a chapter.ipynb")
        return tmp_path / "a chapter.ipynb"

    return store


def looks_drawn(folder: Path, stem: str) -> bool:
    """Whether the pictures are there, in order, and each shows something."""
    parts = sorted(folder.glob(f"{stem}-*.png"))
    names = [part.stem.removeprefix(f"{stem}-") for part in parts]
    return names == [f"{number:02}" for number in range(1, len(parts) + 1)] != [] and all(
        len(Image.open(part).convert("L").getcolors()) > 5 for part in parts
    )


@with_a_browser
@pytest.mark.skipif(look.mathjax() is None, reason="there is no MathJax here: apt install libjs-mathjax")
def test_page_in_a_browser(notebook, tmp_path):
    good = "# Energy\n\n$E = \\frac12 m v^2$ and $$ a_i \\tag{1} $$"
    assert look.look_at_page(notebook(good, "1 + 1"), tmp_path) == []
    assert looks_drawn(tmp_path, "a chapter-page")
    planted = good + "\n\nbut $x + \\nosuch{y}$ and $\\frac{a$"
    found = look.look_at_page(notebook(planted, *["# More\n\nwords " * 60] * 40), tmp_path)
    assert found == ["did not render: \\nosuch", "did not render: \\frac{a"]
    assert looks_drawn(tmp_path, "a chapter-page") and (tmp_path / "a chapter-page-02.png").exists()


@with_a_browser
def test_lab_in_a_browser(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(look, "PATIENCE", 15)
    path = notebook("# Planted: $a^b^c$", SLIDERS, "1 / 0", "'never'")
    found = look.look_at_lab(path, tmp_path, 120)
    assert found == [
        "cell 3 fails: ZeroDivisionError: division by zero",
        "cell 4 never ran",
        "did not render: Double exponent: use braces to clarify a^b^c",
        "the slider asleep moves, but the picture stays the same",
    ]
    assert looks_drawn(tmp_path, "a chapter-lab")


@with_a_browser
def test_lab_is_not_waited_for_without_end(notebook, tmp_path):
    found = look.look_at_lab(notebook("import time; time.sleep(600)"), tmp_path, 5)
    assert found == ["the cells were still running after 5 s (--limit gives them more)", "cell 1 never ran"]
