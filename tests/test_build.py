"""The stored notebooks: in step with their sources, described in words, small, and free of accidents."""
import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from minidiff.notebook import CLAIM

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks" / "source"))
import build  # noqa: E402

BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HOMEWORK = sorted((ROOT / "notebooks" / "homework" / "source").glob("*.py"))
OUTPUTS = 600 * 1024  # bytes of stored outputs of a notebook


def name(path: Path) -> str:
    return path.stem


class Pictures(HTMLParser):
    """The alt texts of all pictures of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.alts = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.alts.append(dict(attrs).get("alt") or "")


def undescribed(page: str) -> list[str]:
    return [alt for alt in Pictures(page).alts if len(alt) < 5 or alt.startswith("No description")]


def output_size(book) -> int:
    return sum(len(json.dumps(cell.outputs)) for cell in book.cells if cell.cell_type == "code")


def accidents(book) -> list[str]:
    """Stored exceptions, warnings, and the paths of somebody's machine."""
    found = []
    for number, cell in enumerate(book.cells, 1):
        for output in cell.get("outputs", []):
            words = str(output.get("text", "")) + "".join(
                str(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")
            )
            words = re.sub(r"base64,[A-Za-z0-9+/=]+", "", words)
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
                found.append(f"cell {number} stores an exception")
            if output.get("name") == "stderr":
                found.append(f"cell {number} stores what was written to stderr")
            if re.search(r"/home/|/Users/|/root/|/tmp/|\\Users\\|site-packages", words) or str(ROOT) in words:
                found.append(f"cell {number} stores a path of the machine it ran on")
    return found


def test_in_step():
    assert build.out_of_step() == [], "python3 course.py build"


@pytest.mark.parametrize("path", BOOKS, ids=name)
def test_stored_notebook(path):
    book = nbformat.read(path, 4)
    assert accidents(book) == []
    assert output_size(book) <= OUTPUTS
    assert build.nameless(book) == []
    assert undescribed(build.page(path)) == []


@pytest.mark.parametrize("path", HOMEWORK, ids=name)
def test_homework(path):
    """The solution passes its own tests; the student's version stops at the stub and gives nothing away."""
    build.execute(build.read(path), path.parent.parent)
    mine = build.student(build.read(path))
    assert "SOLUTION" not in nbformat.writes(mine) and "HIDDEN" not in nbformat.writes(mine)
    with pytest.raises(Exception, match="NotImplementedError"):
        build.execute(mine, path.parent.parent)


# The builder, on a notebook of its own.

TINY = """# %% [markdown]
# # A tiny chapter

# %%
1 + 1

# %%
1 + 1

# %% tags=["full-colour"] alt=["a set in two colours", "the set <again>"]
import io
from IPython.display import Image as Show, display
from PIL import Image
points = Image.effect_mandelbrot((128, 96), (-2, -1, 1, 1), 100)
out = io.BytesIO()
Image.merge("RGB", (points, points.rotate(90), points.rotate(180))).save(out, "png")
for _ in range(2):
    display(Show(out.getvalue()))

# %% jupyter={"source_hidden": true} alt="the set in few colours"
display(Show(out.getvalue()))

# %% tags=["raises-exception"]
raise ValueError("the lesson")
"""
HIDDEN = """# %%
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %%
assert double(1) == 2
### BEGIN HIDDEN TESTS
assert double(-3) == -6
### END HIDDEN TESTS
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder like notebooks/: one chapter, built, and one homework with its student's version."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "source").mkdir()
    (folder / "homework" / "source").mkdir(parents=True)
    (folder / "source" / "00_tiny.py").write_text(TINY)
    (folder / "homework" / "source" / "hw0.py").write_text(HIDDEN)
    build.build(folder / "source" / "00_tiny.py", folder)
    build.homework(folder / "homework")
    return folder


@pytest.fixture
def book(folder):
    return nbformat.read(folder / "00_tiny.ipynb", 4)


def test_built_with_outputs(book):
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5]
    assert code[0].outputs[0].data["text/plain"] == "2"
    assert len({cell.id for cell in book.cells}) == len(book.cells)
    assert book.metadata == nbformat.from_dict(build.METADATA) and accidents(book) == []


def test_pictures_are_small_unless_asked(book):
    stored = [figure.data["image/png"] for cell in book.cells for figure in build.drawn(cell)]
    modes = [Image.open(io.BytesIO(base64.b64decode(data))).mode for data in stored]
    assert modes == ["RGB", "RGB", "P"]


def test_alt_texts_reach_the_page(folder):
    alts = ["a set in two colours", "the set <again>", "the set in few colours"]
    page = build.page(folder / "00_tiny.ipynb")
    assert Pictures(page).alts == alts and undescribed(page) == []


@pytest.mark.skipif(not (Path(sys.prefix) / "course-stamp").exists(), reason="course.py setup names the template")
def test_alt_texts_reach_the_page_of_a_plain_export(folder, tmp_path):
    """`jupyter nbconvert --to html`, as anybody would call it."""
    command = [sys.executable, "-m", "nbconvert", "--to", "html", f"--output-dir={tmp_path}", "00_tiny.ipynb"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    assert undescribed((tmp_path / "00_tiny.html").read_text(encoding="utf-8")) == []


def test_code_can_be_folded_and_its_picture_stays(folder, book):
    folded = [bool(cell.metadata.get("jupyter", {}).get("source_hidden")) for cell in book.cells]
    assert folded == [False] * 4 + [True, False] and len(build.drawn(book.cells[4])) == 1
    assert book.cells[4].outputs[0].data["image/png"][-60:] in build.page(folder / "00_tiny.ipynb").replace("\n", "")


def test_missing_alt_text_is_found(folder, book, tmp_path):
    del book.cells[4].metadata["alt"], book.cells[4].outputs[0].metadata["image/png"]
    assert build.nameless(book) == [5]
    nbformat.write(book, tmp_path / "00_tiny.ipynb")
    assert len(undescribed(build.page(tmp_path / "00_tiny.ipynb"))) == 1


def test_alt_texts_must_be_as_many_as_pictures(book):
    book.cells[3].metadata["alt"] = ["only one"]
    with pytest.raises(ValueError, match="has 1 alt texts and draws 2 pictures"):
        build.describe(book.cells[3])


def test_an_edit_is_out_of_step(folder):
    source = folder / "source" / "00_tiny.py"
    assert build.out_of_step(folder) == []
    for edited in (TINY.replace("1 + 1", "1 + 2", 1), TINY.replace("full-colour", "timeout-9"), TINY + "\n# %%\n3\n"):
        source.write_text(edited)
        assert build.out_of_step(folder) == [f"{folder.name}/00_tiny.ipynb"]
    source.write_text(TINY)
    (folder / "source" / "01_new.py").write_text(TINY)
    assert build.out_of_step(folder) == [f"{folder.name}/01_new.ipynb"]
    (folder / "source" / "01_new.py").unlink()


def test_the_page_of_claims_tells_what_the_notebooks_recorded(tmp_path):
    """Every claim of a notebook, under its title, linked to the part in which it stands; an edit of the page shows."""
    record = {"id": "C99", "said": "Two | three.", "number": 3., "n": 5, "seeds": 1, "verdict": "holds", "spread": None,
              "sentence": "So it is.", "rule": "above 2", "smallest": None}
    output = nbformat.v4.new_output("display_data", {CLAIM: record, "text/plain": "C99"})
    cells = [nbformat.v4.new_markdown_cell("# A chapter\n\ntext"),
             nbformat.v4.new_markdown_cell("## 4 A part\n\n```python\n# no heading\n```"),
             nbformat.v4.new_code_cell("claim(...)", outputs=[output])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "07_toy.ipynb")
    page = build.ledger(tmp_path)
    assert "## [A chapter](07_toy.ipynb)\n" in page
    row, = (line for line in page.splitlines() if "C99" in line)
    assert row.startswith("| [C99](<07_toy.ipynb#4-A-part>) | Two ∣ three. | So it is.") and row.endswith("**holds** |")
    assert build.out_of_step(tmp_path) == ["claims.md", f"{tmp_path.name}/07_toy.ipynb"]
    (tmp_path / "claims.md").write_text(page, encoding="utf-8")
    assert "claims.md" not in build.out_of_step(tmp_path)
    (tmp_path / "claims.md").write_text(page.replace("holds", "does not hold here"), encoding="utf-8")
    assert "claims.md" in build.out_of_step(tmp_path)


def test_one_edit_changes_one_cell_id():
    def ids(text):
        return [cell.id for cell in build.read(io.StringIO(text)).cells]

    before, after = ids(TINY), ids(TINY.replace("the lesson", "a lesson"))
    assert [a == b for a, b in zip(before, after, strict=True)] == [True] * 5 + [False]


def test_student_version(folder):
    cells = nbformat.read(folder / "homework" / "hw0.ipynb", 4).cells
    assert cells[0].source == f"def double(x):\n    {build.STUB}"
    assert cells[1].source == "assert double(1) == 2"


@pytest.mark.parametrize("marks", ["BEGIN", "END", "BEGIN BEGIN", "BEGIN END END"])
def test_unbalanced_markers_are_refused(marks):
    text = "\n".join(f"### {mark} SOLUTION" for mark in marks.split())
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text)])
    with pytest.raises(ValueError, match="END"):
        build.student(book)


def test_accidents_are_found(book):
    book.cells[1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("stream", name="stdout", text=f"{ROOT}/minidiff"),
        nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[]),
    ]
    assert len(accidents(book)) == 3
    assert output_size(book) > 1000
