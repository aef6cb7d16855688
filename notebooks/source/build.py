"""The notebooks are built from the texts in this folder (jupytext's percent format).

    python notebooks/source/build.py [05 ...]    run each source in a fresh kernel, store the notebook with its outputs
    python notebooks/source/build.py check       say which notebooks no longer agree with their sources
    python notebooks/source/build.py homework    cut the student's versions of the homework
    python notebooks/source/build.py page 05     one HTML page, written beside the notebook (git ignores it)

In the header of a code cell: `tags=["timeout-600"]`; `alt="..."`, what its picture shows, for those who cannot see it
(a list where a cell draws several); the tag `full-colour` keeps a picture from being reduced to 64 colours;
`jupyter={"source_hidden": true}` folds the code of a cell that only draws.
"""
import base64
import hashlib
import io
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

SOURCE = Path(__file__).resolve().parent
NOTEBOOKS = SOURCE.parent
TOOLS = {"build.py", "look.py"}
KEEP = {"tags", "alt", "jupyter", "nbgrader"}
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LEDGER = """# What the lectures said, and what we measured

Made by `python3 course.py build` from what the notebooks recorded. Every rule was written before its run; where one was
changed later, the notebook says so.

"""
STUB = "raise NotImplementedError  # YOUR CODE HERE"
CUTS = {"### BEGIN SOLUTION": "### END SOLUTION", "### BEGIN HIDDEN TESTS": "### END HIDDEN TESTS"}


def read(path: Path) -> NotebookNode:
    """The notebook of a source, without outputs. Cell ids come from the text: a change of one cell is one change."""
    book, seen = jupytext.read(path), Counter()
    for cell in book.cells:
        digest = hashlib.sha1((cell.cell_type + cell.source).encode()).hexdigest()[:8]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in KEEP}
    book.metadata = METADATA
    book.nbformat, book.nbformat_minor = 4, 5
    return nbformat.from_dict(book)


def text(book: NotebookNode) -> list[tuple]:
    """All that a source decides: what must be equal in a notebook and its source."""
    return [(cell.cell_type, cell.id, cell.source, dict(cell.metadata)) for cell in book.cells]


def execute(book: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in one fresh kernel whose working directory is `folder`; the first exception stops it."""
    from nbclient import NotebookClient

    os.environ.update(OMP_NUM_THREADS="1", TQDM_DISABLE="1", COURSE_UNDER_TEST="1", PYDEVD_DISABLE_FILE_VALIDATION="1")
    os.environ.pop("COURSE_FAST", None)  # stored outputs come from a full run
    options = {"timeout": 900, "record_timing": False, "store_widget_state": False, "kernel_name": "python3"}
    return NotebookClient(book, resources={"metadata": {"path": str(folder)}}, **options).execute()


def shrink(encoded: str, colours: int = 64) -> str:
    """A picture as a PNG with a palette: three to five times smaller, and looks the same. Films stay as they are."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    if image.format != "PNG" or getattr(image, "n_frames", 1) > 1:
        return encoded.strip()
    out = io.BytesIO()
    image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    small = base64.b64encode(out.getvalue()).decode()
    return min(small, encoded.strip(), key=len)


def drawn(cell: NotebookNode) -> list[NotebookNode]:
    """The outputs of a cell that are pictures."""
    return [o for o in cell.get("outputs", []) if any(kind.startswith("image/") for kind in o.get("data", {}))]


def describe(cell: NotebookNode) -> None:
    """Write the cell's `alt` where exporters look for it: beside each picture."""
    alt, figures = cell.metadata.get("alt"), drawn(cell)
    texts = [alt] * len(figures) if alt is None or isinstance(alt, str) else alt
    if len(texts) != len(figures):
        raise ValueError(f"a cell has {len(texts)} alt texts and draws {len(figures)} pictures; give one for each")
    for figure, words in zip(figures, texts, strict=True):
        for kind in figure.data:
            if words and kind.startswith("image/"):
                figure.metadata.setdefault(kind, {})["alt"] = words


def tidy(book: NotebookNode) -> NotebookNode:
    """Small pictures, alt texts, no timings: the same run gives the same file."""
    book.metadata = nbformat.from_dict(METADATA)
    for cell in book.cells:
        plain = [figure for figure in drawn(cell) if not figure.metadata.get("image/png", {}).get("alt")]
        describe(cell)
        for figure in plain:                            # those of `minidiff.plot` come small and with their alt text
            if "image/png" in figure.data and "full-colour" not in cell.metadata.get("tags", []):
                figure.data["image/png"] = shrink(figure.data["image/png"])
    nbformat.validate(book)
    return book


def nameless(book: NotebookNode) -> list[int]:
    """The cells (counted from 1) that show a picture without alt text."""
    return [
        number
        for number, cell in enumerate(book.cells, 1)
        for figure in drawn(cell)
        if not all(figure.metadata.get(kind, {}).get("alt") for kind in figure.data if kind.startswith("image/"))
    ]


def build(path: Path, folder: Path = NOTEBOOKS) -> Path:
    """Run the source `path` and store its notebook in `folder`."""
    start, out = time.monotonic(), folder / f"{path.stem}.ipynb"
    book = tidy(execute(read(path), folder))
    nbformat.write(book, out)
    print(f"{out.name}  {time.monotonic() - start:.0f} s  {out.stat().st_size / 1024:.0f} KB", flush=True)
    if cells := nameless(book):
        print(f"  no alt text for the pictures of cells {cells}: write alt=... in their headers", flush=True)
    return out


def student(book: NotebookNode) -> NotebookNode:
    """What is between nbgrader's markers is cut: a solution leaves a stub, hidden tests leave nothing."""
    for cell in book.cells:
        lines, end = [], None
        for line in cell.source.splitlines():
            word = line.strip()
            if end is None and word in CUTS:
                end = CUTS[word]
                if word == "### BEGIN SOLUTION":
                    lines.append(line[: len(line) - len(line.lstrip())] + STUB)
            elif word == end:
                end = None
            elif word in CUTS or word in CUTS.values():
                raise ValueError(f"'{word}' stands where '{end or 'a BEGIN'}' should: every BEGIN needs its own END")
            elif end is None:
                lines.append(line)
        if end is not None:
            raise ValueError(f"'{end}' is missing in a cell of the homework")
        cell.source = "\n".join(lines)
    return book


def homework(folder: Path = NOTEBOOKS / "homework") -> None:
    """Cut the student's versions of all homework."""
    for path in sorted((folder / "source").glob("*.py")):
        nbformat.write(student(read(path)), folder / f"{path.stem}.ipynb")
        print(f"homework/{path.stem}.ipynb", flush=True)


def ledger(folder: Path = NOTEBOOKS) -> str:
    """The page of all claims, from what the notebooks recorded, each linked to the part that settled it."""
    from minidiff.notebook import CLAIM, claims_table

    parts = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        records, titles, anchor = [], [], ""
        for cell in nbformat.read(path, 4).cells:
            words = re.sub(r"```.*?```", "", cell.source, flags=re.S) if cell.cell_type == "markdown" else ""
            heads = re.findall(r"^#+ (.+)$", words, re.M)
            titles, anchor = titles + heads, heads[-1].strip().replace(" ", "-") if heads else anchor
            found = [o.data[CLAIM] for o in cell.get("outputs", []) if CLAIM in o.get("data", {})]
            records += [data | {"id": f"[{data['id']}](<{path.name}#{anchor}>)"} for data in found]
        if records:
            parts.append(f"## [{titles[0]}]({path.name})\n\n{claims_table(records).markdown}\n")
    return LEDGER + "\n".join(parts) if parts else ""


def out_of_step(folder: Path = NOTEBOOKS) -> list[str]:
    """The names of what is missing, differs from its source, or has none: notebooks, homework, the page of claims."""
    page = folder / "claims.md"
    bad = [] if (page.read_text(encoding="utf-8") if page.exists() else "") == ledger(folder) else [page.name]
    for place, version in ((folder, read), (folder / "homework", lambda path: student(read(path)))):
        sources = {path.stem: path for path in (place / "source").glob("*.py") if path.name not in TOOLS}
        stored = {path.stem: path for path in place.glob("*.ipynb")}
        bad += [f"{place.name}/{name}.ipynb" for name in sorted(sources.keys() ^ stored.keys())]
        for name in sorted(sources.keys() & stored.keys()):
            if text(nbformat.read(stored[name], 4)) != text(version(sources[name])):
                bad.append(f"{place.name}/{name}.ipynb")
    return bad


def page(path: Path) -> str:
    """A stored notebook as one HTML page. The template is nbconvert's `lab`, with alt texts (minidiff-page/)."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="minidiff-page", extra_template_basedirs=[str(SOURCE)])
    return exporter.from_filename(str(path))[0]


def chosen(names: list[str], suffix: str) -> list[Path]:
    """The sources (.py) or notebooks (.ipynb) of the named chapters; of all where none is named."""
    folder = SOURCE if suffix == ".py" else NOTEBOOKS
    there = sorted(folder.glob(f"[0-9][0-9]_*{suffix}"))
    for name in names:
        if not any(path.name.startswith(f"{name:0>2}_") for path in there):
            known = ", ".join(path.stem[:2] for path in there) or "none yet"
            sys.exit(f"There is no chapter {name} to build; there are: {known}.")
    return [path for path in there if not names or any(path.name.startswith(f"{name:0>2}_") for name in names)]


def main(words: list[str]) -> None:
    if words[:1] == ["check"]:
        if bad := out_of_step():
            sys.exit(f"These notebooks are not built from their sources (python3 course.py build): {', '.join(bad)}.")
    elif words[:1] == ["page"]:
        for path in chosen(words[1:], ".ipynb"):
            path.with_suffix(".html").write_text(page(path), encoding="utf-8")
    elif words[:1] == ["homework"]:
        homework()
    else:
        for path in chosen(words, ".py"):
            build(path)
        homework()
        (NOTEBOOKS / "claims.md").write_text(ledger(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
