"""What the notebooks use that is not about pictures: checks of what the text says, sliders, and the ledger of claims.

Two environment variables matter. COURSE_FAST=1 is a smoke run, in which every line runs but numbers mean nothing:
`steps` is small and `expect` asks only for finite numbers. COURSE_UNDER_TEST=1 is set while notebooks are built or
tested: pages show no live bars or sliders.
"""
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLAIM = "application/vnd.minidiff.claim+json"
Number = float | int | Sequence | np.ndarray
_claims: dict[str, dict] = {}


def smoke_run() -> bool:
    """Is COURSE_FAST set?"""
    return os.environ.get("COURSE_FAST", "") not in ("", "0")


def built_or_tested() -> bool:
    """Is COURSE_UNDER_TEST set?"""
    return os.environ.get("COURSE_UNDER_TEST", "") not in ("", "0")


def steps(n: int, fast: int | None = None) -> int:
    """n training steps; in a smoke run `fast`, or n/50 but at least 20."""
    return (fast or min(n, max(20, n // 50))) if smoke_run() else n


def expect(what: str, value: Any, low: float | int | None = None, high: float | int | None = None) -> None:
    """What the text says, checked: `expect("the loss", loss, 0.25, 0.35)` or `expect("A beats B", a > b)`.

    One of the bounds may be None. Prints the band and not the value, which differs a little between machines.
    """
    value, bounds = np.asarray(value).item(), (low, high) != (None, None)
    if isinstance(value, bool) == bounds:
        raise TypeError(f"expect takes True or False, or a number with bounds: it cannot check '{what}' on {value!r}")
    good = value if not bounds else (low is None or low <= value) and (high is None or value <= high)
    ends = ([] if low is None else [f"at least {low:,g}"]) + ([] if high is None else [f"at most {high:,g}"])
    band = f"exactly {low:,g}" if bounds and low == high else " and ".join(ends)
    if smoke_run():
        good, band = not bounds or bool(np.isfinite(value)), "not checked, this is a smoke run"
    if not good:
        raise AssertionError(f"{what} is {value:,.4g}; it should be {band}" if bounds else f"{what}: not so here")
    print(f"✓ {what}" + (f": {band}" if band else ""))


def same(what: str, a: Any, b: Any, tol: float = 1e-5) -> None:
    """Two ways to one result, e.g. the notebook's function and the library's: |a - b| <= tol·(1 + |b|) everywhere."""
    a, b = (np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64) for x in (a, b))
    if a.shape != b.shape:
        raise AssertionError(f"{what} should agree, but one has shape {list(a.shape)} and the other {list(b.shape)}")
    far = ~(np.abs(a - b) <= tol * (1 + np.abs(b)))                      # so that nan counts as far
    if far.any():
        at = tuple(int(i) for i in np.argwhere(far)[0])
        raise AssertionError(f"{what} should agree within {tol:g}, but {far.sum()} of {far.size} numbers differ, "
                             f"first {a[at]:.6g} and {b[at]:.6g} at index {list(at)}")
    print(f"✓ {what} agree within {tol:g}")


def progress(items: Iterable, *, total: int | None = None, what: str = "") -> Iterable:
    """The items behind a tqdm bar, which is left out where notebooks are built or tested."""
    from tqdm.auto import tqdm
    hidden = built_or_tested() or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(items, total=total, desc=what or None, leave=False, disable=hidden)


def explore(draw: Callable, sliders: Mapping[str, tuple]) -> Any:
    """`draw` under live sliders; one picture at the starting values where notebooks are built or tested.

        explore(show_samples, {"scale": (3.0, 0.0, 7.0)})        # start, lowest, highest

    `draw` takes the names as arguments and returns a picture. Whole numbers give a slider of whole numbers.
    """
    for name, (start, low, high) in sliders.items():
        if not low <= start <= high:
            raise ValueError(f"the slider '{name}' starts at {start}, which is not between {low} and {high}")
    if built_or_tested():
        return draw(**{name: start for name, (start, _, _) in sliders.items()})
    from ipywidgets import FloatSlider, IntSlider, interact
    controls = {}
    for name, (start, low, high) in sliders.items():
        whole = all(isinstance(value, int) for value in (start, low, high))
        step = 1 if whole else 10.0 ** np.floor(np.log10((high - low) / 20))
        controls[name] = (IntSlider if whole else FloatSlider)(
            value=start, min=low, max=high, step=step, continuous_update=False)
    interact(draw, **controls)


@dataclass(frozen=True)
class Rule:
    """When a claim holds, written down before the run; `claim` applies it to the number, one or one a seed.

    `text` says the rule in words. `errs` is for claims that the mathematics or another source contradicts.
    """
    text: str
    holds: Callable[[Any], bool]
    partly: Callable[[Any], bool] = lambda number: False
    errs: Callable[[Any], bool] = lambda number: False

    def verdict(self, number: Number) -> str:
        """One of: the sources err, holds, holds partly, does not hold here; the first whose condition is met."""
        if not np.isfinite(number).all():
            raise ValueError(f"the number of a claim must be finite, not {number}: no rule can judge it")
        cases = {"the sources err": self.errs, "holds": self.holds, "holds partly": self.partly}
        return next((verdict for verdict, case in cases.items() if case(number)), "does not hold here")


@dataclass(frozen=True)
class Shown:
    """Markdown for people and, beside it in the stored output, the record that it came from."""
    markdown: str
    record: dict | None = None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict:
        text = {"text/markdown": self.markdown, "text/plain": self.markdown}
        return text if self.record is None else text | {CLAIM: self.record}


def claim(id: str, *, said: str, number: Number, n: int, rule: Rule, sentence: str,
          smallest: float | int | None = None) -> Shown:
    """Record a row of the course's ledger; the cell's last line, so that the record is stored with the notebook.

    `said`: what the lecture says. `number`: what settles it, one value a seed (a single value is one run or exact).
    `n`: how many samples each value counts. `sentence`: what we found. `smallest`: the smallest effect that could have
    been seen, which a verdict "does not hold here" must give. The verdict is computed by `rule`.
    """
    values, verdict = np.atleast_1d(np.asarray(number, dtype=np.float64)), rule.verdict(number)
    if verdict == "does not hold here" and smallest is None and not smoke_run():
        raise ValueError(f"claim {id} does not hold here, so say with smallest=… what effect could have been seen")
    record = {"id": id, "said": said, "number": _round(values.mean()), "n": n, "seeds": len(values), "verdict": verdict,
              "spread": _round(values.std(ddof=1)) if len(values) > 1 else None, "sentence": sentence,
              "rule": rule.text, "smallest": None if smallest is None else _round(smallest)}
    _claims[id] = record
    return Shown(f"**{id} {verdict}.** {sentence} ({_measured(record)})", record)


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def _measured(record: Mapping) -> str:
    spread = "" if record["spread"] is None else f" ± {record['spread']:.2g}"
    seen = "" if record["smallest"] is None else f"; smallest effect that could be seen {record['smallest']:g}"
    runs = f" for each of {record['seeds']} seeds" if record["seeds"] > 1 else ", one run"
    return f"measured {record['number']:g}{spread}, n = {record['n']:,}{runs}{seen}"


def claims_table(records: Iterable[Mapping] | None = None) -> Shown:
    """*The lecture said, we measured*: the claims of this notebook, or the given records."""
    rows = list(_claims.values() if records is None else records)
    if not rows:
        raise ValueError("there is no claim to show yet: run the cells that call claim(…) first")
    cells = [(r["id"], r["said"], f"{r['sentence']} ({_measured(r)})", r["rule"], f"**{r['verdict']}**") for r in rows]
    lines = [("", "The lecture said", "We measured", "Rule, set before the run", "Verdict"), ("---",) * 5, *cells]
    tidy = [[cell.replace("|", "∣").replace("\n", " ") for cell in line] for line in lines]
    return Shown("\n".join(f"| {' | '.join(line)} |" for line in tidy))


def collect(folder: str | Path) -> list[dict]:
    """All claims stored in the notebooks of a folder, in order, each with the name of its notebook."""
    records = []
    for path in sorted(Path(folder).glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        records += [data[CLAIM] | {"notebook": path.stem} for data in outputs if CLAIM in data]
    return records
