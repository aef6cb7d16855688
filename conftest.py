"""pytest settings for the notebooks: what nbval 0.11 needs to be honest. `pytest --nbval notebooks` loads this file.

- Numbers in outputs agree within a tolerance; pictures are compared as pictures, stderr is not compared.
- A notebook stored without outputs fails (nbval alone compares nothing and passes).
- After an exception, or the death of a kernel, the rest of that notebook is skipped: one fault, one failure.
- An unknown %magic fails. A cell may ask for more time with the tag `timeout-600`.
- `-n 2` keeps the cells of a notebook together; at the end a table says how long each notebook took.
"""
import base64
import io
import math
import os
import re
import time
from collections import defaultdict
from queue import Empty

import pytest

# Kernels inherit these. Two notebooks at once must not fight over the cores, and pages show no live bars or sliders.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TQDM_DISABLE"] = "1"
os.environ["COURSE_UNDER_TEST"] = "1"

RELATIVE = 1e-3  # numbers agree within this, or within one unit of the last digit printed
WHOLE, TILE = 6, 40  # root mean square difference of two pictures, in grey levels of 255: over all, in the worst tile
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)")
EMBEDDED = re.compile(r"data:image/(?:png|gif|webp);base64,([A-Za-z0-9+/=\s]+)")
PICTURES = ("image/png", "image/gif", "image/webp")
CLAIM = "application/vnd.minidiff.claim+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


def last_place(number: str) -> float:
    """One unit in the last digit printed: rounding alone can make two equal numbers differ by that much."""
    digits, _, exponent = number.lower().partition("e")
    if digits.endswith("."):
        return 0.0  # torch prints whole numbers as `2.`: exact
    return 1.001 * 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


def same_text(stored: str, new: str) -> bool:
    """Equal up to the tolerance of decimal numbers, blanks (numpy pads columns) and embedded pictures."""
    stored, new = (EMBEDDED.sub("picture", text) for text in (stored, new))
    words_stored, words_new = ([" ".join(part.split()) for part in NUMBER.split(text)] for text in (stored, new))
    if words_stored != words_new:
        return False
    pairs = zip(NUMBER.findall(stored), NUMBER.findall(new), strict=True)
    return all(
        math.isclose(float(a), float(b), rel_tol=RELATIVE, abs_tol=max(last_place(a), last_place(b))) for a, b in pairs
    )


def thumbnails(encoded: str, side: int = 48):
    """The frames of a stored picture in colour, shrunk to `side` x `side`, with the size of the original."""
    import numpy as np
    from PIL import Image, ImageSequence

    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    frames = [frame.convert("RGBA") for frame in ImageSequence.Iterator(image)]
    white = Image.new("RGBA", image.size, "white")
    shrunk = [Image.alpha_composite(white, f).convert("RGB").resize((side, side), Image.Resampling.BOX) for f in frames]
    return np.stack([np.asarray(frame, float) for frame in shrunk]), image.size


def picture_difference(stored: str, new: str) -> tuple[float, float]:
    """Root mean square over the whole picture (the worst frame) and in the worst 8 x 8 tile of its thumbnail."""
    (a, size_a), (b, size_b) = thumbnails(stored), thumbnails(new)
    if a.shape != b.shape or max(abs(m - n) for m, n in zip(size_a, size_b, strict=True)) > 12:
        return math.inf, math.inf  # a tight box moves by some pixels with the fonts, not by more
    square = (a - b) ** 2
    tiles = square.reshape(len(a), 6, 8, 6, 8, 3).mean(axis=(2, 4, 5))
    return float(square.mean(axis=(1, 2, 3)).max() ** 0.5), float(tiles.max() ** 0.5)


def pictures(outputs) -> list[str]:
    """Every picture among the outputs, as base64: those of their own and those inside HTML."""
    found = []
    for data in (output.get("data", {}) for output in outputs):
        found += [data[kind] for kind in PICTURES if kind in data]
        found += EMBEDDED.findall(data.get("text/html", ""))
    return found


def picture_complaint(stored, new) -> str | None:
    """What is wrong with the pictures of a cell, in one sentence; None if nothing is."""
    stored, new = pictures(stored), pictures(new)
    if len(stored) != len(new):
        return f"the cell draws {len(new)} pictures, the stored notebook shows {len(stored)}"
    for number, (a, b) in enumerate(zip(stored, new, strict=True), 1):
        whole, tile = picture_difference(a, b)
        if whole > WHOLE or tile > TILE:
            return (
                f"picture {number} differs from the stored one by {whole:.1f} of 255 (allowed {WHOLE}), "
                f"in its worst part by {tile:.0f} (allowed {TILE})"
            )
    return None


def forgive(stored, new) -> None:
    """Where a new output says the same as the stored one, write the stored one in its place."""
    for a, b in zip(stored, new, strict=False):
        if a["output_type"] != b["output_type"] or a.get("name") != b.get("name"):
            continue
        if a["output_type"] == "stream" and same_text(a["text"], b["text"]):
            b["text"] = a["text"]
        for kind, text in a.get("data", {}).items():
            if kind == CLAIM and kind in b["data"]:             # its numbers stand in the text beside it
                b["data"][kind] = text
            if kind.startswith("text/") and kind in b["data"] and same_text(text, b["data"][kind]):
                b["data"][kind] = text


def compare_outputs(self, test, ref, skip_compare=None) -> bool:
    """In place of nbval's: live widgets are left out, numbers have a tolerance, pictures are looked at."""
    new, stored = ([o for o in outputs if WIDGET not in o.get("data", {})] for outputs in (test, ref))
    new, stored = ([o for o in outputs if o.get("name") != "stderr"] for outputs in (new, stored))
    complaint = picture_complaint(stored, new)
    forgive(stored, new)
    same = self.nbval_compare(new, stored, skip_compare)
    if complaint:
        self.comparison_traceback.append(complaint)
    return same and complaint is None


def await_reply(self, msg_id, timeout=None) -> None:
    """In place of nbval's: looks every second whether the kernel still lives, so a dead one is not waited for."""
    end = time.monotonic() + (timeout or math.inf)
    while time.monotonic() < end:
        try:
            return self.nbval_await(msg_id, timeout=1)
        except Empty:
            if not self.is_alive():
                raise RuntimeError("Kernel dead: the cell ended its Python process") from None
    raise Empty


def runtest(self) -> None:
    """nbval's, and an error where IPython refuses a %magic: that ends the cell but raises nothing."""
    self.nbval_runtest()
    for output in self.test_outputs or []:
        if output.get("name") == "stderr" and output["text"].startswith("UsageError:"):
            self.raise_cell_error("Cell execution caused an exception", output["text"])


def pytest_configure(config):
    if not config.pluginmanager.hasplugin("nbval"):
        return
    if os.environ.get("COURSE_FAST") and config.option.nbval:
        raise pytest.UsageError("COURSE_FAST=1 changes what the cells print: use it with --nbval-lax, not with --nbval")
    from nbval.kernel import RunningKernel
    from nbval.plugin import IPyNbCell

    if not hasattr(IPyNbCell, "nbval_compare"):
        IPyNbCell.nbval_compare, IPyNbCell.compare_outputs = IPyNbCell.compare_outputs, compare_outputs
        IPyNbCell.nbval_runtest, IPyNbCell.runtest = IPyNbCell.runtest, runtest
        RunningKernel.nbval_await, RunningKernel.await_reply = RunningKernel.await_reply, await_reply


@pytest.hookimpl(optionalhook=True)  # a hook of pytest-xdist, which need not be installed
def pytest_xdist_make_scheduler(config, log):
    """By file: plain `-n 2` would scatter the cells of one notebook over two kernels."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


def is_cell(item) -> bool:
    return type(item).__name__ == "IPyNbCell"


def pytest_runtest_setup(item):
    """Skip after an exception; set the time limit of this cell; refuse a cell that was stored without being run."""
    if not is_cell(item):
        return
    if hasattr(item.parent, "broken_by"):
        pytest.skip(f"{item.parent.broken_by} failed before")
    option = item.config.option
    item.config.course_timeout = getattr(item.config, "course_timeout", option.nbval_cell_timeout)
    own = [float(tag[8:]) for tag in item.cell.metadata.get("tags", []) if re.fullmatch(r"timeout-\d+", tag)]
    option.nbval_cell_timeout = own[0] if own else item.config.course_timeout
    item.output_timeout = 30  # seconds for a picture to arrive on a busy machine (nbval: 5)
    if option.nbval and item.cell.execution_count is None and item.cell.source.strip() and not item.options["skip"]:
        pytest.fail("this cell was stored without being run: python3 course.py build makes its outputs", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    if is_cell(item) and call.when == "call" and call.excinfo is not None:
        message = str(call.excinfo.value)
        if any(word in message for word in ("exception", "Timeout", "Kernel dead")):
            item.parent.broken_by = item.name
    return (yield)


def pytest_terminal_summary(terminalreporter):
    """The table of seconds a notebook."""
    seconds = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            name, _, cell = getattr(report, "nodeid", "").partition("::")
            if name.endswith(".ipynb") and cell:
                seconds[name] += report.duration
    if seconds:
        terminalreporter.section("seconds a notebook")
        for name, duration in sorted(seconds.items()):
            terminalreporter.write_line(f"{duration:8.1f}  {name}")
        terminalreporter.write_line(f"{sum(seconds.values()):8.1f}  all {len(seconds)}")
