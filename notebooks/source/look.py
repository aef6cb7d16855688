"""Looking at what people see: a chapter as a page and in a real JupyterLab, photographed into out/look/.

    python notebooks/source/look.py page 00     the stored notebook as a page, with its formulas
    python notebooks/source/look.py lab 00      JupyterLab at the width of a laptop: every cell run, every slider moved

Without a chapter all are looked at; the path of a notebook does as well. What is wrong is named, and the exit code is
1: formulas and tables that did not render; in JupyterLab also errors, cells that never ran, errors of the page itself,
and sliders that change nothing. Then look at the pictures: no program sees what is ugly.

It needs a browser (Chromium or Chrome; the environment variable CHROME may name it) and `pip install -e ".[look]"`.
The page's formulas are drawn by a MathJax 2 on this machine (Debian: libjs-mathjax; the environment variable MATHJAX
may name the folder of another), or by the network's where there is none.
"""
import argparse
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import build
import nbformat
from bs4 import BeautifulSoup
from PIL import Image

OUT = build.NOTEBOOKS.parent / "out" / "look"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
MATHJAX = "/usr/share/javascript/mathjax"  # where Debian puts it
PATIENCE = 60  # seconds for a moved slider to draw
# JupyterLab's settings: every cell in the page, not only those in view; and no news
SETTINGS = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
            "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
SIZE = """box => { const e = document.querySelector(box), at = (e.scrollTop = 0, e.getBoundingClientRect());
    return [at.x, at.y, e.clientWidth, e.clientHeight, e.scrollHeight].map(Math.floor); }"""
TOPS = """box => [...document.querySelectorAll('.jp-Cell')].map(cell => Math.floor(
    cell.getBoundingClientRect().top - document.querySelector(box).getBoundingClientRect().top))"""
TYPESET = "() => new Promise(done => MathJax.Hub.Queue(() => done(true)))"
STARTED = "() => window.jupyterapp?.shell.currentWidget?.sessionContext"
OPENED = """async () => { const book = window.jupyterapp.shell.currentWidget;
    await book.context.ready; await book.sessionContext.ready; await book.revealed; return true; }"""
RUN = "async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells'); return true; }"
BOOK = "() => window.jupyterapp.shell.currentWidget.content.model.toJSON()"
TEXTS = "() => [...document.querySelectorAll('.jp-RenderedMarkdown')].map(text => text.innerHTML).join('\\n')"
WRONG = "merror, mtext[mathcolor=red], .MathJax_Error"  # what MathJax 2 and 3 leave for screen readers
APART = "code, pre, script, style, svg, math, .mjx-chtml, mjx-container"
LEFT = re.compile(r"\$[^$]+\$|\\[A-Za-z]+|\|[ :]*-{3,}[-| :]*")
PICTURES = "cell => [...cell.querySelectorAll('.jp-OutputArea img')].map(picture => picture.src)"


def unrendered(page: str) -> list[str]:
    """The formulas and tables that did not render: marked by MathJax, or left as dollars, \\words and bars."""
    soup = BeautifulSoup(page, "html.parser")
    texts = [f"{e.get('data-mjx-error', '')} {e.get_text()}" for e in soup.select(WRONG)]
    for e in soup.select(APART):
        e.decompose()
    texts = [" ".join(text.split()) for text in texts + LEFT.findall(soup.get_text())]
    return [f"did not render: {text}" for text in dict.fromkeys(texts)]


def cut(picture: Image.Image, tops: list[int], height: int = 1600) -> list[Image.Image]:
    """A long picture in parts of at most `height` rows; each begins at one of `tops`, unless that is too far away."""
    ends = [0]
    while picture.height - ends[-1] > height:
        ends.append(max([top for top in tops if 0 < top - ends[-1] <= height], default=ends[-1] + height))
    return [picture.crop((0, top, picture.width, end)) for top, end in itertools.pairwise([*ends, picture.height])]


def stops(total: int, window: int, overlap: int = 0) -> list[int]:
    """Where to stop while scrolling through `total` rows, to see each of them in a window."""
    return [max(min(top, total - window), 0) for top in range(0, total, window - overlap)]


def photograph(page: Any, box: str, path: Path) -> None:
    """Scroll through an element and store all of it as path-01.png, path-02.png, …"""
    (x, y, width, height, total), tops = page.evaluate(SIZE, box), page.evaluate(TOPS, box)
    whole = Image.new("RGB", (width, total), "white")
    for top in reversed(stops(total, height, 8)):        # the upper picture wins: JupyterLab's toolbar casts a shadow
        page.evaluate("([box, top]) => { document.querySelector(box).scrollTop = top; }", [box, top])
        shot = page.screenshot(clip={"x": x, "y": y, "width": width, "height": height})
        whole.paste(Image.open(io.BytesIO(shot)), (0, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f"{path.name}-[0-9][0-9].png"):
        old.unlink()
    for number, part in enumerate(cut(whole, tops), 1):
        part.save(path.parent / f"{path.name}-{number:02}.png")
    print(f"{path}-01.png to {number:02}", flush=True)


def browser() -> str:
    """The path of Chromium or a relative of it."""
    named = os.environ.get("CHROME")
    found = next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)
    lost = f"The browser named in CHROME ({named})" if named else "A browser"
    return found or sys.exit(f"{lost} was not found: install Chromium (Debian: apt install chromium), or name one.")


def mathjax() -> Path | None:
    """The folder of a MathJax on this machine; None if there is none and none is named."""
    named = os.environ.get("MATHJAX")
    folder = Path(named or MATHJAX).resolve()
    if named and not (folder / "MathJax.js").exists():
        sys.exit(f"There is no MathJax.js in {named}: let MATHJAX name the folder of a MathJax 2 (npm's or Debian's).")
    return folder if (folder / "MathJax.js").exists() else None


@contextmanager
def window(width: int, height: int) -> Iterator[Any]:
    """An empty page in a browser without a screen."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit('playwright, which moves the browser, is not installed: pip install -e ".[look]".')
    with sync_playwright() as moved:
        chrome = moved.chromium.launch(executable_path=browser(), args=["--disable-gpu", "--disable-component-update"])
        yield chrome.new_page(viewport={"width": width, "height": height})
        chrome.close()


def within(page: Any, seconds: float, script: str) -> bool:
    """Whether a condition comes true in time, or a promise is kept; both in JavaScript."""
    from playwright.sync_api import TimeoutError as Late

    try:
        return bool(page.wait_for_function(script, timeout=1000 * seconds))
    except Late:
        return False


def settle(page: Any) -> None:
    """Wait until nothing new has appeared for a second: formulas, pictures, sliders."""
    before, now = -1, 0
    while now != before:
        page.wait_for_timeout(1000)
        before, now = now, page.evaluate("() => document.body.innerHTML.length")


def look_at_page(path: Path, out: Path) -> list[str]:
    """Photograph the page of a stored notebook; what did not render in it."""
    from nbconvert import HTMLExporter

    html, theirs, ours = build.page(path), HTMLExporter.mathjax_url.default_value, mathjax()
    with window(1000, 1600) as page, tempfile.TemporaryDirectory(prefix="look-") as folder:
        if ours:
            html = html.replace(theirs, f"{(ours / 'MathJax.js').as_uri()}?{theirs.partition('?')[2]}")
            page.route(re.compile("^https?:"), lambda route: route.abort())
        file = Path(folder).resolve() / "page.html"
        file.write_text(html, encoding="utf-8")
        page.goto(file.as_uri(), wait_until="commit")
        if not (within(page, 90, "() => window.MathJax?.isReady") and within(page, 90, TYPESET)):
            sys.exit("MathJax did not come: install one (Debian: apt install libjs-mathjax), or name one in MATHJAX.")
        settle(page)
        photograph(page, "html", out / f"{path.stem}-page")
        return unrendered(page.evaluate(TEXTS))


def surroundings(work: Path, beside: Path) -> dict[str, str]:
    """The environment of a JupyterLab with nobody's settings, whose notebooks import what lies beside the original."""
    settings = work / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    kept = {key: value for key, value in os.environ.items() if key != "COURSE_UNDER_TEST"}    # it hides sliders
    return {"OMP_NUM_THREADS": "1"} | kept | {
        "JUPYTER_CONFIG_DIR": str(work / "config"), "JUPYTER_RUNTIME_DIR": str(work / "run"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(beside), os.environ.get("PYTHONPATH")]))}


@contextmanager
def jupyterlab(path: Path) -> Iterator[str]:
    """A JupyterLab of its own, and the address at which it opens a copy of the notebook."""
    with tempfile.TemporaryDirectory(prefix="look-", ignore_cleanup_errors=True) as folder:
        work = Path(folder).resolve()
        (work / "root").mkdir()
        shutil.copy(path, work / "root")
        options = ["--no-browser", "--allow-root", "--expose-app-in-browser", f"--ServerApp.root_dir={work / 'root'}"]
        env, command = surroundings(work, path.resolve().parent), [sys.executable, "-m", "jupyterlab", *options]
        with open(work / "log", "w") as log:
            server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 120
            while not (notes := [note for note in work.glob("run/jpserver-*.json") if note.stat().st_size]):
                if server.poll() is not None or time.monotonic() > end:
                    sys.exit(f"JupyterLab did not start; its last words: {(work / 'log').read_text()[-1000:]}")
                time.sleep(1)
            told = json.loads(notes[0].read_text())
            yield f"{told['url']}lab/tree/{path.name}?token={told['token']}"
        finally:
            server.terminate()
            server.wait(60)


def dead(values: tuple[str, str], pictures: tuple[list, list]) -> str:
    """What is wrong with a slider, from its values and its cell's pictures before and after; "" if nothing."""
    if values[0] == values[1]:
        return "does not move"
    if not pictures[1]:
        return "leaves no picture"
    return "moves, but the picture stays the same" if pictures[0] == pictures[1] else ""


def move(page: Any, handle: Any) -> str:
    """Move a slider away from its value and wait for another picture; what is wrong, "" if nothing."""
    slider, cell = (handle.locator(f"xpath=ancestor::*[contains(concat(@class, ' '), '{name} ')][1]")
                    for name in ("widget-inline-hbox", "jp-Cell"))
    value, before = handle.get_attribute("aria-valuenow"), cell.evaluate(PICTURES)
    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft" if value == handle.get_attribute("aria-valuemax") else "ArrowRight")
    after, end = before, time.monotonic() + PATIENCE
    while after in (before, []) and time.monotonic() < end:
        page.wait_for_timeout(500)
        after = cell.evaluate(PICTURES)
    wrong = dead((value, handle.get_attribute("aria-valuenow")), (before, after))
    return wrong and f"the slider {slider.inner_text().split()[0]} {wrong}"


def mishaps(book: nbformat.NotebookNode) -> list[str]:
    """The code cells of a notebook that failed or never ran, counted from 1 among all cells."""
    found = []
    for number, cell in enumerate(book.cells, 1):
        if cell.cell_type == "code" and cell.source.strip():
            errors = [] if "raises-exception" in cell.metadata.get("tags", []) else cell.outputs
            found += [f"cell {number} fails: {e.ename}: {e.evalue}" for e in errors if e.output_type == "error"]
            found += [f"cell {number} never ran"] if cell.execution_count is None else []
    return found


def look_at_lab(path: Path, out: Path, limit: float = 900) -> list[str]:
    """Run a notebook in JupyterLab, photograph all of it, move its sliders; what is wrong with it."""
    found = []
    with window(1280, 800) as page, jupyterlab(path) as address:
        page.on("pageerror", lambda error: found.append(f"error of the page: {error}"))
        page.goto(address, wait_until="commit")
        if not (within(page, 120, STARTED) and within(page, 60, OPENED)):
            return [*found, f"JupyterLab did not open it: {page.locator('.jp-Dialog').all_inner_texts() or 'too slow'}"]
        settle(page)
        if not within(page, limit, RUN):
            found.append(f"the cells were still running after {limit:g} s (--limit gives them more)")
        settle(page)
        photograph(page, ".jp-WindowedPanel-outer", out / f"{path.stem}-lab")
        found += mishaps(nbformat.from_dict(page.evaluate(BOOK))) + unrendered(page.evaluate(TEXTS))
        return found + [wrong for handle in page.locator(".noUi-handle").all() if (wrong := move(page, handle))]


def named(word: str) -> list[Path]:
    """The notebook of a chapter, or the one at a path."""
    return [Path(word)] if Path(word).is_file() else build.chosen([word], ".ipynb")


def main(words: list[str]) -> int:
    """Look at the chapters that are asked for; 1 if something is wrong with one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["page", "lab"])
    parser.add_argument("chapters", nargs="*", help="numbers of chapters, or paths of notebooks")
    parser.add_argument("--limit", type=float, default=900, help="seconds that all cells together may take (lab)")
    asked, wrong = parser.parse_args(words), 0
    for path in [path for word in asked.chapters for path in named(word)] or build.chosen([], ".ipynb"):
        found = look_at_page(path, OUT) if asked.what == "page" else look_at_lab(path, OUT, asked.limit)
        print("\n  ".join([f"{path.name}: {len(found) or 'nothing'} to mend", *found]), flush=True)
        wrong += len(found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
