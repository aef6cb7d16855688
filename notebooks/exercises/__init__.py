"""Exercises: an answer is checked, hints come one at a time, the solution on request.

    from exercises import ch00 as ex
    ex.q1.check(bits_left)       # ✓ with what is right, ✗ with what fails on which input, ○ where nothing was answered
    ex.q1.hint()                 # the next hint
    ex.q1.solution()             # the code

A chapter's module makes an `Exercise` of each. What makes an answer right is written as *properties*: functions that
take the answer and return None, or the sentence that says what fails on which input (or raise `Wrong` with it, from
deeper down). The helpers at the end write the usual sentences. A wrong answer is a verdict, never an exception.
"""
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

Property = Callable[[Any], str | None]


@dataclass(frozen=True)
class Verdict:
    """right: True, False, or None where nothing was answered yet; says: the sentence that `check` printed."""
    right: bool | None
    says: str

    def _ipython_display_(self) -> None:
        """Nothing: as the last line of a cell it would stand there twice."""


@dataclass(repr=False)
class Exercise:
    """A task, hints in steps, a solution that works, and the properties that make an answer right.

    solved: a function; one without parameters stands for an answer that is a value, the one it returns.
    right: what a right answer has shown, in a sentence.
    """
    text: str
    solved: Callable
    properties: Sequence[Property]
    hints: Sequence[str]
    right: str = ""
    given: int = field(default=0, init=False)                            # hints so far

    def check(self, answer: Any) -> Verdict:
        """Print in a sentence what is right, or what fails on which input."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)                                         # so that an answer keeps its verdict
            verdict = self.judge(answer)
        print({True: "✓", False: "✗", None: "○"}[verdict.right], verdict.says)
        return verdict

    def judge(self, answer: Any) -> Verdict:
        """The verdict on an answer, without a word."""
        name, is_function = self.solved.__name__, bool(inspect.signature(self.solved).parameters)
        if answer is None or answer is ...:
            return Verdict(None, f"{name} is not answered yet. hint() gives a first step.")
        if callable(answer) != is_function:
            wants = f"the function itself, check({name})" if is_function else f"the value of {name}, not a function"
            return Verdict(False, f"check wants {wants}.")
        asked = Asked(answer) if is_function else answer
        try:
            wrong = next(filter(None, (fault(asked) for fault in self.properties)), None)
        except Unanswered as stub:
            return Verdict(None, f"{name} is not answered yet: {stub}. hint() gives a first step.")
        except Wrong as stopped:
            wrong = str(stopped)
        except Exception as error:                                       # a property could not work with what it got
            if is_function and not asked.call:
                raise                                                    # it was never asked: the fault is ours
            got = asked.call + " is " + brief(asked.gave) if is_function else f"{name} is {brief(answer)}"
            wrong = f"{got}, and the check cannot work with that ({brief(error)})."
        return Verdict(not wrong, wrong or f"{name} is right. {self.right}".strip())

    def hint(self) -> None:
        """Show the next hint."""
        if self.given == len(self.hints):
            return show("There are no more hints; solution() shows the code.")
        self.given += 1
        show(f"Hint {self.given} of {len(self.hints)}: {self.hints[self.given - 1]}")

    def solution(self) -> None:
        """Show the code of a solution."""
        show(Code(inspect.getsource(self.solved)))

    def __repr__(self) -> str:
        return self.text

    _repr_markdown_ = __repr__


class Wrong(Exception):
    """The answer is wrong; str(…) is the sentence that says why."""


class Unanswered(Exception):
    """The answer is a stub still; str(…) says what shows it."""


class Asked:
    """The answer as properties see it: a function whose faults become sentences.

    call: its last call in words, to begin a sentence with; gave: what came back.
    """

    def __init__(self, function: Callable):
        self.function, self.call, self.gave, self.answered = function, "", None, False

    def __call__(self, *inputs: Any) -> Any:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        self.call = f"{name}({', '.join(map(brief, inputs))})"
        copies = [value.clone() if isinstance(value, Tensor) else value for value in inputs]     # it may write on them
        try:
            self.gave = self.function(*copies)
        except Exception as error:
            if isinstance(error, NotImplementedError) and not self.answered:
                raise Unanswered(f"it stops with {brief(error)}") from error
            raise Wrong(f"{self.call} stops with {brief(error)}.") from error
        if self.gave is None or self.gave is ...:
            raise Wrong(f"{self.call} gives back {self.gave}.") if self.answered else Unanswered(
                f"it gives back {self.gave}")
        self.answered = True
        return self.gave


# --- in words ---------------------------------------------------------------------------------------------------------

class Code(str):
    """Python that is coloured in a notebook, and plain elsewhere."""
    __repr__ = str.__str__

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}```"


class Words(str):
    """A sentence whose formulas are set in a notebook, and plain elsewhere."""
    __repr__ = str.__str__
    _repr_markdown_ = str.__str__


def show(text: str) -> None:
    """Display in a notebook, print elsewhere."""
    if "IPython" not in sys.modules:
        return print(text)
    from IPython.display import display
    display(text if isinstance(text, Code) else Words(text))


def brief(value: Any) -> str:
    """An input or a result in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        small = value.ndim < 2 and math.prod(value.shape) <= 8
        return brief(value.tolist()) if small else f"a {'x'.join(map(str, value.shape))} {type(value).__name__}".lower()
    if isinstance(value, float | np.number):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(brief, value))}]" if len(value) <= 8 else f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}".split("\n")[0][:200].rstrip(" .:")
    if isinstance(value, torch.Generator) or callable(value):
        return getattr(value, "__name__", type(value).__name__.lower())
    return repr(value)[:60]


# --- what most properties need ----------------------------------------------------------------------------------------

def kind(dtype: torch.dtype) -> str:
    """A dtype in words."""
    if dtype == torch.bool:
        return "True and False"
    return "decimal numbers" if dtype.is_floating_point else "complex numbers" if dtype.is_complex else "whole numbers"


def misshapen(got: Any, like: Tensor, what: str) -> str | None:
    """None, or a sentence if `got` is no tensor of the shape and kind of numbers of `like`, or is not finite."""
    if not isinstance(got, Tensor):
        return f"{what} is {brief(got)}; it should be a tensor of shape {list(like.shape)}."
    if got.shape != like.shape:
        return f"{what} has shape {list(got.shape)}; it should be {list(like.shape)}."
    if kind(got.dtype) != kind(like.dtype):
        return f"{what} holds {kind(got.dtype)} ({got.dtype}); it should hold {kind(like.dtype)}, as {like.dtype}."
    if not got.isfinite().all():
        at = [int(i) for i in (~got.isfinite()).nonzero()[0]]
        return f"{what} is {got[tuple(at)].item()} at index {at}; every number should be finite."
    return None


def differs(got: Any, want: Any, what: str, usual: Mapping[str, float] | None = None, *, tol: float = 1e-4
            ) -> str | None:
    """None if |got - want| <= tol·(1 + |want|) everywhere, else a sentence; `want` is a number or a tensor.

    usual, for numbers: what known mistakes give, by the advice that helps against each.
    """
    if isinstance(want, Tensor):
        if form := misshapen(got, want, what):
            return form
        far = (got.double() - want.double()).abs() > tol * (1 + want.double().abs())
        if not far.any():
            return None
        at = [int(i) for i in far.nonzero()[0]]
        return f"{what} is {brief(got[tuple(at)].item())} at index {at}; it should be {brief(want[tuple(at)].item())}."
    number = got.item() if isinstance(got, Tensor | np.ndarray) and math.prod(got.shape) == 1 else got
    if isinstance(number, bool) or not isinstance(number, int | float | np.number):
        return f"{what} is {brief(got)}; it should be one number."
    if np.isclose(number, want, tol, tol):
        return None
    advice = next((a for a, wrong in (usual or {}).items() if np.isclose(number, wrong, tol, tol, equal_nan=True)), "")
    return f"{what} is {brief(float(number))}; it should be {brief(float(want))}. {advice}".strip()


def unlike(got: Any, want: Any, what: str, usual: Mapping[str, Any] | None = None, *, tol: float = 1e-5) -> str | None:
    """`differs` closer by, and for tensors, too, with the advice against a usual mistake, by what that gives."""
    if not isinstance(want, Tensor):
        return differs(got, want, what, usual, tol=tol)
    wrong = differs(got, want, what, tol=tol)
    if wrong is None or not isinstance(got, Tensor):
        return wrong
    usual = (usual or {}).items()
    advice = (a for a, w in usual if got.shape == w.shape and torch.allclose(got.double(), w, equal_nan=True))
    return f"{wrong} {next(advice, '')}".strip()


def luck(counts: Tensor, shares: Tensor) -> float:
    """How probable it is that counts are at least as far from their shares as these, in the sense of chi-square.

    Right answers give a number between 0 and 1, each as often as any other; below 1e-6 something is wrong.
    """
    counts, expected = counts.double(), shares.double() / shares.sum() * counts.sum()
    if (counts[expected == 0] > 0).any():
        return 0.
    there = expected > 0
    chi_square = ((counts - expected)[there] ** 2 / expected[there]).sum()
    return float(torch.special.gammaincc((there.sum() - 1).clamp(min=1).double() / 2, chi_square / 2))
