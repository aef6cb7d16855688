"""Checks, sliders and the ledger of claims; what is shown is also run in a real kernel and exported."""
import json
import math

import numpy as np
import pytest
import torch

from minidiff import notebook
from minidiff.notebook import CLAIM, Rule, claim, claims_table, collect, expect, explore, progress, same, steps


@pytest.fixture(autouse=True)
def a_full_live_run(monkeypatch):
    monkeypatch.delenv("COURSE_FAST", raising=False)
    monkeypatch.delenv("COURSE_UNDER_TEST", raising=False)
    monkeypatch.setattr(notebook, "_claims", {})


@pytest.fixture
def smoke(monkeypatch):
    monkeypatch.setenv("COURSE_FAST", "1")


@pytest.mark.parametrize("value", [0.25, 0.35, torch.tensor(0.3), np.float32(0.3)])
def test_expect_accepts_the_band_with_its_ends(value, capsys):
    expect("the loss", value, 0.25, 0.35)
    assert capsys.readouterr().out == "✓ the loss: at least 0.25 and at most 0.35\n"


def test_expect_says_exactly_where_the_band_is_one_number(capsys):
    expect("scenes", 3456, 3456, 3456)
    expect("steps", 2000, 1000, None)
    assert capsys.readouterr().out == "✓ scenes: exactly 3,456\n✓ steps: at least 1,000\n"
    with pytest.raises(AssertionError, match="^scenes is 3,455; it should be exactly 3,456$"):
        expect("scenes", 3455, 3456, 3456)


@pytest.mark.parametrize(("value", "low", "high"), [
    (0.36, 0.25, 0.35), (0.24, 0.25, 0.35), (math.nan, 0.25, 0.35), (math.nan, None, 1.0),
    (2.0, None, 1.0), (-1.0, 0.0, None)])
def test_expect_refuses_what_lies_outside(value, low, high):
    with pytest.raises(AssertionError, match=r"^the loss is .*; it should be "):
        expect("the loss", value, low, high)


def test_expect_takes_a_truth_or_a_number_with_bounds_and_nothing_else(capsys):
    expect("A beats B", np.array([1.0]).sum() > 0)
    expect("the tensors are equal", torch.ones(3).eq(1).all())
    with pytest.raises(AssertionError, match="A beats B: not so here"):
        expect("A beats B", False)
    for wrong in ((0.3,), (True, 0.0, 1.0)):
        with pytest.raises(TypeError, match="True or False, or a number with bounds"):
            expect("the loss", *wrong)


def test_in_a_smoke_run_expect_asks_only_for_finite_numbers(smoke, capsys):
    expect("the loss", 100.0, 0.0, 1.0)
    expect("A beats B", False)
    assert capsys.readouterr().out.count("not checked") == 2
    with pytest.raises(AssertionError):
        expect("the loss", math.nan, 0.0, 1.0)


def test_steps_are_few_only_in_a_smoke_run(monkeypatch):
    assert (steps(5000), steps(5000, fast=7), steps(10)) == (5000, 5000, 10)
    monkeypatch.setenv("COURSE_FAST", "1")
    assert (steps(5000), steps(5000, fast=7), steps(500), steps(10)) == (100, 7, 20, 10)


def test_same_accepts_rounding_and_names_the_first_difference(capsys):
    a = torch.linspace(0, 100, 12).reshape(3, 4)
    same("the two sums", a, a.numpy() * (1 + 9e-6))
    b = a.clone()
    b[1, 2] += 0.01
    with pytest.raises(AssertionError, match=r"1 of 12 numbers differ.*at index \[1, 2\]"):
        same("the two sums", a, b)
    with pytest.raises(AssertionError, match=r"shape \[3, 4\] and the other \[4\]"):
        same("the two sums", a, a[0])                                    # would broadcast
    with pytest.raises(AssertionError, match="12 of 12"):
        same("nan", a * math.nan, a * math.nan)


def test_progress_hands_on_every_item_and_is_silent_under_test(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_UNDER_TEST", "1")
    assert list(progress(range(5), what="training")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


def test_explore_draws_once_at_the_start_where_notebooks_are_tested(monkeypatch):
    monkeypatch.setenv("COURSE_UNDER_TEST", "1")
    assert explore(lambda scale, k: (scale, k), {"scale": (3.0, 0.0, 7.0), "k": (2, 0, 9)}) == (3.0, 2)
    with pytest.raises(ValueError, match="'k' starts at 12, which is not between 0 and 9"):
        explore(lambda k: k, {"k": (12, 0, 9)})


def test_explore_makes_a_live_slider_of_each_kind(monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    made = {}
    monkeypatch.setattr(widgets, "interact", lambda draw, **controls: made.update(controls))
    explore(print, {"scale": (3.0, 0.0, 7.0), "share": (0.5, 0.0, 1.0), "k": (2, 0, 9)})
    assert isinstance(made["scale"], widgets.FloatSlider) and isinstance(made["k"], widgets.IntSlider)
    assert (made["scale"].step, made["share"].step, made["k"].step) == (0.1, 0.01, 1)
    assert (made["scale"].value, made["scale"].min, made["scale"].max) == (3.0, 0.0, 7.0)


WINS = Rule("all seeds above 0.02; partly: mean above 0", holds=lambda d: min(d) > 0.02, partly=lambda d: sum(d) > 0)


@pytest.mark.parametrize(("number", "verdict"), [
    ([0.03, 0.05, 0.04], "holds"), ([0.03, 0.05, -0.01], "holds partly"), ([-0.03, 0.01, 0.0], "does not hold here")])
def test_the_rule_computes_the_verdict(number, verdict):
    shown = claim("C20", said="noise is easier", number=number, n=1000, rule=WINS, sentence="It is.", smallest=0.02)
    assert shown.record["verdict"] == verdict
    assert shown.record["seeds"] == 3
    assert shown.record["number"] == pytest.approx(np.mean(number), rel=5e-3, abs=1e-9)
    variance = sum((value - np.mean(number)) ** 2 for value in number) / 2
    assert shown.record["spread"] == pytest.approx(math.sqrt(variance), rel=5e-3)


def test_a_contradiction_of_the_sources_goes_before_all_else():
    rule = Rule("patches = (224/14)²", holds=lambda p: p == 196, errs=lambda p: p == 256)
    shown = claim("C71", said="14×14 patches", number=256, n=1, rule=rule, sentence="There are 16×16.")
    assert shown.record["verdict"] == "the sources err"
    assert (shown.record["spread"], shown.record["seeds"]) == (None, 1)


def test_a_refutation_must_say_what_it_could_have_seen():
    with pytest.raises(ValueError, match="smallest="):
        claim("C20", said="…", number=[-1.0, -1.0], n=10, rule=WINS, sentence="…")
    with pytest.raises(ValueError, match="finite"):
        claim("C20", said="…", number=[math.nan, 1.0], n=10, rule=WINS, sentence="…", smallest=0.1)


def test_the_table_shows_each_claim_once_with_its_last_record():
    with pytest.raises(ValueError, match="no claim"):
        claims_table()
    claim("C20", said="first", number=[0.5, 0.6], n=10, rule=WINS, sentence="Old.")
    claim("C21", said="a | b\nc", number=0.125, n=2000, rule=Rule("r", holds=lambda d: d > 0), sentence="Yes.")
    claim("C20", said="first", number=[0.7, 0.9], n=10, rule=WINS, sentence="New.")
    lines = claims_table().markdown.split("\n")
    assert len(lines) == 4 and {line.count("|") for line in lines} == {6}
    assert "New." in lines[2] and "**holds**" in lines[2]
    assert "(measured 0.8 ± 0.14, n = 10 for each of 2 seeds)" in lines[2]
    assert "(measured 0.125, n = 2,000, one run)" in lines[3] and "a ∣ b c" in lines[3]


def test_claims_survive_in_the_stored_notebook(tmp_path):
    """A real kernel runs two chapters; a third place collects and shows what they stored."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    head = """from minidiff.notebook import Rule, claim, claims_table
rule = Rule('above 0', holds=lambda d: min(d) > 0)"""
    row = "claim('{}', said='it falls', number=[0.5, 0.75], n=100, rule=rule, sentence='It does.')"
    for name, ids in (("05_b", ["C16", "C17"]), ("04_a", ["C13"])):
        cells = [nbformat.v4.new_code_cell(text) for text in [head, *map(row.format, ids), "claims_table()"]]
        book = nbformat.v4.new_notebook(cells=cells)
        nbclient.NotebookClient(book, kernel_name="python3", timeout=120).execute()
        nbformat.validate(book)
        nbformat.write(book, tmp_path / f"{name}.ipynb")
    records = collect(tmp_path)
    assert [(r["notebook"], r["id"], r["verdict"]) for r in records] == [
        ("04_a", "C13", "holds"), ("05_b", "C16", "holds"), ("05_b", "C17", "holds")]
    assert claims_table(records).markdown.count("0.625 ± 0.18") == 3
    json.dumps(records)
    assert CLAIM in book.cells[1].outputs[0].data and "text/markdown" in book.cells[1].outputs[0].data
    page, _ = pytest.importorskip("nbconvert").HTMLExporter().from_notebook_node(book)
    assert "<strong>C13 holds.</strong> It does." in page and "<table>" in page
