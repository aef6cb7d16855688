"""Plant an error in a module's source, in memory, and see whether the named test notices."""

import functools
import importlib
import importlib.util
import sys
from itertools import product
from pathlib import Path

from test_structure import imports

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "minidiff"


def cases(test):
    """Every set of arguments that `pytest.mark.parametrize` gives to a test."""
    sets = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = [name.strip() for name in mark.args[0].split(",")]
            values = [value if len(names) > 1 else (value,) for value in mark.args[1]]
            sets.append([dict(zip(names, value, strict=True)) for value in values])
    for chosen in product(*sets):
        yield {name: value for part in chosen for name, value in part.items()}


@functools.cache
def affected(module: str) -> set[str]:
    """The module and all that import it, directly or through others, by their names in `sys.modules`."""
    needs = {path.stem: imports(path.read_text(encoding="utf-8")) for path in PACKAGE.glob("*.py")}
    needs |= {f"recipes.{path.stem}": imports(path.read_text(encoding="utf-8")) | {"recipes"}
              for path in PACKAGE.glob("recipes/*.py")}
    found, more = set(), {module}
    while more:
        found |= more
        more = {name for name, used in needs.items() if used & found} - found
    return {f"minidiff.{name}" for name in found} | {"minidiff.recipes"}


def survives(module: str, original: str, mutated: str, test: str) -> bool:
    """Does `test` ("test_file::test_name") pass in all its cases with `original` replaced in minidiff/<module>.py?

    The modules that import the changed one are imported afresh around it, and put back afterwards.
    """
    path = PACKAGE / f"{module}.py"
    source = path.read_text(encoding="utf-8")
    if source.count(original) != 1:
        raise LookupError(f"{path.name} must hold {original!r} once, but holds it {source.count(original)} times.")
    code = compile(source.replace(original, mutated), f"{path} with {mutated!r}", "exec")
    file, _, name = test.partition("::")
    package = importlib.import_module("minidiff")
    before = dict(vars(package))
    kept = {key: sys.modules.pop(key) for key in affected(module) & sys.modules.keys()}
    for key in kept:
        vars(package).pop(key.partition(".")[2], None)
    try:
        spec = importlib.util.spec_from_file_location(f"minidiff.{module}", path)
        sys.modules[spec.name] = changed = importlib.util.module_from_spec(spec)
        exec(code, changed.__dict__)
        setattr(package, module, changed)
        spec = importlib.util.spec_from_file_location(f"{file}_on_a_mutant", HERE / f"{file}.py")
        tests = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = tests
        spec.loader.exec_module(tests)
        function = getattr(tests, name)
        try:
            for arguments in cases(function):
                function(**arguments)
        except (Exception, SystemExit):
            return False
        except BaseException as failure:  # pytest.fail and pytest.raises without a raise
            if type(failure).__name__ == "Failed":
                return False
            raise
        return True
    finally:
        sys.modules.pop(f"{file}_on_a_mutant", None)
        for key in affected(module) & sys.modules.keys():
            del sys.modules[key]
        sys.modules.update(kept)
        vars(package).clear()
        vars(package).update(before)
