"""Shapes are checked in the tests: importing any module of minidiff wraps its functions with jaxtyping and beartype.

Warnings are errors here (not in the notebooks, which run in kernels of their own).
"""
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("minidiff", "beartype.beartype")

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)
