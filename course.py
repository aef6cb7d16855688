#!/usr/bin/env python3
"""The course in two commands:

    python3 course.py lab                   open the notebooks in JupyterLab: your own copy, in my-notebooks/
    python3 course.py paint "a red circle"  paint what you type (more words are passed on: see `paint --help`)

and some more:

    python3 course.py edit | film | interpolate …  more of what the model can do (each with --help)
    python3 course.py reset 05              a fresh copy of chapter 5; yours is kept beside it under a numbered name
    python3 course.py test [--fast] [05]    run the tests and every notebook, cell by cell (--fast: a quick look)
    python3 course.py build [05]            rebuild notebooks/ with outputs from notebooks/source/
    python3 course.py setup                 only make .venv with everything in it (the others do so when it is needed)
"""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (an older Python still reads this file as far as here)
    sys.exit("The course needs Python 3.11 or newer; this is Python {}.{}.{}.".format(*sys.version_info))

ROOT = Path(__file__).resolve().parent
NOTEBOOKS, MINE = ROOT / "notebooks", ROOT / "my-notebooks"
VENV = ROOT / ".venv"
STAMP = VENV / "course-stamp"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CONDA = os.environ.get("CONDA_DEFAULT_ENV") == "minidiff" and os.environ.get("CONDA_PREFIX") == sys.prefix
PYTHON = Path(sys.executable) if CONDA else VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(*command, **env) -> int:
    """Run a command at the top of the repository, with additions to the environment; its exit code."""
    print("$", " ".join(Path(word).name if Path(word) == PYTHON else str(word) for word in command), flush=True)
    try:
        return subprocess.run([str(word) for word in command], cwd=ROOT, env=os.environ | env).returncode
    except KeyboardInterrupt:
        return 130


def works(*code) -> bool:
    """Whether the environment's Python runs and this line of code passes in it."""
    return PYTHON.exists() and not subprocess.run([str(PYTHON), "-c", *code], capture_output=True).returncode


def wanted() -> str:
    """What the installed environment depends on, as one hash."""
    files = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files) + str(ROOT).encode()).hexdigest()


def torch_index() -> list[str]:
    """On Linux without a GPU: ask PyTorch's own index for the CPU build (the general one brings gigabytes of CUDA).

    It is asked for torch alone, and only where it can be reached; elsewhere pip's own settings decide.
    """
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        return []
    try:
        urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=5).close()
    except OSError:
        return []
    return ["--index-url", CPU_INDEX, "--no-deps"]


def pip(*words) -> None:
    if run(PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "-c", "constraints.txt", *words):
        sys.exit("Installing failed; the lines above say why (most often: no network, or a full disk). Then try again.")


def setup() -> None:
    """Make .venv and install the course into it; nothing where that is done already."""
    if CONDA or (STAMP.exists() and STAMP.read_text() == wanted() and works("")):
        return
    print("Setting up .venv: a few minutes, once.", flush=True)
    if not works("import pip") and run(sys.executable, "-m", "venv", *([] if works("") else ["--clear"]), VENV):
        sys.exit("Python could not make .venv (on Debian and Ubuntu: apt install python3-venv).")
    pin = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)[1]
    if not works(f"import torch; assert torch.__version__.split('+')[0] == '{pin}'"):
        pip(*torch_index(), "torch")
    pip("-e", ".[notebooks,test]")
    page = {"template_name": "minidiff-page", "extra_template_basedirs": [str(NOTEBOOKS / "source")]}
    config = VENV / "etc" / "jupyter" / "jupyter_nbconvert_config.json"  # exported pages keep the alt texts of pictures
    config.write_text(json.dumps({"HTMLExporter": page, "SlidesExporter": {"template_name": "reveal"}}))
    STAMP.write_text(wanted())


def chapters(names, folder: Path = NOTEBOOKS, suffix: str = ".ipynb") -> list[Path]:
    """The files of the named chapters ("5", "05"), all where none is named; one sentence where there is none."""
    there = sorted(folder.glob(f"[0-9][0-9]_*{suffix}"))
    numbers = [name.zfill(2) for name in names]
    for name in numbers:
        if name not in {path.name[:2] for path in there}:
            known = " ".join(path.name[:2] for path in there) or "none yet"
            sys.exit(f"There is no chapter {name}; there are: {known}.")
    return [path for path in there if not numbers or path.name[:2] in numbers]


def copy_notebooks() -> None:
    """Bring to my-notebooks/ what is not there yet; what is there stays as it is, and newer chapters are named."""
    record = MINE / ".copied.json"  # the hash of each notebook when it was copied
    copied = json.loads(record.read_text()) if record.exists() else {}
    MINE.mkdir(exist_ok=True)
    for page in NOTEBOOKS.glob("*.md"):  # notation and glossary: nobody writes into it, so always the newest
        shutil.copyfile(page, MINE / page.name)
    for path in sorted([*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("homework/*.ipynb")]):
        name = path.relative_to(NOTEBOOKS).as_posix()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not (MINE / name).exists():
            (MINE / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, MINE / name)
            copied[name] = digest
        elif copied.get(name) != digest and "/" not in name:
            print(f"{name} is newer in the course than your copy: `python3 course.py reset {name[:2]}` brings it.")
    record.write_text(json.dumps(copied, indent=1))


def lab(*words) -> int:
    setup()
    copy_notebooks()
    if not any(MINE.rglob("*.ipynb")):
        print("There are no notebooks yet in notebooks/; JupyterLab opens on an empty folder.")
    path = os.pathsep.join(filter(None, [str(NOTEBOOKS), os.environ.get("PYTHONPATH")]))  # for `import exercises`
    return run(PYTHON, "-m", "jupyterlab", f"--ServerApp.root_dir={MINE}", *words, PYTHONPATH=path)


def reset(*names) -> int:
    if not names:
        sys.exit("Say which chapter to bring back, for example: python3 course.py reset 05.")
    for path in chapters(names):
        mine, number = MINE / path.name, 1
        while (MINE / f"{path.stem}.kept-{number}.ipynb").exists():
            number += 1
        if mine.exists():
            mine.rename(MINE / f"{path.stem}.kept-{number}.ipynb")
            print(f"Your copy is now my-notebooks/{path.stem}.kept-{number}.ipynb.")
    copy_notebooks()
    print("Fresh:", ", ".join(f"my-notebooks/{path.name}" for path in chapters(names)))
    return 0


def test(*words) -> int:
    """ruff, then pytest over tests/ and all notebooks; only the notebooks of the chapters that are named, if any is."""
    fast, names = "--fast" in words, [word for word in words if word != "--fast"]
    for name in names:
        if not name.isdigit():
            sys.exit(f"`test` knows --fast and numbers of chapters, not {name}.")
    books = chapters(names)
    setup()
    if not books:
        print("There are no notebooks yet in notebooks/: only the tests run.")
    style = 0 if names else run(PYTHON, "-m", "ruff", "check", ".")
    places = books if names else ["tests", *(["notebooks"] if books else [])]
    env = {"OMP_NUM_THREADS": "1"} | ({"COURSE_FAST": "1"} if fast else {})
    tests = run(PYTHON, "-m", "pytest", "--nbval-lax" if fast else "--nbval", "-n", "2", *places, **env)
    if style:
        print("ruff found something: see the top.")
    return style or tests


def paint(*words, verb: str = "paint") -> int:
    if not words:
        example = "--help" if verb != "paint" else '"a small red circle left of a blue star"'
        sys.exit(f"Say what to {verb}, for example: python3 course.py {verb} {example}.")
    setup()
    return run(PYTHON, "-m", "minidiff", verb, *words)


def build(*names) -> int:
    chapters(names, NOTEBOOKS / "source", ".py")
    setup()
    return run(PYTHON, NOTEBOOKS / "source" / "build.py", *names)


def main(words: list[str]) -> int:
    verbs = {"lab": lab, "reset": reset, "test": test, "paint": paint, "build": build, "setup": setup}
    verbs |= {verb: partial(paint, verb=verb) for verb in ("edit", "film", "interpolate")}
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if words else 2
    if words[0] not in verbs:
        sys.exit(f"course.py does not know '{words[0]}'; it knows {', '.join(verbs)}.")
    if words[0] == "setup":
        setup()
        print("Ready: python3 course.py lab")
        return 0
    return verbs[words[0]](*words[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
