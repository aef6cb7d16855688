"""What must be installed is said once, in pyproject.toml; conda, constraints and the imports agree with it."""
import ast
import re
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA_NAME = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib", "nbconvert-core": "nbconvert"}
IMPORT_NAME = {
    "PIL": "pillow",
    "IPython": "ipython",
    "bs4": "beautifulsoup4",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "xdist": "pytest-xdist", "torch_fidelity": "torch-fidelity"}
NOT_IMPORTED = {
    "jupyterlab": "started by course.py",
    "ipykernel": "runs the notebooks",
    "ruff": "started by course.py",
    "beartype": "named in tests/conftest.py",
}


def declared(*groups: str) -> dict[str, str]:
    """name -> range, of the dependencies proper and of the extras named."""
    wanted = PROJECT["dependencies"] + [line for group in groups for line in EXTRAS[group]]
    return {requirement.name: str(requirement.specifier) for requirement in map(Requirement, wanted)}


ALL = declared("notebooks", "test")


def conda() -> tuple[dict[str, str], str]:
    """The same from environment.yml, with its Python."""
    found, python = {}, ""
    for entry in yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]:
        for line in entry["pip"] if isinstance(entry, dict) else [entry]:
            if line.startswith("python="):
                python = line.split("=")[1]
            elif line not in ("pip", "-e ."):
                requirement = Requirement(line)
                found[CONDA_NAME.get(requirement.name, requirement.name)] = str(requirement.specifier)
    return found, python


def pins() -> dict[str, list[str]]:
    """name -> exact versions in constraints.txt (several where they depend on the Python)."""
    found = defaultdict(list)
    for name, exact in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", constraints(), re.M):
        found[name].append(exact)
    return found


def constraints() -> str:
    return (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_conda_names_the_same_packages_and_ranges():
    assert conda()[0] == ALL
    assert conda()[1] in SpecifierSet(PROJECT["requires-python"])


def test_constraints_lie_within_the_ranges():
    for name, ranges in ALL.items():
        assert pins()[name], f"{name} has no line in constraints.txt"
        assert all(exact in SpecifierSet(ranges) for exact in pins()[name]), name


def test_constraints_can_be_shared():
    body = re.sub(r"^#.*$", "", constraints(), flags=re.M)
    assert not re.search(r"://|@|^-|file:", body, re.M), "constraints name packages and versions, never places"
    assert not [name for name in pins() if name.startswith(("nvidia", "cuda", "triton"))]


@pytest.mark.parametrize("name", ALL)
def test_what_is_installed_lies_in_its_range(name):
    assert SpecifierSet(ALL[name]).contains(version(name).partition("+")[0], prereleases=True)


def test_only_course_py_names_an_index_of_packages():
    shared = ["pyproject.toml", "constraints.txt", "environment.yml", ".ci/run", "CONTRIBUTING.md", "README.md"]
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in shared if (ROOT / name).exists()]
    assert not any("index-url" in text or "/whl/" in text for text in texts)


# What the code imports.

FOLDERS = ("minidiff", "notebooks/source", "notebooks/exercises", "tests", "benchmarks")
FILES = [*sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")), ROOT / "conftest.py"]
OURS = {"minidiff", "notebooks", "exercises", "benchmarks", "conftest"} | {path.stem for path in FILES}


def imported(source: str, top: bool = False) -> set[str]:
    """The packages from elsewhere that a source imports, by their names on PyPI; `top`: outside functions only."""
    found, todo = set(), [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            found.add(node.args[0].value.partition(".")[0])
        if not (top and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            todo += ast.iter_child_nodes(node)
    return {IMPORT_NAME.get(name, name) for name in found - OURS - sys.stdlib_module_names}


def imported_by(paths, top: bool = False) -> dict[str, set[str]]:
    found = defaultdict(set)
    for path in paths:
        for name in imported(path.read_text(encoding="utf-8"), top):
            found[name].add(path.relative_to(ROOT).as_posix())
    return dict(found)


def test_every_import_is_declared():
    allowed = ALL | declared("peers", "look")
    assert {name: places for name, places in imported_by(FILES).items() if name not in allowed} == {}


def test_the_library_needs_only_the_dependencies_proper():
    library = sorted((ROOT / "minidiff").rglob("*.py"))
    assert {n: places for n, places in imported_by(library, top=True).items() if n not in declared()} == {}


def test_every_declared_package_is_used():
    assert ALL.keys() - imported_by(FILES).keys() <= NOT_IMPORTED.keys()


def test_course_py_needs_nothing_but_python():
    assert imported((ROOT / "course.py").read_text(encoding="utf-8")) == set()


def test_imports_are_found():
    source = "import os, PIL.Image\nfrom torch import nn\nfrom . import x\ndef f():\n    import scipy.linalg"
    assert imported(source) == {"pillow", "torch", "scipy"}
    assert imported(source, top=True) == {"pillow", "torch"}
    assert imported('d = pytest.importorskip("diffusers.models")') == {"diffusers"}


def test_shapes_are_checked_in_the_tests():
    from minidiff.data import rng

    with pytest.raises(Exception, match="rng"):
        rng(1.5)
