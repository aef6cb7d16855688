"""The checking of notebooks is itself checked: one small notebook passes, and each planted defect makes it fail.

All the notebooks lie in one folder and are run by one pytest, with the repository's own conftest.py.
"""
import base64
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent

NUMBER = "x = 0.123456\nprint(f'loss {x:.4f} after 200 steps')"
PICTURE = """
import io
from IPython.display import display, Image as Show
from PIL import Image, ImageDraw
picture = Image.new("RGB", (192, 96), "white")
ImageDraw.Draw(picture).ellipse((10, 10, 80, 80), fill=(214, 39, 40))
ImageDraw.Draw(picture).rectangle((110, 20, 170, 80), fill=(31, 119, 180))
out = io.BytesIO()
picture.save(out, "png")
display(Show(out.getvalue()))
"""
HTML = """
import base64
from IPython.display import HTML
HTML(f'<p>score 0.5000</p><img alt="two" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">')
"""
NOISE = "import sys\nprint('17 it/s', file=sys.stderr)"
LAST = "x + 1 > 1"


def png(circle=(214, 39, 40), square=(31, 119, 180), colours=None) -> str:
    """The picture that the notebook draws, or a variant of it, as it would be stored."""
    picture = Image.new("RGB", (192, 96), "white")
    ImageDraw.Draw(picture).ellipse((10, 10, 80, 80), fill=circle)
    ImageDraw.Draw(picture).rectangle((110, 20, 170, 80), fill=square)
    out = io.BytesIO()
    (picture.quantize(colours) if colours else picture).save(out, "png")
    return base64.b64encode(out.getvalue()).decode()


def shown(data: str):
    return new_output("display_data", {"image/png": data, "text/plain": "<IPython.core.display.Image object>"})


def html(data: str, score: str = "0.5000"):
    text = f'<p>score {score}</p><img alt="two" src="data:image/png;base64,{data}">'
    repr_ = "<IPython.core.display.HTML object>"
    return new_output("execute_result", {"text/html": text, "text/plain": repr_}, execution_count=3)


def good():
    """The notebook as it is stored after a run."""
    cells = [
        (NUMBER, [new_output("stream", name="stdout", text="loss 0.1235 after 200 steps\n")]),
        (PICTURE, [shown(png(colours=64))]),
        (HTML, [html(png())]),
        (NOISE, [new_output("stream", name="stderr", text="12 it/s\n")]),
        (LAST, [new_output("execute_result", {"text/plain": "True"}, execution_count=5)]),
    ]
    pairs = enumerate(cells, 1)
    return new_notebook(cells=[new_code_cell(s, execution_count=n, outputs=o) for n, (s, o) in pairs])


def planted(*changes):
    book = good()
    for change in changes:
        change(book.cells)
    return book


def changed_number(cells):
    cells[0].outputs[0].text = "loss 0.1247 after 200 steps\n"


def changed_whole_number(cells):
    cells[0].outputs[0].text = "loss 0.1235 after 201 steps\n"


def changed_word(cells):
    cells[0].outputs[0].text = "gain 0.1235 after 200 steps\n"


def right(cells):
    cells[0].outputs[0].text = "loss 0.1234 after 200 steps\n"  # rounded another way


def different_picture(cells):
    cells[1].outputs[0] = shown(png(square="white"))


def recoloured_picture(cells):
    cells[1].outputs[0] = shown(png(circle=(0, 118, 180)))  # as bright as the red was: a grey comparison sees nothing


def picture_of_other_size(cells):
    picture, out = Image.open(io.BytesIO(base64.b64decode(png()))), io.BytesIO()
    picture.resize((384, 192)).save(out, "png")
    cells[1].outputs[0] = shown(base64.b64encode(out.getvalue()).decode())


def changed_picture_in_html(cells):
    cells[2].outputs[0] = html(png(square="white"))


def changed_number_in_html(cells):
    cells[2].outputs[0] = html(png(), "0.5100")


def stale_picture(cells):
    cells[0].outputs.append(shown(png()))  # the cell no longer draws it


def missing_picture(cells):
    cells[1].outputs.clear()


def cleared(cells):
    for cell in cells:
        cell.outputs, cell.execution_count = [], None


def exception(cells):
    cells[0].source = "x = 0.123456 / 0"


def unknown_magic(cells):
    cells[3].source, cells[3].outputs = "%no_such_magic", []


def dead_kernel(cells):
    cells[3].source = "import os\nos._exit(1)"


def too_slow(cells):
    cells[3].source, cells[3].metadata["tags"] = "import time\ntime.sleep(20)", ["timeout-1"]


NOTEBOOKS = [  # what is planted in each, in different cells
    [right],
    [changed_number, different_picture, changed_picture_in_html],
    [changed_whole_number, recoloured_picture, changed_number_in_html],
    [changed_word, picture_of_other_size],
    [stale_picture, missing_picture],
    [cleared],
    [exception],
    [unknown_magic],
    [dead_kernel],
    [too_slow],
]
DEFECTS = {  # the defect -> the cells that fail, and how pytest says so
    changed_number: ([0], "outputs differ"),
    changed_whole_number: ([0], "outputs differ"),
    changed_word: ([0], "outputs differ"),
    different_picture: ([1], "picture 1 differs from the stored one"),
    recoloured_picture: ([1], "picture 1 differs from the stored one"),
    picture_of_other_size: ([1], "picture 1 differs from the stored one"),
    changed_picture_in_html: ([2], "picture 1 differs from the stored one"),
    changed_number_in_html: ([2], "outputs differ"),
    stale_picture: ([0], "draws 0 pictures, the stored notebook shows 1"),
    missing_picture: ([1], "draws 1 pictures, the stored notebook shows 0"),
    cleared: ([0, 1, 2, 3, 4], "stored without being run"),
    exception: ([0], "ZeroDivisionError"),
    unknown_magic: ([3], "UsageError"),
    dead_kernel: ([3], "Kernel dead"),
    too_slow: ([3], "Timeout of 1 seconds"),
}


def call_pytest(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess:
    shutil.copy(ROOT / "conftest.py", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("COURSE_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *words, "."]
    return subprocess.run(command, cwd=folder, env=clean | env, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> dict[str, list[tuple[str, str]]]:
    """notebook -> for each cell ("passed" | "failed" | "skipped", what pytest says about it)."""
    folder = tmp_path_factory.mktemp("planted")
    for changes in NOTEBOOKS:
        nbformat.write(planted(*changes), folder / f"{changes[0].__name__}.ipynb")
    found = run_once(folder)
    return found if all(kernels_held(name, cells) for name, cells in found.items()) else run_once(folder)


def kernels_held(name: str, cells: list[tuple[str, str]]) -> bool:
    """Whether no kernel was lost that was not meant to be: several start at once, and may be given the same port."""
    meant = name in ("dead_kernel", "too_slow", "stdout")
    lost = ("Kernel", "Timeout", "kernel", "zmq")
    return meant or not any(kind == "failed" and any(word in words for word in lost) for kind, words in cells)


def run_once(folder: Path) -> dict[str, list[tuple[str, str]]]:
    result = call_pytest(folder, "--nbval", "-n", "2", "--junitxml=out.xml")
    found: dict[str, list[tuple[str, str]]] = {}
    assert (folder / "out.xml").exists(), result.stdout + result.stderr
    for case in ElementTree.parse(folder / "out.xml").iter("testcase"):
        complaint = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        kind = {None: "passed", "skipped": "skipped"}.get(complaint if complaint is None else complaint.tag, "failed")
        words = "" if complaint is None else f"{complaint.get('message')} {complaint.text}"
        found.setdefault(case.get("classname").removesuffix(".ipynb"), []).append((kind, words))
    return found | {"stdout": [("", result.stdout)]}


def test_what_is_right_passes(outcome):
    """Rounding in the last digit, a picture stored in 64 colours and another speed on stderr do not count."""
    assert outcome["right"] == [("passed", "")] * 5


@pytest.mark.parametrize("change", DEFECTS, ids=lambda change: change.__name__)
def test_planted_defect(outcome, change):
    together = next(changes for changes in NOTEBOOKS if change in changes)
    cells = outcome[together[0].__name__]
    failing, words = DEFECTS[change]
    assert all(cells[number][0] == "failed" and words in cells[number][1] for number in failing)
    assert [n for n, (kind, _) in enumerate(cells) if kind == "failed"] == sorted(
        number for other in together for number in DEFECTS[other][0]
    )


@pytest.mark.parametrize("change", [exception, unknown_magic, dead_kernel], ids=lambda change: change.__name__)
def test_one_fault_is_one_failure(outcome, change):
    kinds = [kind for kind, _ in outcome[change.__name__]]
    first = kinds.index("failed")
    assert kinds[first + 1 :] == ["skipped"] * (4 - first)


def test_cells_of_a_notebook_stay_together_and_are_timed(outcome):
    table = outcome["stdout"][0][1]
    assert re.search(r"^ +\d+\.\d  right\.ipynb$", table, re.M)
    assert re.search(rf"^ +\d+\.\d  all {len(NOTEBOOKS)}$", table, re.M)


def test_a_smoke_run_cannot_pass_for_a_full_one(tmp_path):
    result = call_pytest(tmp_path, "--nbval", COURSE_FAST="1")
    assert result.returncode == 4 and "--nbval-lax" in result.stderr
