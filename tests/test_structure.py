"""The shape of the code: chapters build only on earlier ones, and everything stays small enough to read.

Every rule is a function of source text that yields complaints; each is shown a planted violation as well.
"""
import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHAPTERS = [
    "scenes captions rates oracle data plot notebook train processes checkpoint weights layers autoregressive",
    "gaussians em mixture",
    "autoencoder cups",
    "curves flow",
    "gan",
    "schedules denoiser samplers unet likelihood variances dit ddpm",
    "text clip latent guidance",
    "",  # chapter 7 extends guidance
    "metrics",
    "vq dalle maskgit",
    "unclip",
    "cascade",
    "sequences",
]
CHAPTER = {module: number for number, modules in enumerate(CHAPTERS) for module in modules.split()}
ABOVE = {"recipes", "__main__"}  # they may import everything, and nothing imports them
LINES_OF_MODULE, LINES_OF_FUNCTION, POSITIONAL, LINES_OF_LIBRARY = 200, 25, 4, 3800
COLUMNS = 104  # of code that fit a notebook's page on a laptop

LIBRARY = sorted((ROOT / "minidiff").glob("*.py"))
RECIPES = sorted((ROOT / "minidiff" / "recipes").glob("*.py"))
SOURCES = sorted((ROOT / "notebooks" / "source").glob("[0-9][0-9]_*.py"))
TOOLS = [ROOT / "course.py", ROOT / "conftest.py"]
TOOLS += [ROOT / "notebooks" / "source" / "build.py", ROOT / "notebooks" / "source" / "look.py"]
Complaints = Iterator[str]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def docstring_lines(tree: ast.AST) -> set[int]:
    found = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | FUNCTION) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                found |= set(range(body[0].lineno, body[0].end_lineno + 1))
    return found


FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code: no blanks, no comments, no docstrings."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            found |= set(range(token.start[0], token.end[0] + 1))
    return found - docstring_lines(ast.parse(source))


def imports(source: str) -> set[str]:
    """The modules of minidiff that a source imports, anywhere in it; "" for a bare `import minidiff`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["minidiff" if node.level else "", node.module or ""]))
            dotted = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for word in dotted:
            first, _, rest = word.partition(".")
            if first == "minidiff":
                found.add(rest.partition(".")[0])
    return found


def too_early(source: str, chapter: int) -> Complaints:
    """Only modules of this and of earlier chapters."""
    for module in sorted(imports(source)):
        if module == "":
            yield "`import minidiff` hides which modules are used: import them by name"
        elif module not in CHAPTER:
            yield f"imports {module}, which belongs to no chapter"
        elif CHAPTER[module] > chapter:
            yield f"belongs to chapter {chapter} and imports {module} of chapter {CHAPTER[module]}"


def too_long(source: str) -> Complaints:
    """A module of at most 200 code lines, a function of at most 25."""
    code = code_lines(source)
    if len(code) > LINES_OF_MODULE:
        yield f"{len(code)} code lines; at most {LINES_OF_MODULE}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTION):
            size = len(code & set(range(node.lineno, node.end_lineno + 1)))
            if size > LINES_OF_FUNCTION:
                yield f"line {node.lineno}: {node.name} has {size} code lines; at most {LINES_OF_FUNCTION}"


def too_many_arguments(source: str) -> Complaints:
    """At most four positional parameters, `self` not counted; those after `*` are free."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTION):
            names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            if count > POSITIONAL:
                yield f"line {node.lineno}: {node.name} has {count} positional parameters; at most {POSITIONAL}"


def passed_through(source: str) -> Complaints:
    """No catch-all parameter that is handed on: a misspelt argument must be an error here, not there."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, FUNCTION) or node.args.kwarg is None:
            continue
        extra = node.args.kwarg.arg
        calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
        stars = [key.value for call in calls for key in call.keywords if key.arg is None]
        if any(isinstance(value, ast.Name) and value.id == extra for value in stars):
            yield f"line {node.lineno}: {node.name} passes **{extra} through"
        if extra in ("kwargs", "kw", "kwds", "extras", "options"):
            yield f"line {node.lineno}: {node.name} takes **{extra}; name the arguments"


def hidden_names(source: str) -> Complaints:
    """No `import *`; no postponed annotations (they would switch off the checking of shapes)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                yield f"line {node.lineno}: import * hides where names come from"
            if node.module == "__future__" and any(alias.name == "annotations" for alias in node.names):
                yield f"line {node.lineno}: postponed annotations are strings, which no shape checker reads"


def undocumented(source: str) -> Complaints:
    """A docstring for the module and for each of its public functions and classes."""
    tree = ast.parse(source)
    if tree.body and not ast.get_docstring(tree):
        yield "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | FUNCTION) and not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"line {node.lineno}: {node.name} has no docstring"


def too_wide(source: str) -> Complaints:
    """In a notebook's source, at most 104 columns of code; text and the headers of cells are free of this."""
    text = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith("# %%"):
            text = line.startswith("# %% [markdown]")
        elif not text and len(line) > COLUMNS:
            yield f"line {number}: {len(line)} columns; at most {COLUMNS} in a cell of code"


def test_every_module_has_its_chapter():
    known = CHAPTER.keys() | ABOVE | {"__init__"}
    assert {path.stem for path in LIBRARY} - known == set(), "write it into the table, in shared order"
    folders = {path.name for path in (ROOT / "minidiff").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= {"recipes"}


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_modules_build_on_earlier_chapters(path):
    if path.stem == "__init__":
        assert imports(read(path)) == set(), "importing minidiff must not import the course"
    elif path.stem not in ABOVE:
        assert list(too_early(read(path), CHAPTER[path.stem])) == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_notebooks_build_on_earlier_chapters(path):
    assert list(too_early(read(path), int(path.name[:2]))) == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_code_of_notebooks_fits_the_page(path):
    assert list(too_wide(read(path))) == []


@pytest.mark.parametrize("path", LIBRARY + RECIPES, ids=name)
@pytest.mark.parametrize("rule", [too_long, too_many_arguments, passed_through, hidden_names, undocumented])
def test_library(path, rule):
    assert list(rule(read(path))) == []


@pytest.mark.parametrize("path", TOOLS, ids=name)
@pytest.mark.parametrize("rule", [too_long, too_many_arguments, hidden_names])
def test_tools(path, rule):
    assert list(rule(read(path))) == []


def test_size_of_the_library():
    """What the chapters add; the command line stands above them, as the recipes do."""
    assert sum(len(code_lines(read(path))) for path in LIBRARY if path.stem != "__main__") <= LINES_OF_LIBRARY


# The rules can fail: one planted violation each, and a twin that is allowed.


@pytest.mark.parametrize(
    "statement",
    [
        "from minidiff import unet",
        "from minidiff.unet import UNet",
        "import minidiff.unet as u",
        "from . import unet",
        "from .unet import UNet",
        "def f():\n    from minidiff.unet import UNet",
        "from minidiff import recipes",
        "from minidiff.recipes.ch05 import train",
        "from minidiff import __main__",
        "import minidiff",
    ],
)
def test_planted_import(statement):
    assert len(list(too_early(statement, 4))) == 1


def test_allowed_imports():
    assert list(too_early("import torch\nfrom minidiff import gan, mixture\nimport minidiff.plot", 4)) == []
    assert list(too_early("from minidiff.guidance import cfg", 6)) == []
    assert CHAPTER["guidance"] == 6 and CHAPTER["metrics"] == 8 and CHAPTER["sequences"] == 12


def lines(count: int, indent: str = "    ") -> str:
    return "".join(f"{indent}x = {number}\n" for number in range(count))


def test_code_lines():
    source = '"""doc\nmore"""\n# comment\n\nx = 1  # code\ny = (\n    2\n\n)\n\n'
    source += 'def f():\n    """one"""\n    s = """a\nb"""\n'
    assert code_lines(source) == {5, 6, 7, 9, 11, 13, 14}


def test_planted_length():
    assert list(too_long("def f():\n" + lines(24))) == []
    assert list(too_long("def f():\n" + lines(25))) == ["line 1: f has 26 code lines; at most 25"]
    assert list(too_long("class C:\n    async def f(self):\n" + lines(25, " " * 8)))
    assert list(too_long('def f():\n    """doc"""\n\n    # why\n' + lines(24))) == []
    assert list(too_long(lines(200, ""))) == [] and list(too_long(lines(201, "")))


def test_planted_width():
    wide = "# " + "x" * 103
    assert list(too_wide(f"# %% [markdown]\n{wide}\n\n# %% alt='{wide}'\n{wide[:104]}")) == []
    assert list(too_wide(f"# %%\n{wide}")) == ["line 2: 105 columns; at most 104 in a cell of code"]
    assert list(too_wide(f"# %% [markdown]\n{wide}\n\n# %% tags=['t']\nx = 1\n{wide}\n# %% [markdown]\n{wide}")) == [
        "line 6: 105 columns; at most 104 in a cell of code"
    ]


def test_planted_arguments():
    assert list(too_many_arguments("def f(a, b, c, d, *, e, g=1): pass")) == []
    assert list(too_many_arguments("class C:\n    def f(self, a, b, c, d): pass")) == []
    assert list(too_many_arguments("def f(a, b, c, d, e=1): pass"))
    assert list(too_many_arguments("def f(a, b, /, c, d, e): pass"))


def test_planted_catch_all():
    assert list(passed_through("def save(path, **about): return write(path, about)")) == []
    assert list(passed_through("def f(draw, **given): return draw(**{k: v[0] for k, v in given.items()})")) == []
    assert list(passed_through("def f(x, **more): return g(x, **more)"))
    assert list(passed_through("def f(x, **kwargs): return x"))


def test_planted_hidden_names():
    assert list(hidden_names("from math import pi")) == []
    assert list(hidden_names("from math import *"))
    assert list(hidden_names("from __future__ import annotations"))


def test_planted_missing_docstring():
    assert list(undocumented('"""m"""\ndef f():\n    """d"""\ndef _g(): pass')) == []
    assert list(undocumented('def f():\n    """d"""')) == ["the module has no docstring"]
    assert list(undocumented('"""m"""\nclass C: pass\ndef f(): pass')) == [
        "line 2: C has no docstring",
        "line 3: f has no docstring",
    ]
