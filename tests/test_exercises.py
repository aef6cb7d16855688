"""The exercises: every solution passes, every stub is let be, and the usual mistakes get a sentence that helps."""
import ast
import importlib
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_structure import code_lines, hidden_names, too_early, too_long, too_many_arguments, undocumented
from torch.nn import functional as F
from torch.nn.functional import logsigmoid

from minidiff import autoregressive, captions, data, guidance, oracle, plot, samplers, scenes, schedules, weights

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))                                       # as it is where notebooks run
from exercises import (  # noqa: E402
    Asked,
    Exercise,
    Unanswered,
    Verdict,
    Wrong,
    brief,
    ch00,
    ch01,
    ch02,
    ch03,
    ch04,
    ch05,
    ch06,
    ch07,
    ch08,
    differs,
    luck,
    misshapen,
)

CHAPTERS = [importlib.import_module(f"exercises.{path.stem}") for path in sorted(NOTEBOOKS.glob("exercises/ch*.py"))]
EVERY = {f"{module.__name__[-4:]}.{name}": exercise for module in CHAPTERS
         for name, exercise in vars(module).items() if isinstance(exercise, Exercise)}
all_exercises = pytest.mark.parametrize("exercise", EVERY.values(), ids=EVERY.keys())


@pytest.fixture(autouse=True)
def fresh_hints():
    for exercise in EVERY.values():
        exercise.given = 0


# --- every exercise of every chapter ----------------------------------------------------------------------------------

def answer(exercise):
    """The solution as an answer: itself, or what it returns if it has no parameters."""
    return exercise.solved if inspect.signature(exercise.solved).parameters else exercise.solved()


def empty(*inputs):
    ...


def undone(*inputs):
    raise NotImplementedError  # YOUR CODE HERE


def dots(*inputs):
    return ...


@all_exercises
def test_the_solution_passes_and_says_something(exercise, capsys):
    verdict = exercise.check(answer(exercise))
    assert verdict.right is True and exercise.right and exercise.right in verdict.says
    assert capsys.readouterr().out == f"✓ {verdict.says}\n"


@all_exercises
@pytest.mark.parametrize("stub", [..., None, empty, undone, dots], ids=["...", "None", "empty", "undone", "dots"])
def test_a_stub_is_not_answered_yet(exercise, stub, capsys):
    if callable(stub) and not inspect.signature(exercise.solved).parameters:
        pytest.skip("the answer is a value")
    verdict = exercise.check(stub)
    assert verdict.right is None and "not answered yet" in verdict.says
    assert capsys.readouterr().out == f"○ {verdict.says}\n"


@all_exercises
@pytest.mark.parametrize("thing", ["six", [1, 2], {}, torch.zeros(2, 7), np.zeros(3), 1j, True, torch.tensor([np.nan])])
def test_an_answer_of_the_wrong_type_is_a_sentence(exercise, thing):
    verdict = exercise.check((lambda *_: thing) if callable(answer(exercise)) else thing)
    assert verdict.right is False and 20 < len(verdict.says) < 400 and "\n" not in verdict.says
    assert " should " in verdict.says or "cannot work with" in verdict.says


@all_exercises
def test_an_answer_that_stops_is_told_with_the_error_and_the_input(exercise):
    if not callable(answer(exercise)):
        pytest.skip("the answer is a value")

    def mine(*inputs):
        return {}["left"]
    verdict = exercise.check(mine)
    assert verdict.right is False
    assert "mine(" in verdict.says and "stops with KeyError: 'left'" in verdict.says


@all_exercises
def test_hints_come_in_steps_and_end(exercise, capsys):
    assert len(exercise.hints) >= 2
    for k, hint in enumerate(exercise.hints, 1):
        exercise.hint()
        assert capsys.readouterr().out == f"Hint {k} of {len(exercise.hints)}: {hint}\n"
    for _ in range(2):
        exercise.hint()
        assert "no more hints" in capsys.readouterr().out


@all_exercises
def test_the_code_that_is_shown_works_where_only_the_notebook_s_imports_are(exercise, capsys):
    exercise.solution()
    code = capsys.readouterr().out
    room = {"np": np, "torch": torch}
    room |= {m.__name__.split(".")[-1]: m for m in (autoregressive, captions, data, oracle, plot, scenes, weights)}
    exec(code, room)
    pasted = room[exercise.solved.__name__]
    assert exercise.judge(pasted if callable(answer(exercise)) else pasted()).right
    assert len(code.splitlines()) <= 25 and inspect.getdoc(pasted)


@pytest.mark.parametrize("module", CHAPTERS, ids=lambda module: module.__name__[-4:])
def test_the_notebook_asks_for_what_is_checked(module):
    """A stub for each exercise, with the solution's parameters, and a check of it."""
    (source,) = (NOTEBOOKS / "source").glob(f"{module.__name__[-2:]}_*.py")
    text = source.read_text(encoding="utf-8")
    if f"from exercises import {module.__name__[-4:]} as ex" not in text:
        pytest.skip("the notebook has no exercises yet")
    stubs = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    for name, exercise in vars(module).items():
        if isinstance(exercise, Exercise) and callable(answer(exercise)):
            stub = stubs[exercise.solved.__name__]
            assert [a.arg for a in stub.args.args] == list(inspect.signature(exercise.solved).parameters)
            assert isinstance(stub.body[-1].value, ast.Constant) and stub.body[-1].value.value is ...
            assert f"\nex.{name}.check({exercise.solved.__name__})\n" in text


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("exercises/*.py")), ids=lambda path: path.stem)
def test_the_code_is_small_and_builds_on_earlier_chapters(path):
    """The library's rules; a chapter's exercises may fill 300 lines, as hints and sentences count."""
    source = path.read_text(encoding="utf-8").replace("from . import", "from exercises import")
    rules = (too_long, too_many_arguments, hidden_names, undocumented)
    assert [c for rule in rules for c in rule(source) if c.startswith("line")] == []
    assert len(code_lines(source)) <= (200 if path.stem == "__init__" else 300)
    assert path.stem == "__init__" or list(too_early(source, int(path.stem[2:]))) == []


# --- the mechanism ----------------------------------------------------------------------------------------------------

def doubled(x):
    """Twice x."""
    return 2 * x


def twice(doubled):
    for x in (1., 3.):
        if wrong := differs(doubled(x), x + x, doubled.call, {"Was it squared?": x * x, "Half is not twice.": x / 2}):
            return wrong
    return None


def seven():
    """A number."""
    return 7


toy = Exercise("Double it.", solved=doubled, properties=[twice], hints=["Add it to itself."], right="Twice.")
value = Exercise("Which number?", solved=seven, properties=[lambda a: differs(a, 7, "the number")], hints=["Count."])


@pytest.mark.parametrize(("answer", "says"), [
    (lambda x: x * x, "<lambda>(1) is 1; it should be 2. Was it squared?"),
    (lambda x: x / 2, "<lambda>(1) is 0.5; it should be 2. Half is not twice."),
    (lambda x: 2. if x == 1 else 5., "<lambda>(3) is 5; it should be 6."),
    (lambda x: 2. if x == 1 else None, "<lambda>(3) gives back None."),
    (lambda x: "ab", "<lambda>(1) is 'ab'; it should be one number."),
    (lambda x, y: x, "<lambda>(1) stops with TypeError: "),
    (lambda x: float("nan"), "<lambda>(1) is nan; it should be 2."),
    (2., "check wants the function itself, check(doubled)."),
])
def test_wrong_answers_are_told_in_a_sentence(answer, says, capsys):
    verdict = toy.check(answer)
    assert verdict.right is False and verdict.says.startswith(says)
    assert capsys.readouterr().out == f"✗ {verdict.says}\n"


def test_a_function_that_answered_once_is_no_stub_any_more():
    def half_done(x):
        if x > 1:
            raise NotImplementedError("large x")
        return 2 * x
    assert toy.judge(half_done) == Verdict(False, "half_done(3) stops with NotImplementedError: large x.")


def test_an_answer_can_be_a_value():
    assert value.judge(7).right and value.judge(torch.tensor(7)).right and value.judge(np.float64(7.)).right
    assert value.judge(8) == Verdict(False, "the number is 8; it should be 7.")
    assert value.judge("7").right is False and value.judge(...).right is None
    assert "not a function" in value.judge(seven).says


def test_a_result_that_a_property_stumbles_over_is_told_too():
    clumsy = Exercise("", solved=doubled, properties=[lambda f: None if f(2)["x"] else "no"], hints=["", ""])
    says = clumsy.judge(doubled).says
    assert says == "doubled(2) is 4, and the check cannot work with that (TypeError: 'int' object is not " \
                   "subscriptable)."


def test_what_an_answer_does_to_its_input_stays_with_it():
    def spoils(x):
        return x.mul_(2)
    x = torch.ones(3)
    exercise = Exercise("", solved=doubled, properties=[lambda f: differs(f(x), 2 * x, f.call)], hints=["", ""])
    assert exercise.judge(spoils).right and x.equal(torch.ones(3))


def test_an_answer_with_loose_dice_keeps_its_verdict_and_the_notebook_its_random_numbers():
    loose = Exercise("", solved=doubled, properties=[lambda f: f"{f(1):.4f}"], hints=[])
    state = torch.random.get_rng_state()
    verdicts = {loose.check(lambda x: float(torch.rand(()))).says for _ in range(3)}
    assert len(verdicts) == 1 and torch.random.get_rng_state().equal(state)


@pytest.mark.parametrize("ipython", [False, True])
def test_outside_of_notebooks_all_is_plain_text(ipython, monkeypatch, capsys):
    if ipython:
        pytest.importorskip("IPython")
    else:
        monkeypatch.delitem(sys.modules, "IPython", raising=False)
    toy.solution()
    assert capsys.readouterr().out.rstrip() == 'def doubled(x):\n    """Twice x."""\n    return 2 * x'
    Exercise("", solved=doubled, properties=[], hints=["$x + x$."]).hint()
    assert capsys.readouterr().out == "Hint 1 of 1: $x + x$.\n"
    assert repr(toy) == "Double it."


def test_interrupting_a_check_stops_it():
    def endless(x):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        toy.check(endless)


def test_a_fault_of_the_check_itself_is_not_blamed_on_the_answer():
    broken = Exercise("", solved=doubled, properties=[lambda f: 1 / 0], hints=[])
    with pytest.raises(ZeroDivisionError):
        broken.check(doubled)


def test_a_property_may_raise_its_sentence_from_deeper_down():
    def deeper(f):
        raise Wrong("for x = 1 it is odd.")
    assert Exercise("", solved=doubled, properties=[deeper], hints=[]).judge(doubled).says == \
        "for x = 1 it is odd."
    assert not issubclass(Unanswered, Wrong)


@pytest.mark.parametrize(("got", "word"), [
    ([1., 2.], "it should be a tensor of shape [2, 3]"), (np.zeros((2, 3)), "a 2x3 ndarray; it should be a tensor"),
    (torch.zeros(3, 2), "has shape [3, 2]; it should be [2, 3]"), (torch.zeros(2, 3).long(), "holds whole numbers"),
    (torch.zeros(2, 3).bool(), "holds True and False"), (torch.zeros(2, 3).cfloat(), "holds complex numbers"),
    (torch.tensor([[0, 0, 0], [0, np.nan, 0]]).float(), "is nan at index [1, 1]")])
def test_misshapen_names_what_is_wrong(got, word):
    assert word in misshapen(got, torch.ones(2, 3), "x") and word in differs(got, torch.ones(2, 3), "x")
    assert misshapen(torch.zeros(2, 3).double(), torch.ones(2, 3), "x") is None


def test_differs_names_the_first_place_and_forgives_rounding():
    want = torch.arange(6.).reshape(2, 3)
    assert differs(want * (1 + 5e-5), want, "x") is None and differs(want.double(), want, "x") is None
    assert differs(want + torch.tensor([0, 0, 1.]), want, "x") == "x is 3 at index [0, 2]; it should be 2."
    assert differs(torch.tensor([True, True]), torch.tensor([True, False]), "m") == \
        "m is True at index [1]; it should be False."
    assert differs(True, 1, "x") == "x is True; it should be one number."
    assert differs(1.1, 1, "x", tol=.1) is None and differs(1.1, 1, "x", tol=.04)


def test_luck_is_uniform_for_right_counts_and_small_for_wrong_ones():
    """Against scipy's own test; over many throws of a fair die its ten tenths are hit equally often."""
    from scipy.stats import chisquare, kstest
    shares = torch.tensor([.1, .2, .3, .4])
    counts = torch.tensor([120, 180, 320, 380])
    assert luck(counts, shares) == pytest.approx(chisquare(counts, 1000 * shares.double().numpy() /
                                                           float(shares.double().sum())).pvalue, rel=1e-6)
    throws = torch.multinomial(shares.expand(1000, 4), 2000, replacement=True, generator=data.rng("luck"))
    p = [luck(row.bincount(minlength=4), shares) for row in throws]
    assert kstest(p, "uniform").pvalue > 1e-3
    assert luck(torch.tensor([1, 5]), torch.tensor([0., 1.])) == 0 and luck(torch.tensor([9]), torch.ones(1)) == 1
    assert luck(torch.tensor([0, 5]), torch.tensor([0., 1.])) == 1
    assert luck(torch.tensor([300, 100]), torch.ones(2)) < 1e-6


def test_brief():
    assert [brief(v) for v in (1.23456, "a", torch.tensor(.5), torch.arange(3), torch.zeros(2, 3), [1, [2., "b"]],
                               np.float32(.1), list(range(20)), data.rng(1), brief, ValueError("x\ny"), ValueError())
            ] == ["1.235", "'a'", "0.5", "[0, 1, 2]", "a 2x3 tensor", "[1, [2, 'b']]", "0.1", "a list of 20",
                  "generator", "brief", "ValueError: x", "ValueError"]


STORY = """
from exercises import ch00 as ex
---
def prefix_mask(n, prefix):
    ...

ex.q4.check(prefix_mask)
---
import torch
verdict = ex.q4.check(lambda n, prefix: torch.ones(n, n).tril() > 0)
verdict
---
ex.q4.check(ex.q4.solved)
---
ex.q4.hint()
---
ex.q4.solution()
---
ex.q4
"""


@pytest.mark.parametrize("place", ["notebooks", "a copy elsewhere"])
def test_in_a_notebook(place, tmp_path, monkeypatch):
    """A real kernel, in notebooks/ as the tests run it, and where `course.py lab` opens a copy."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if place != "notebooks":
        monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text.strip()) for text in STORY.split("---")])
    folder = str(NOTEBOOKS if place == "notebooks" else tmp_path)
    place = {"metadata": {"path": folder}}
    nbclient.NotebookClient(book, kernel_name="python3", timeout=120, resources=place).execute()
    nothing, stub, wrong, right, hint, solution, task = (cell.outputs for cell in book.cells)
    assert nothing == []
    marks = "○ prefix_mask is not answered yet: ", "✗ In <lambda>(6, 2) token 0 does not see", "✓ prefix_mask is right"
    for outputs, mark in zip((stub, wrong, right), marks, strict=True):
        (once,) = outputs                                                # printed, and not shown again as a result
        assert once.output_type == "stream" and once.text.startswith(mark) and once.text.count("\n") == 1
    assert hint[0].data["text/markdown"].startswith("Hint 1 of 3: ")
    assert solution[0].data["text/markdown"].startswith("```python\ndef prefix_mask(n, prefix):\n")
    assert solution[0].data["text/markdown"].endswith("return mask\n```")
    assert solution[0].data["text/plain"].startswith("def prefix_mask(n, prefix):\n")
    assert len(hint) == len(solution) == 1 and "prefix_mask" in task[0].data["text/markdown"]


def test_the_exercises_can_be_imported_by_their_place_in_the_repository():
    module = importlib.import_module("notebooks.exercises.ch00")
    assert module.q4.judge(ch00.q4.solved).right


# --- chapter 0: other right answers -----------------------------------------------------------------------------------

EVERY_SCENE = list(scenes.single("all"))


def bits_by_counting_words(caption):
    told = captions.parse(caption)
    named = {"background"} if told.background else set()
    named |= {key for thing in told.things for key, word in thing.items() if word}
    return torch.tensor(3456.).log2() - sum(np.log2(len(ch00.FACTS[fact])) for fact in named)


def ring_of_two_circles(u, v, r_out, r_in):
    r = torch.hypot(u, v)
    return torch.maximum(r - r_out, r_in - r)


def cost_by_definition(codes, p):
    return torch.tensor(ch00.divergence(codes, p))


def mask_by_rule(n, prefix):
    i, j = torch.arange(n)[:, None], torch.arange(n)
    return (j <= i) | (j < prefix)


def chain_by_cumulative_sums(conditional, length, n, generator):
    x = torch.zeros(n, length, dtype=torch.int32)
    for i in range(length):
        c = conditional(x[:, :i]).cumsum(1)
        x[:, i] = (torch.rand(n, 1, generator=generator) > c[:, :-1]).sum(1)
    return x


def dice_in_another_order(caption, z):
    """By the scenes in words, for each picture."""
    told = captions.parse(caption)
    named = {"background": told.background} | (told.things[0] if told.things else {})
    made = []
    for row in torch.special.ndtr(z.double()).tolist():
        roll = {f: named.get(f) or list(t)[int(u * len(t))] for (f, t), u in zip(ch00.FACTS.items(), row, strict=True)}
        x, y = ((c + 1) / 4 for c in scenes.PLACES[roll["place"]])
        thing = scenes.Thing(roll["shape"], roll["colour"], roll["size"], x, y)
        made.append(scenes.Scene(roll["background"], (thing,)))
    return autoregressive.rounded(scenes.render(scenes.Scenes.of(made), 16))


@pytest.mark.parametrize(("exercise", "answer"), [
    (ch00.q1, bits_by_counting_words), (ch00.q2, ring_of_two_circles), (ch00.q3, cost_by_definition),
    (ch00.q4, mask_by_rule), (ch00.q5, chain_by_cumulative_sums), (ch00.q6, dice_in_another_order)])
def test_another_road_is_right_as_well(exercise, answer):
    assert exercise.judge(answer).right, exercise.judge(answer).says


def log_sum_exp_by_torch(a):
    return torch.logsumexp(a, 1)


def size_in_parts(k, d, kind, rank):
    upper = sum(range(d + 1))
    skew = sum(range(rank))
    return k * d + (k - 1) + k * {"full": upper, "diag": d, "spherical": 1, "lowrank": d + rank * d - skew}[kind]


def m_step_by_moments(x, r):
    share = r / r.sum(0)
    return r.mean(0), share.T @ x, share.T @ x ** 2 - (share.T @ x) ** 2


def draw_by_component(model, n, generator):
    k = (torch.rand(n, 1, generator=generator) > model.weights_.cumsum(0)[:-1]).sum(1)
    values, vectors = torch.linalg.eigh(model.covariances_)
    z = torch.randn(n, 2, generator=generator).double()
    return model.means_[k] + torch.einsum("nij,nj,nj->ni", vectors[k], values[k].sqrt(), z)


def guess_by_tweedie(x, level, means, std):
    alpha, sigma = level
    x = x.detach().clone().requires_grad_()
    v = alpha ** 2 * std ** 2 + sigma ** 2
    log_p = (-(x[:, None] - alpha * means).square().sum(2) / (2 * v)).logsumexp(1)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    return ((x + sigma ** 2 * score) / alpha).detach()


def fill_row_by_row(x, known, means, std):
    out = x.clone()
    for row, full in zip(x, out, strict=True):
        log = sum(-(row[i] - means[:, i]) ** 2 / (2 * std ** 2) for i in known.nonzero()[:, 0])
        full[~known] = (log.softmax(0) @ means)[~known]
    return out


@pytest.mark.parametrize(("exercise", "answer"), [
    (ch01.q1, log_sum_exp_by_torch), (ch01.q2, size_in_parts), (ch01.q3, m_step_by_moments),
    (ch01.q4, draw_by_component), (ch01.q5, guess_by_tweedie), (ch01.q6, fill_row_by_row)])
def test_another_road_of_chapter_1_is_right_as_well(exercise, answer):
    assert exercise.judge(answer).right, exercise.judge(answer).says


def in_one_go_by_recursion(beta):
    levels, alpha, sigma = [], 1., 0.
    for b in beta:
        alpha, sigma = alpha * (1 - b).sqrt(), ((1 - b) * sigma ** 2 + b).sqrt()
        levels.append(torch.stack([alpha, sigma]))
    return tuple(torch.stack(levels, 1))


def step_back_by_correcting(x, x0, at, to):
    """From what x0 says alone to what x_t says beside it, as a Kalman filter does."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    a = alpha_t / alpha_s
    gain = a * sigma_s ** 2 / sigma_t ** 2
    return alpha_s * x0 + gain * (x - alpha_t * x0), sigma_s * (1 - gain * a).sqrt()


def picture_and_noise_by_solving(x, v, alpha, sigma):
    matrix = torch.stack([torch.stack([alpha, sigma], 1), torch.stack([-sigma, alpha], 1)], 1)
    both = torch.linalg.solve(matrix, torch.stack([x.flatten(1), v.flatten(1)], 1))
    return [part.reshape(x.shape) for part in both.unbind(1)]


def fewer_steps_by_multiplying(alpha_bar, kept):
    one = alpha_bar[1:] / alpha_bar[:-1]
    return torch.stack([1 - one[i:j].prod() for i, j in zip([0, *kept[:-1]], kept, strict=True)])


def least_loss_by_regression(width, alpha, sigma):
    """The best slope times x_t, for each target."""
    x = torch.tensor([alpha * width, sigma], dtype=torch.float64)
    targets = torch.tensor([[0., 1.], [width, 0.], [-sigma * width, alpha]], dtype=torch.float64)
    return tuple((targets - (targets @ x / (x @ x))[:, None] * x).square().sum(1))


def path_by_the_mean_guess(denoise, x, times, schedule):
    for t, s in zip(times[:-1], times[1:], strict=True):
        x0 = denoise(x, t)
        there = samplers.ddim_step(x, x0, schedule(t), schedule(s))
        x = samplers.ddim_step(x, (x0 + denoise(there, s)) / 2, schedule(t), schedule(s))
        yield x, x0


def path_by_the_middle(denoise, x, times, schedule):
    for t, s in zip(times[:-1], times[1:], strict=True):
        half = (t + s) / 2
        x0 = denoise(samplers.ddim_step(x, denoise(x, t), schedule(t), schedule(half)), half)
        x = samplers.ddim_step(x, x0, schedule(t), schedule(s))
        yield x, x0


@pytest.mark.parametrize(("exercise", "answer"), [
    (ch05.q1, in_one_go_by_recursion), (ch05.q2, step_back_by_correcting), (ch05.q3, picture_and_noise_by_solving),
    (ch05.q4, fewer_steps_by_multiplying), (ch05.q5, least_loss_by_regression), (ch05.q6, path_by_the_mean_guess),
    (ch05.q6, path_by_the_middle), (ch05.q6, samplers.heun_path), (ch05.q6, samplers.dpmpp_path)])
def test_another_road_of_chapter_5_is_right_as_well(exercise, answer):
    assert exercise.judge(answer).right, exercise.judge(answer).says


def multiplications_matrix_by_matrix(side, c):
    """Every matrix product is rows x middle x columns."""
    n = side * side
    return sum(rows * middle * columns for rows, middle, columns in (
        (n, 9 * c, c), *[(n, c, c)] * 4, (n, c, n), (n, n, c)))


def standardised_channel_by_channel(codes):
    mean = torch.stack([channel.mean() for channel in codes.unbind(1)])[None, :, None, None]
    std = torch.stack([channel.var(correction=0).sqrt() for channel in codes.unbind(1)])[None, :, None, None]
    return [codes.sub(mean).div(std), mean, std]


def clip_loss_by_cross_entropy(u, w, tau):
    table, right = tau * F.normalize(w) @ F.normalize(u).T, torch.arange(len(u))
    return (F.cross_entropy(table, right) + F.cross_entropy(table.T, right)) / 2


def attention_by_pytorch(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])


def attention_by_a_large_penalty(q, k, v, mask):
    scores = torch.einsum("bpd,bwd->bpw", q / q.shape[2] ** .5, k) - 1e9 * (~mask)[:, None]
    a = (scores - scores.amax(2, keepdim=True)).exp()
    return torch.einsum("bpw,bwd->bpd", a / a.sum(2, keepdim=True), v)


def start_by_the_library(z0, strength, steps, noise):
    """At least two steps, as in latent.TextToImage.edit."""
    times = strength * schedules.times(max(min(2, steps), round(strength * steps)))
    return schedules.add_noise(schedules.trigonometric, z0, times[0], noise), times


def compose_by_weights(a, b, none, scale):
    return lambda z, t: scale * (a(z, t) + b(z, t)) + (1 - 2 * scale) * none(z, t)


def compose_by_guidance(a, b, none, scale):
    one, other = (guidance.cfg(guess, none, scale) for guess in (a, b))
    return lambda z, t: one(z, t) + other(z, t) - none(z, t)


@pytest.mark.parametrize(("exercise", "answer"), [
    (ch06.q1, multiplications_matrix_by_matrix), (ch06.q2, standardised_channel_by_channel),
    (ch06.q3, clip_loss_by_cross_entropy), (ch06.q4, attention_by_pytorch), (ch06.q4, attention_by_a_large_penalty),
    (ch06.q5, start_by_the_library), (ch06.q6, compose_by_weights), (ch06.q6, compose_by_guidance)])
def test_another_road_of_chapter_6_is_right_as_well(exercise, answer):
    assert exercise.judge(answer).right, exercise.judge(answer).says


def push_by_the_score(x0, slope, level, scale):
    """Back to x_t's score, and forth by Tweedie's formula."""
    alpha, sigma = level
    x = torch.zeros_like(x0)
    score = (alpha[:, None] * x0 - x) / sigma[:, None] ** 2 + scale * slope
    return (x + sigma[:, None] ** 2 * score) / alpha[:, None]


def fits_by_the_largest(log_p, fits):
    rows = []
    for row in log_p:
        top, inside = row.amax(), row[fits]
        rows.append((inside - inside.amax()).exp().sum().log() + inside.amax() - ((row - top).exp().sum().log() + top))
    return torch.stack(rows)


def rescaled_row_by_row(guided, positive, share):
    return torch.stack([torch.lerp(g, g * p.std() / g.std(), share) for g, p in zip(guided, positive, strict=True)])


def noised_again_by_the_library(x, at, to, eps):
    return to[0] / at[0] * x + samplers.added_variance(to, at).sqrt() * eps


def measured_by_torch(x0, v, y, r):
    return torch.distributions.Normal(x0.mean(1), (v / x0.shape[1] + r ** 2) ** .5).log_prob(y)


@pytest.mark.parametrize(("exercise", "answer"), [
    (ch07.q1, lambda eps_y, eps_none, w: torch.lerp(eps_none, eps_y, 1 + w)), (ch07.q2, push_by_the_score),
    (ch07.q3, fits_by_the_largest), (ch07.q4, rescaled_row_by_row), (ch07.q5, noised_again_by_the_library),
    (ch07.q6, measured_by_torch)])
def test_another_road_of_chapter_7_is_right_as_well(exercise, answer):
    assert exercise.judge(answer).right, exercise.judge(answer).says


@pytest.mark.parametrize("seed", range(20))
def test_honest_dice_are_never_refused(seed):
    """The check of random draws must not depend on luck: other dice, same verdict."""
    def other_dice(conditional, length, n, generator):
        return ch00.sample_chain(conditional, length, n, data.rng("other", seed, int(generator.initial_seed())))
    assert ch00.q5.judge(other_dice).right

    def other_points(model, n, generator):
        return ch01.draw(model, n, data.rng("other", seed, int(generator.initial_seed())))
    assert ch01.q4.judge(other_points).right


# --- chapter 0: the usual mistakes ------------------------------------------------------------------------------------

def fits(caption, world=EVERY_SCENE):
    return sum(captions.matches(scene, caption) for scene in world)


def bare_cost(codes, p, logarithm=torch.log2):
    """Weighted entropies of pixels and of pictures, with whatever logarithm."""
    def entropy(values):
        which = values.unique(dim=0, return_inverse=True)[1]
        total = torch.zeros(len(values)).index_add(0, which, p)
        total = total[total > 0]
        return float(-(total * logarithm(total)).sum())
    return sum(map(entropy, codes.T)), entropy(codes)


def cost_of_zeros(codes, p):
    pixels = sum(-(q * q.log2()).sum() for q in (
        torch.zeros(len(p)).index_add(0, c.unique(return_inverse=True)[1], p) for c in codes.T))
    return pixels - bare_cost(codes, p)[1]


def cost_of_rows_counted_apart(codes, p):
    q = p[p > 0]
    return bare_cost(codes, p)[0] + float((q * q.log2()).sum())


def greedy(conditional, length, n, generator):
    x = torch.zeros(n, 0, dtype=torch.long)
    for _ in range(length):
        x = torch.cat([x, conditional(x).argmax(1, keepdim=True)], 1)
    return x


def chain_with(past=lambda x: x, shared=False, generator_of=lambda g: g):
    """The solution with one thing changed."""
    def sample_chain(conditional, length, n, generator):
        x = torch.zeros(n, 0, dtype=torch.long)
        for _ in range(length):
            p = conditional(past(x))
            die = torch.multinomial(p[:1] if shared else p, 1, generator=generator_of(generator))
            x = torch.cat([x, die.expand(n, 1)], 1)
        return x
    return sample_chain


def uniform_beginning(conditional, length, n, generator):
    x = torch.randint(3, (n, 1), generator=generator)
    for _ in range(length - 1):
        x = torch.cat([x, torch.multinomial(conditional(x), 1, generator=generator)], 1)
    return x


def one_picture_at_a_time(conditional, length, n, generator):
    return torch.cat([ch00.sample_chain(conditional, length, 1, generator) for _ in range(n)])


def pixels_from_their_marginals(conditional, length, n, generator):
    """Right alone, wrong together: each column of honest pictures is shuffled."""
    x = ch00.sample_chain(conditional, length, n, generator)
    return torch.stack([column[torch.randperm(n, generator=generator)] for column in x.T], 1)


def dice_with(noise=lambda z: z, caption_of=lambda caption: caption):
    """The solution with its noise or its caption tampered with."""
    def one_die_per_fact(caption, z):
        return ch00.one_die_per_fact(caption_of(caption), noise(z))
    return one_die_per_fact


def list_with_one_die(caption, z):
    right = [i for i, scene in enumerate(EVERY_SCENE) if captions.matches(scene, caption)]
    pick = (torch.special.ndtr(z[:, 0].double()) * len(right)).long().clamp(max=len(right) - 1)
    return scenes.render(scenes.single("all")[torch.tensor(right)[pick]], 16)


def uniform_by_sigmoid(z):
    return torch.special.ndtri(torch.sigmoid(z).clamp(1e-6, 1 - 1e-6))


def rounded_to_the_nearest(z):
    """The first and the last choice of each fact come half as often as the others."""
    choices = torch.tensor([4, 6, 8, 2, 9])
    nearest = (torch.special.ndtr(z) * (choices - 1)).round()
    return torch.special.ndtri((nearest + .5) / choices)


def neighbours_turn_together(z):
    """The die of the colour also turns the shape's."""
    mixed = torch.special.ndtri((torch.special.ndtr(z[:, 1].double()) + torch.special.ndtr(z[:, 2].double())) % 1)
    return torch.stack([z[:, 0], mixed.float(), *z[:, 2:].T], 1)


def ghost(caption, z):
    return scenes.render(scenes.single("all")[:72], 16).mean(0, keepdim=True).expand(len(z), -1, -1, -1)


def ring_with(formula):
    return lambda u, v, a, b: formula((u ** 2 + v ** 2).sqrt(), a, b)


# --- chapter 1: the usual mistakes ------------------------------------------------------------------------------------

def size_with(formula):
    """A count of a mixture's numbers, of k, d and the covariance's own number c."""
    def mixture_size(k, d, kind, rank):
        return formula(k, d, {"full": d * (d + 1) // 2, "diag": d, "spherical": 1,
                              "lowrank": d + d * rank - rank * (rank - 1) // 2}[kind])
    return mixture_size


def square_covariance(k, d, kind, rank):
    return ch01.mixture_size(k, d, kind, rank) + (k * d * (d - 1) // 2 if kind == "full" else 0)


def turned_columns(k, d, kind, rank):
    return ch01.mixture_size(k, d, kind, rank) + (k * rank * (rank - 1) // 2 if kind == "lowrank" else 0)


def m_step_with(centre=lambda x, means: means, divide=lambda r, x: r.sum(0)):
    """The solution with one thing changed."""
    def m_step(x, r):
        n = divide(r, x)
        means = r.T @ x / n[:, None]
        squares = (x[:, None] - centre(x, means)).square()
        return r.sum(0) / len(x), means, (r[..., None] * squares).sum(0) / n[:, None]
    return m_step


def draw_with(root=torch.linalg.cholesky, weights=lambda w: w, means=lambda m: m, generator_of=lambda g: g):
    """The solution with one thing changed."""
    def draw(model, n, generator):
        k = torch.multinomial(weights(model.weights_), n, replacement=True, generator=generator_of(generator))
        z = torch.randn(n, 2, generator=generator_of(generator), dtype=torch.float64)
        return means(model.means_)[k] + (root(model.covariances_)[k] @ z[:, :, None])[:, :, 0]
    return draw


def draw_averages(model, n, generator):
    """The weighted sum of a point of each component: no mixture at all."""
    z = torch.randn(n, 3, 2, generator=generator, dtype=torch.float64)
    points = model.means_ + torch.einsum("kij,nkj->nki", torch.linalg.cholesky(model.covariances_), z)
    return torch.einsum("k,nki->ni", model.weights_, points)


def one_noise_for_all(model, n, generator):
    k = torch.multinomial(model.weights_, n, replacement=True, generator=generator)
    return model.means_[k] + torch.randn(2, generator=generator, dtype=torch.float64)


def guess_with(variance=lambda a, s, std: a ** 2 * std ** 2 + s ** 2, gain=lambda a, s, std: a * std ** 2,
               scaled=lambda alpha, means: alpha * means):
    """The solution with one thing changed."""
    def best_guess(x, level, means, std):
        (alpha, sigma), v = level, variance(*level, std)
        r = (-torch.cdist(x, scaled(alpha, means)).square() / (2 * v)).softmax(1)
        middle = r @ means
        return middle + gain(alpha, sigma, std) / (alpha ** 2 * std ** 2 + sigma ** 2) * (x - alpha * middle)
    return best_guess


def guess_without_logarithms(x, level, means, std):
    alpha, sigma = level
    v = alpha ** 2 * std ** 2 + sigma ** 2
    density = (-torch.cdist(x, alpha * means).square() / (2 * v)).exp() / (2 * np.pi * v) ** (x.shape[1] / 2)
    middle = density / density.sum(1, keepdim=True) @ means
    return middle + alpha * std ** 2 / v * (x - alpha * middle)


def guess_the_nearest(x, level, means, std):
    return means[torch.cdist(x, level[0] * means).argmin(1)]


def fill_with(seen=lambda known: known, width=lambda std: std, kept=True):
    """The solution with one thing changed."""
    def fill_in(x, known, means, std):
        r = (-torch.cdist(x[:, seen(known)], means[:, seen(known)]).square() / (2 * width(std) ** 2)).softmax(1)
        return torch.where(known, x, r @ means) if kept else r @ means
    return fill_in


def zeros_and_shape(x, known, means, std):
    return torch.where(known, x, 0.)


# --- chapter 2: the usual mistakes ------------------------------------------------------------------------------------

def kl_with(formula, over=torch.sum):
    """A divergence of two Gaussians, number by number, then summed or not."""
    return lambda m1, v1, m2, v2: over(formula(m1, v1, m2, v2), 1)


def draw_code_with(width=torch.exp, shape=lambda mean: mean.shape, generator_of=lambda g: g):
    """The solution with one thing changed."""
    def draw_code(mean, log_std, generator):
        return mean + width(log_std) * torch.randn(shape(mean), generator=generator_of(generator), dtype=mean.dtype)
    return draw_code


def drawn_without_gradient(mean, log_std, generator):
    return torch.normal(mean.detach(), log_std.detach().exp(), generator=generator)


def output_with(log_q, weighted=lambda a, x: a.softmax(1) @ x):
    """The best output with other weights."""
    return lambda z, mean, std, x: weighted(log_q((z[:, None] - mean) / std, std), x)


def log_density(off, std):
    return (-.5 * off ** 2 - std.log()).sum(2)


# --- chapter 3: the usual mistakes ------------------------------------------------------------------------------------

def stretched(slope):
    """Exercise 1 with another slope of f."""
    def log_stretched(x, a, b):
        u = (x - b) / a
        return -torch.asinh(u) ** 2 / 2 - np.log(2 * np.pi) / 2 + slope(u, a)
    return log_stretched


def undone(second, log_det=lambda s: -s.sum(1), bound=True, of=lambda y: y.chunk(2, 1)[0]):
    """Exercise 2 with another second half, log-determinant, bound or input of the network."""
    def undo(y, net, m):
        a, b = y.chunk(2, 1)
        s, t = net(of(y)).chunk(2, 1)
        s = m * torch.tanh(s / m) if bound else s
        return torch.cat([a, second(b, s, t)], 1), log_det(s)
    return undo


def mixed_channels(how="ij,njhw->nihw", pixels=lambda x: x.shape[2] * x.shape[3], volume=None):
    """Exercise 3 with another product, number of pixels or volume."""
    def mix_channels(x, w):
        volume_of = volume or (lambda w: torch.linalg.slogdet(w).logabsdet)
        return torch.einsum(how, w, x), (pixels(x) * volume_of(w)).expand(len(x))
    return mix_channels


def curve(distribution=lambda u, p: (p * torch.special.ndtr(u)).sum(1), sign=1, power=False, width=True):
    """Exercise 6 with another distribution function or slope."""
    def to_normal(x, weights, means, stds):
        u = (x[:, None] - means) / stds
        z = torch.special.ndtri(distribution(u, weights).clamp(1e-12, 1 - 1e-12))
        log_p = (weights.log() - stds.log() * width - u * u / 2).logsumexp(1)
        slope = sign * (log_p + z * z / 2)
        return z, slope.exp() if power else slope
    return to_normal


def judge_with(share=lambda s: s, sign=1, last=torch.sigmoid):
    """The solution with one thing changed."""
    return lambda log_p, log_q, s: last(sign * (log_p - log_q) + np.log(share(s)) - np.log(1 - share(s)))


def judge_by_densities(log_p, log_q, share):
    return share * log_p.exp() / (share * log_p.exp() + (1 - share) * log_q.exp())


def kl(p, q):
    return (p * (p / q).log()).sum()


def fine_with(length=lambda slope: slope.flatten(1).norm(dim=1), at=lambda real, fake, u: u * real + (1 - u) * fake,
              charge=lambda s: (s - 1).square().mean(), keep=True):
    """The solution with one thing changed."""
    def fine(d, real, fake, u):
        x = at(real, fake, u[:, None, None, None]).detach().requires_grad_()
        slope, = torch.autograd.grad(d(x).sum(), x, create_graph=keep)
        return charge(length(slope))
    return fine


def cut_to_the_shorter(x, y):
    n = min(len(x), len(y))
    return (x.sort()[0][:n] - y.sort()[0][:n]).abs().mean()


def players_with(fool=lambda on_fake: -logsigmoid(on_fake).mean(), sign=1, labels=1, order=1):
    """The solution with one thing changed."""
    def two_gradients(g, d, real, z):
        loss_d = -logsigmoid(labels * d(real)).mean() - logsigmoid(-labels * d(g(z))).mean()
        of_d = [sign * p for p in torch.autograd.grad(loss_d, list(d.parameters()))]
        of_g = list(torch.autograd.grad(fool(d(g(z))), list(g.parameters())))
        return (of_d, of_g)[::order]
    return two_gradients


def players_that_litter(g, d, real, z):
    (-logsigmoid(d(real)).mean() - logsigmoid(-d(g(z).detach())).mean()).backward()
    of_d = [p.grad.clone() for p in d.parameters()]
    (-logsigmoid(d(g(z))).mean()).backward()
    return of_d, [p.grad for p in g.parameters()]


def players_frozen(g, d, real, z):
    of_d, of_g = ch04.two_gradients(g, d, real, z)
    d.requires_grad_(False)
    return of_d, of_g


def players_that_move(g, d, real, z):
    of_d, of_g = ch04.two_gradients(g, d, real, z)
    with torch.no_grad():
        for p, slope in zip(d.parameters(), of_d, strict=True):
            p -= .1 * slope
    return of_d, of_g


def half_a_loss(g, d, real, z):
    of_d, of_g = ch04.two_gradients(g, d, real, z)
    return list(torch.autograd.grad(-logsigmoid(d(real)).mean(), list(d.parameters()))), of_g


def pairs_of(draws):
    counts = draws.unique(return_counts=True)[1]
    return float((counts * (counts - 1) / 2).sum())


# --- chapter 5: the usual mistakes ------------------------------------------------------------------------------------

def one_go(left=lambda beta: (1 - beta).cumprod(0), alpha=lambda left: left.sqrt(),
           sigma=lambda left, beta: (1 - left).sqrt()):
    """The solution with one thing changed; left is alpha_bar."""
    return lambda beta: (alpha(left(beta)), sigma(left(beta), beta))


def one_go_over_the_input(beta):
    left = beta.neg_().add_(1).cumprod(0)
    return left.sqrt(), (1 - left).sqrt()


def one_late(beta):
    return torch.cat([torch.ones(1), (1 - beta).cumprod(0)[:-1]])


def back_with(var=lambda a, at, to: at[1] ** 2 - a ** 2 * to[1] ** 2, seen=1., guessed=1.,
              std=lambda var, at, to: var.sqrt() * to[1] / at[1]):
    """The solution with one thing changed."""
    def step_back(x, x0, at, to):
        a = at[0] / to[0]
        v = var(a, at, to)
        mean = seen * a * (to[1] / at[1]) ** 2 * x + guessed * to[0] * v / at[1] ** 2 * x0
        return mean, std(v, at, to)
    return step_back


def back_by_inverse_variances(x, x0, at, to):
    a = at[0] / to[0]
    var = at[1] ** 2 - a ** 2 * to[1] ** 2
    left = 1 / (a ** 2 / var + 1 / to[1] ** 2)
    return left * (a * x / var + to[0] * x0 / to[1] ** 2), left.sqrt()


def apart_with(square=lambda a, s: a ** 2 + s ** 2, sign=1, shape=(-1, 1, 1, 1), order=1):
    """The solution with one thing changed."""
    def picture_and_noise(x, v, alpha, sigma):
        a, s = alpha.reshape(shape), sigma.reshape(shape)
        return ((a * x - sign * s * v) / square(a, s), (s * x + sign * a * v) / square(a, s))[::order]
    return picture_and_noise


def apart_by_alpha(x, v, alpha, sigma):
    """eps first, and then what is left of x."""
    a, s = alpha[:, None, None, None], sigma[:, None, None, None]
    eps = (s * x + a * v) / (a ** 2 + s ** 2)
    return (x - s * eps) / a, eps


def spans_of(alpha_bar, kept):
    """The betas from one kept step to the next."""
    beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return [beta[i:j] for i, j in zip([0, *kept], kept, strict=False)]


def loss_with(width=lambda w: w, parts=lambda eps, x0, v, level: (eps, x0, v)):
    """The solution with another width, or with its parts changed."""
    return lambda w, a, s: parts(*ch05.least_loss(width(w), a, s), (w, a, s))


def loss_by_sigma(w, a, s):
    """All from the loss for x0."""
    x0 = w ** 2 * s ** 2 / (a ** 2 * w ** 2 + s ** 2)
    return a ** 2 / s ** 2 * x0, x0, (a ** 2 + s ** 2) ** 2 / s ** 2 * x0


def heun_to_the_end(denoise, x, times, schedule):
    """Two slopes in the last step as well."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        at, to = schedule(t), schedule(s)
        x0 = denoise(x, t)
        there = samplers.ddim_step(x, x0, at, to)
        v = (samplers.slope(x, x0, at) + samplers.slope(there, denoise(there, s), to)) / 2
        turn = torch.atan2(to[1], to[0]) - torch.atan2(at[1], at[0])
        x = torch.hypot(*to) * (x / torch.hypot(*at) + turn * v)
        yield x, x0


def two_guesses_at_one_place(denoise, x, times, schedule):
    """The second guess is asked for time s, but where x still is."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        x0 = (denoise(x, t) + denoise(x, s)) / 2 if s > 0 else denoise(x, t)
        x = samplers.ddim_step(x, x0, schedule(t), schedule(s))
        yield x, x0


def path_written_over(denoise, x, times, schedule):
    for there, x0 in samplers.heun_path(denoise, x, times, schedule):
        x.copy_(there)
        yield x, x0


def path_with_a_third_guess(denoise, x, times, schedule):
    before = x
    for (there, x0), t in zip(samplers.heun_path(denoise, x, times, schedule), times[:-1], strict=True):
        yield there, (x0 + denoise(before, t)) / 2
        before = there


def path_beyond_the_list(denoise, x, times, schedule):
    for k in range(len(times)):
        x0 = denoise(x, times[k])
        x = samplers.ddim_step(x, x0, schedule(times[k]), schedule(times[k + 1]))
        yield x, x0


def path_before_each_step(denoise, x, times, schedule):
    for there, x0 in samplers.heun_path(denoise, x, times, schedule):
        yield x, x0
        x = there


# --- chapter 6: the usual mistakes ------------------------------------------------------------------------------------

def costs_with(kernel=9, matrices=4, meets=2, channels=lambda c: c ** 2, of=lambda n: (n, n ** 2)):
    """The solution with one thing changed; of: how often the layers work at a place, and pairs meet."""
    def multiplications(side, c):
        each, pairs = of(side ** 2)
        return (kernel * channels(c) + matrices * c ** 2) * each + meets * c * pairs
    return multiplications


def codes_with(over=(0, 2, 3), width=lambda v, over: v.std(over, keepdim=True), mean=lambda v, over: v.mean(
        over, keepdim=True), gives=lambda z, mean, std: (z, mean, std)):
    """The solution with one thing changed."""
    def standardised(codes):
        m, s = mean(codes, over), width(codes, over)
        return gives((codes - m) / s, m, s)
    return standardised


def codes_by_squares(codes):
    mean = codes.mean((0, 2, 3), keepdim=True)
    std = ((codes ** 2).mean((0, 2, 3), keepdim=True) - mean ** 2).clamp(min=1e-3).sqrt()
    return (codes - mean) / std, mean, std


def codes_written_over(codes):
    z, mean, std = ch06.standardised(codes)
    return codes.copy_(z), mean, std


def quiz_with(unit=F.normalize, table=lambda u, w, tau: tau * u @ w.T, mean=lambda rows, columns: (rows + columns) / 2):
    """The solution with one thing changed; rows and columns are the two cross-entropies."""
    def clip_loss(u, w, tau):
        scores, right = table(unit(u), unit(w), tau), torch.arange(len(u))
        return mean(F.cross_entropy(scores, right), F.cross_entropy(scores.T, right))
    return clip_loss


def quiz_by_exponentials(u, w, tau):
    e = (tau * F.normalize(u) @ F.normalize(w).T).exp()
    return -((e.diagonal() / e.sum(1)).log() + (e.diagonal() / e.sum(0)).log()).mean() / 2


def quiz_without_the_right_one(u, w, tau):
    scores = tau * F.normalize(u) @ F.normalize(w).T
    others = scores.masked_fill(torch.eye(len(u), dtype=torch.bool), -torch.inf)
    return ((others.logsumexp(0) + others.logsumexp(1)) / 2 - scores.diagonal()).mean()


def hears_with(root=lambda q, k, v: q.shape[-1] ** .5, weights=lambda scores, real: scores.masked_fill(
        ~real, -torch.inf).softmax(-1)):
    """The solution with one thing changed; real is the mask, [b, 1, words]."""
    def cross_attention(q, k, v, mask):
        return weights(q @ k.transpose(1, 2) / root(q, k, v), mask[:, None]) @ v
    return cross_attention


def hears_by_exponentials(scores, real):
    a = scores.exp() * real
    return a / a.sum(-1, keepdim=True)


def edit_with(alpha=lambda t: np.cos(np.pi / 2 * t), sigma=lambda t: np.sin(np.pi / 2 * t),
              times=lambda t, n, steps: torch.linspace(t, 0, n + 1), least=1, gives=lambda z_t, times: (z_t, times)):
    """The solution with one thing changed; n is the share of the steps."""
    def start_of_edit(z0, strength, steps, noise):
        n = max(least, round(strength * steps))
        return gives(alpha(strength) * z0 + sigma(strength) * noise, times(strength, n, steps).double())
    return start_of_edit


def composes(mix):
    """A denoiser by what it makes of three guesses and the scale."""
    def compose(a, b, none, scale):
        return lambda z, t: mix(a(z, t), b(z, t), none(z, t), scale)
    return compose


def composes_one_on_the_other(a, b, none, scale):
    """The second caption, guided away from the first."""
    return guidance.cfg(b, guidance.cfg(a, none, scale), scale)


def composes_once(a, b, none, scale):
    """Guesses in place of a function."""
    z, t = torch.zeros(1, 2).double(), torch.tensor(.5)
    return composes(lambda a, b, none, s: none + s * (a + b - 2 * none))(a, b, none, scale)(z, t)


def pushed_by(factor):
    """Another factor before the slope."""
    return lambda x0, slope, level, scale: x0 + scale * factor(*level)[:, None] * slope


def loud_by(ratio):
    """Another factor from the two standard deviations."""
    def rescaled(guided, positive, share):
        wanted, found = (x.flatten(1).std(1).reshape(-1, *[1] * (x.ndim - 1)) for x in (positive, guided))
        return (1 - share + share * ratio(wanted, found)) * guided
    return rescaled


def quiet_around_the_mean(guided, positive, share):
    """The mean stays, what is around it shrinks."""
    mean = guided.flatten(1).mean(1).reshape(-1, *[1] * (guided.ndim - 1))
    return ch07.rescaled(guided - mean, positive, share) + mean


def up_with(fresh=lambda k, s, u: (u ** 2 - k ** 2 * s ** 2) ** .5, kept=lambda a, b: b / a):
    """RePaint's step up with one part done otherwise; fresh takes the true ratio of the alphas."""
    return lambda x, at, to, eps: kept(at[0], to[0]) * x + fresh(to[0] / at[0], at[1], to[1]) * eps


def measured_with(spread):
    """Another variance of y."""
    def log_measured(x0, v, y, r):
        wide = torch.as_tensor(spread(v, x0.shape[1], r), dtype=torch.float64)
        return -(y - x0.mean(1)) ** 2 / (2 * wide) - (2 * np.pi * wide).log() / 2
    return log_measured


# --- chapter 8: the usual mistakes ------------------------------------------------------------------------------------

def merged_with(scatter=lambda c, n: (n - 1) * c, gap=lambda n, k: n * k / (n + k), over=lambda n: n - 1,
                mean=lambda n, m, k, u: (n * m + k * u) / (n + k), gives=lambda n, m, c: (n, m, c)):
    """The merging of moments with one part done otherwise."""
    def merged(a, b):
        (n, m, c), (k, u, w) = a, b
        total = scatter(c, n) + scatter(w, k) + gap(n, k) * torch.outer(m - u, m - u)
        return gives(n + k, mean(n, m, k, u), total / over(n + k))
    return merged


def fair_with(within=lambda k: (k.sum() - k.trace()) / (len(k) * (len(k) - 1)), between=-2.):
    """The kernel distance with one part done otherwise."""
    return lambda x, y, xy: within(x) + within(y) + between * xy.mean()


def recall_with(around=lambda real, made: made, asked=lambda real, made: real, nearest=lambda k: k + 1,
                share=lambda inside: inside.any(1).double().mean()):
    """Recall with one part done otherwise."""
    def recall(real, made, k):
        centres = around(real, made)
        reach = torch.cdist(centres, centres).kthvalue(nearest(k), dim=1).values
        return share(torch.cdist(asked(real, made), centres) <= reach)
    return recall


def recall_by_sorting(real, made, k):
    """Another road: balls one by one."""
    inside = torch.zeros(len(real), dtype=torch.bool)
    for centre in made:
        reach = (made - centre).norm(dim=1).sort().values[k]
        inside |= (real - centre).norm(dim=1) <= reach
    return float(inside.double().mean())


def fair_by_pairs(x, y, xy):
    """Another road: pairs above the diagonal."""
    upper = [k[torch.triu_indices(len(k), len(k), 1).unbind()].mean() for k in (x, y)]
    return sum(upper) - 2 * xy.mean()


def invisible_by_steps(x, eyes, most, steps):
    """Another road: the features of a picture are driven from where they were."""
    y = (x + 1e-3 * torch.randn(x.shape)).requires_grad_()
    here = eyes(x).detach()
    for _ in range(steps):
        uphill, = torch.autograd.grad((eyes(y) - here).sum(), y)
        y = (y.detach() + most / steps * uphill.sign()).requires_grad_()
    return y.detach().clamp(-1, 1)


@pytest.mark.parametrize(("exercise", "answer"), [
    (ch08.q1, lambda x, y: float(np.square(np.quantile(x, np.linspace(0, 1, len(x))) - np.sort(y.numpy())).mean())),
    (ch08.q3, lambda m1, v1, m2, v2: (m1 - m2).square().sum() + (v1 + v2 - 2 * (v1 * v2).sqrt()).sum()),
    (ch08.q4, fair_by_pairs), (ch08.q5, recall_by_sorting),
    (ch08.q6, lambda x, eyes: invisible_by_steps(x, eyes, .055, 3))])
def test_another_road_of_chapter_8_is_right_as_well(exercise, answer):
    assert exercise.judge(answer).right, exercise.judge(answer).says


MISTAKES = [
    (ch08.q1, "as they come", lambda x, y: (x - y).square().mean(), "sort both"),
    (ch08.q1, "a root", lambda x, y: ch08.carried(x, y).sqrt(), "not its root"),
    (ch08.q1, "the sum", lambda x, y: ch08.carried(x, y) * len(x), "not the sum"),
    (ch08.q1, "one backwards", lambda x, y: (x.sort().values - y.sort(descending=True)[0]).square().mean(), "dearest"),
    (ch08.q1, "lengths", lambda x, y: (x.sort().values - y.sort().values).abs().mean(), "not its length"),
    (ch08.q1, "means", lambda x, y: (x.mean() - y.mean()) ** 2, "means alone"),
    (ch08.q1, "as if normal", lambda x, y: (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2, "normal densities"),
    (ch08.q1, "each grain", lambda x, y: (x.sort().values - y.sort().values).square(), "one number"),
    (ch08.q1, "the first four", lambda x, y: ch08.carried(x[:4], y[:4]), "about 10"),

    (ch08.q2, "without the gap", merged_with(gap=lambda n, k: 0.), "spreads the whole"),
    (ch08.q2, "scatters by n, without the gap", merged_with(scatter=lambda c, n: n * c, gap=lambda n, k: 0.,
                                                            over=lambda n: n), "which spreads"),
    (ch08.q2, "a bare gap", merged_with(gap=lambda n, k: 1.), "n_a n_b"),
    (ch08.q2, "covariances as scatters", merged_with(scatter=lambda c, n: n * c), "n - 1 first"),
    (ch08.q2, "over n", merged_with(over=lambda n: n), "over n - 1"),
    (ch08.q2, "mean of means", merged_with(mean=lambda n, m, k, u: (m + u) / 2), "alike"),
    (ch08.q2, "weights exchanged", merged_with(mean=lambda n, m, k, u: (k * m + n * u) / (n + k)), "exchanged"),
    (ch08.q2, "covariance alone", merged_with(gives=lambda n, m, c: c), "tuple (n, mean, covariance)"),
    (ch08.q2, "count of one", merged_with(gives=lambda n, m, c: (n - 20, m, c)), "should be 27"),

    (ch08.q3, "a quotient", lambda m1, v1, m2, v2: ((m1 - m2) ** 2 + v1 * (1 - (v2 / v1).sqrt()) ** 2).sum(), "finite"),
    (ch08.q3, "no means", lambda m1, v1, m2, v2: (v1.sqrt() - v2.sqrt()).square().sum(), "means are missing"),
    (ch08.q3, "no variances", lambda m1, v1, m2, v2: (m1 - m2).square().sum(), "variances are missing"),
    (ch08.q3, "a root", lambda *parts: ch08.frechet_diagonal(*parts).sqrt(), "no root at the end"),
    (ch08.q3, "variances", lambda m1, v1, m2, v2: ((m1 - m2) ** 2 + (v1 - v2) ** 2).sum(), "standard deviations"),
    (ch08.q3, "product without root", lambda m1, v1, m2, v2: ((m1 - m2) ** 2 + v1 + v2 - 2 * v1 * v2).sum(), "root"),
    (ch08.q3, "the mean", lambda *parts: ch08.frechet_diagonal(*parts) / len(parts[0]), "not the mean"),
    (ch08.q3, "summed, then squared", lambda m1, v1, m2, v2: (m1 - m2).sum() ** 2 + (
        v1.sqrt() - v2.sqrt()).square().sum(), "squared first"),
    (ch08.q3, "cross term once", lambda m1, v1, m2, v2: ((m1 - m2) ** 2 + v1 + v2 - (v1 * v2).sqrt()).sum(), "of 2"),

    (ch08.q4, "with itself", fair_with(within=lambda k: k.mean()), "no pair"),
    (ch08.q4, "all pairs counted", fair_with(within=lambda k: (k.sum() - k.trace()) / len(k) ** 2), "n (n - 1)"),
    (ch08.q4, "between once", fair_with(between=-1.), "factor of 2"),
    (ch08.q4, "added", fair_with(between=2.), "subtracted"),
    (ch08.q4, "sums", lambda x, y, xy: x.sum() - x.trace() + y.sum() - y.trace() - 2 * xy.sum(), "Take means"),
    (ch08.q4, "always 4 and 6", lambda x, y, xy: (x.sum() - x.trace()) / 12 + (y.sum() - y.trace()) / 30
     - 2 * xy.mean(), "on average"),
    (ch08.q4, "x alone", lambda x, y, xy: (x.sum() - x.trace()) / 12 - xy.mean(), "should be"),

    (ch08.q5, "precision", lambda real, made, k: ch08.recall(made, real, k), "exchange the roles"),
    (ch08.q5, "itself counted", recall_with(nearest=lambda k: k), "its own nearest"),
    (ch08.q5, "one too far", recall_with(nearest=lambda k: k + 2), "too far"),
    (ch08.q5, "coverage", recall_with(around=lambda real, made: real, asked=lambda real, made: made,
                                      share=lambda inside: inside.any(0).double().mean()), "coverage"),
    (ch08.q5, "the mean of balls", recall_with(share=lambda inside: inside.double().mean()), "should be"),
    (ch08.q5, "a row each", recall_with(share=lambda inside: inside.any(1)), "one number"),

    (ch08.q6, "nothing", lambda x, eyes: x, "rise by 3"),
    (ch08.q6, "weak noise", lambda x, eyes: (x + .06 * torch.randn(x.shape)).clamp(-1, 1), "overlook what is random"),
    (ch08.q6, "too loud", lambda x, eyes: (x + .8 * torch.randn(x.shape)).clamp(-1, 1), "same scene"),
    (ch08.q6, "beyond", lambda x, eyes: x + .06, "beyond -1 and 1"),
    (ch08.q6, "mirrored", lambda x, eyes: x.flip(3), "same scene"),
    (ch08.q6, "side 16", lambda x, eyes: F.avg_pool2d(x, 2), "shape"),
    (ch08.q6, "one tiny step", lambda x, eyes: invisible_by_steps(x, eyes, .005, 1), "rise by 3"),
    (ch08.q6, "too far", lambda x, eyes: invisible_by_steps(x, eyes, .4, 4), "same scene"),

    (ch06.q1, "additions too", lambda side, c: 2 * ch06.multiplications(side, c), "addition"),
    (ch06.q1, "three matrices", costs_with(matrices=3), "four matrices"),
    (ch06.q1, "weights, but no mean", costs_with(meets=1), "twice"),
    (ch06.q1, "a kernel of three", costs_with(kernel=3), "nine"),
    (ch06.q1, "depthwise", costs_with(channels=lambda c: c), "hears all"),
    (ch06.q1, "convolution only", costs_with(matrices=0, meets=0), "attention is missing"),
    (ch06.q1, "attention only", costs_with(kernel=0), "convolution is missing"),
    (ch06.q1, "no squares of c", costs_with(channels=lambda c: 2 * c), "should be"),
    (ch06.q1, "the side for the places", costs_with(of=lambda n: (n ** .5, n)), "side²"),
    (ch06.q1, "no pairs", costs_with(of=lambda n: (n, n)), "pairs"),
    (ch06.q1, "all in pairs", costs_with(of=lambda n: (n ** 2, n ** 2)), "once a place"),

    (ch06.q2, "one for all channels", codes_with(over=(0, 1, 2, 3)), "each channel"),
    (ch06.q2, "one number, no tensor", codes_with(width=lambda v, over: float(v.std())), "each channel"),
    (ch06.q2, "by picture", codes_with(over=(2, 3)), "All pictures"),
    (ch06.q2, "by place", codes_with(over=(0,)), "average over them"),
    (ch06.q2, "channels in place of places", codes_with(over=(0, 1)), "before the places"),
    (ch06.q2, "variance", codes_with(width=lambda v, over: v.var(over, keepdim=True)), "the std is its root"),
    (ch06.q2, "mean left in", codes_with(gives=lambda z, mean, std: (z + mean / std, mean, std)), "mean away"),
    (ch06.q2, "without its mean", codes_with(width=lambda v, over: v.square().mean(over, keepdim=True).sqrt()), "stds"),
    (ch06.q2, "z only", codes_with(gives=lambda z, mean, std: z), "tuple (z, mean, std)"),
    (ch06.q2, "gives the variance", codes_with(gives=lambda z, mean, std: (z, mean, std ** 2)), "z * std + mean"),
    (ch06.q2, "gives the factor", codes_with(gives=lambda z, mean, std: (z, mean, 1 / std)), "z * std + mean"),
    (ch06.q2, "std before mean", codes_with(gives=lambda z, mean, std: (z, std, mean)), "z * std + mean"),
    (ch06.q2, "along the width", codes_with(gives=lambda z, mean, std: (z, mean.flatten(), std.flatten())), "width"),
    (ch06.q2, "by squares", codes_by_squares, "digits"),
    (ch06.q2, "over the input", codes_written_over, "have changed"),

    (ch06.q3, "rows only", quiz_with(mean=lambda rows, columns: rows), "rows alone"),
    (ch06.q3, "columns only", quiz_with(mean=lambda rows, columns: columns), "columns alone"),
    (ch06.q3, "both added", quiz_with(mean=lambda rows, columns: rows + columns), "one half"),
    (ch06.q3, "the sum", lambda u, w, tau: len(u) * ch06.clip_loss(u, w, tau), "not the sum"),
    (ch06.q3, "the sign", lambda u, w, tau: -ch06.clip_loss(u, w, tau), "sign"),
    (ch06.q3, "not normalised", quiz_with(unit=lambda v: v), "length 1"),
    (ch06.q3, "normalised across", quiz_with(unit=lambda v: F.normalize(v, dim=0)), "axis 1"),
    (ch06.q3, "divided", quiz_with(table=lambda u, w, tau: u @ w.T / tau), "temperature"),
    (ch06.q3, "no tau", quiz_with(table=lambda u, w, tau: u @ w.T), "Where is tau"),
    (ch06.q3, "distances", quiz_with(table=lambda u, w, tau: -tau * torch.cdist(u, w)), "should be"),
    (ch06.q3, "the right one left out", quiz_without_the_right_one, "among the others"),
    (ch06.q3, "exponentials", quiz_by_exponentials, "log_softmax"),
    (ch06.q3, "a loss each", lambda u, w, tau: torch.stack([ch06.clip_loss(u, w, tau)] * len(u)), "one number"),

    (ch06.q4, "along the places", hears_with(weights=lambda scores, real: scores.softmax(1)), "last axis"),
    (ch06.q4, "no scale", hears_with(root=lambda q, k, v: 1), "scale is missing"),
    (ch06.q4, "by d", hears_with(root=lambda q, k, v: q.shape[2]), "root of d"),
    (ch06.q4, "by the width of v", hears_with(root=lambda q, k, v: v.shape[2] ** .5), "not of v"),
    (ch06.q4, "by the words", hears_with(root=lambda q, k, v: k.shape[1] ** .5), "number of words"),
    (ch06.q4, "no softmax", hears_with(weights=lambda scores, real: scores), "should be"),
    (ch06.q4, "zeros", hears_with(weights=lambda scores, real: (scores * real).softmax(-1)), "e^0"),
    (ch06.q4, "after the softmax", hears_with(weights=lambda scores, real: scores.softmax(-1) * real), "adds up to 1"),
    (ch06.q4, "upside down", lambda q, k, v, mask: ch06.cross_attention(q, k, v, ~mask), "True where"),
    (ch06.q4, "no mask", hears_with(weights=lambda scores, real: scores.softmax(-1)), "no effect"),
    (ch06.q4, "a small penalty", hears_with(weights=lambda scores, real: (scores - 100. * ~real).softmax(-1)), "-inf"),
    (ch06.q4, "exponentials", hears_with(weights=hears_by_exponentials), "e^500"),
    (ch06.q4, "weights only", lambda q, k, v, mask: (q @ k.transpose(1, 2) / 2).softmax(-1), "shape"),

    (ch06.q5, "swapped", edit_with(lambda t: np.sin(np.pi / 2 * t), lambda t: np.cos(np.pi / 2 * t)), "swapped"),
    (ch06.q5, "straight", edit_with(lambda t: 1 - t, lambda t: t), "straight line"),
    (ch06.q5, "roots", edit_with(lambda t: (1 - t) ** .5, lambda t: t ** .5), "roots of t"),
    (ch06.q5, "half a turn", edit_with(lambda t: np.cos(np.pi * t), lambda t: np.sin(np.pi * t)), "quarter turn"),
    (ch06.q5, "noise as it is", edit_with(sigma=lambda t: 1.), "noise must be scaled"),
    (ch06.q5, "picture as it is", edit_with(alpha=lambda t: 1.), "picture must be scaled"),
    (ch06.q5, "from 1", edit_with(times=lambda t, n, steps: torch.linspace(1, 0, n + 1)), "not at 1"),
    (ch06.q5, "all steps", edit_with(times=lambda t, n, steps: torch.linspace(t, 0, steps + 1)), "are left"),
    (ch06.q5, "the whole list", edit_with(times=lambda t, n, steps: torch.linspace(1, 0, steps + 1)), "are left"),
    (ch06.q5, "a time short", edit_with(times=lambda t, n, steps: torch.linspace(t, 0, n)), "steps have"),
    (ch06.q5, "upwards", edit_with(times=lambda t, n, steps: torch.linspace(0, t, n + 1)), "goes down"),
    (ch06.q5, "no step", edit_with(least=0), "At least one step"),
    (ch06.q5, "only z_t", edit_with(gives=lambda z_t, times: z_t), "tuple (z_t, times)"),
    (ch06.q5, "times first", edit_with(gives=lambda z_t, times: (times, z_t)), "z_t has shape"),

    (ch06.q6, "the mean", composes(lambda a, b, none, s: none + s * ((a + b) / 2 - none)), "half"),
    (ch06.q6, "none counted twice", composes(lambda a, b, none, s: s * a + s * b), "counts twice"),
    (ch06.q6, "no ground", composes(lambda a, b, none, s: s * (a - none) + s * (b - none)), "must be added"),
    (ch06.q6, "the last one only", composes(lambda a, b, none, s: none + s * (b - none)), "last caption"),
    (ch06.q6, "the first one only", composes(lambda a, b, none, s: none + s * (a - none)), "first caption"),
    (ch06.q6, "one on the other", composes_one_on_the_other, "last caption"),
    (ch06.q6, "two grounds", composes(lambda a, b, none, s: 2 * none + s * (a - none) + s * (b - none)), "should be"),
    (ch06.q6, "no scale", composes(lambda a, b, none, s: a + b - none), "no effect"),
    (ch06.q6, "guesses scaled", composes(lambda a, b, none, s: s * (a + b - none)), "not the guesses"),
    (ch06.q6, "one difference scaled", composes(lambda a, b, none, s: none + s * (a - none) + b - none), "both diff"),
    (ch06.q6, "the larger one", composes(lambda a, b, none, s: none + s * torch.where(
        (a - none).abs() > (b - none).abs(), a - none, b - none)), "larger one alone"),
    (ch06.q6, "guesses, no function", composes_once, "a function (z, t)"),
    (ch06.q6, "added functions", lambda a, b, none, s: lambda z, t: none + s * (a - none), "gives back stops"),

    (ch05.q1, "no root", one_go(alpha=lambda left: left), "take its root"),
    (ch05.q1, "betas added", one_go(sigma=lambda left, beta: beta.cumsum(0).sqrt()), "shrinks"),
    (ch05.q1, "variance", one_go(sigma=lambda left, beta: 1 - left), "its root"),
    (ch05.q1, "one step late", one_go(left=one_late), "sqrt(1 - beta_1)"),
    (ch05.q1, "shares", one_go(sigma=lambda left, beta: 1 - left.sqrt()), "should be"),
    (ch05.q1, "the last step only", one_go(left=lambda beta: (1 - beta).prod()), "shape"),
    (ch05.q1, "alpha only", lambda beta: (1 - beta).cumprod(0).sqrt(), "tuple (alpha, sigma)"),
    (ch05.q1, "0 / 0", one_go(sigma=lambda left, beta: (left * (beta / left).cumsum(0)).sqrt()), "nothing of the"),
    (ch05.q1, "over the input", one_go_over_the_input, "have changed"),

    (ch05.q2, "large variance", back_with(std=lambda var, at, to: var.sqrt()), "sigma_s/sigma_t"),
    (ch05.q2, "variance", back_with(std=lambda var, at, to: var * (to[1] / at[1]) ** 2), "the std is its root"),
    (ch05.q2, "variance preserving", back_with(var=lambda a, at, to: 1 - a ** 2), "only where"),
    (ch05.q2, "at and to swapped", lambda x, x0, at, to: ch05.step_back(x, x0, to, at), "where we go"),
    (ch05.q2, "x_t dropped", back_with(seen=0.), "beside x0"),
    (ch05.q2, "x and x0 swapped", lambda x, x0, at, to: ch05.step_back(x0, x, at, to), "swapped"),
    (ch05.q2, "x0 as it is", lambda x, x0, at, to: (to[0] * x0, ch05.step_back(x, x0, at, to)[1]), "should be"),
    (ch05.q2, "no noise", back_with(std=lambda var, at, to: 0.), "the std is 0"),
    (ch05.q2, "mean only", lambda *a: ch05.step_back(*a)[0], "tuple (mean, std)"),
    (ch05.q2, "nan at the data", back_by_inverse_variances, "divide by nothing"),

    (ch05.q3, "not divided", apart_with(square=lambda a, s: 1), "need not be 1"),
    (ch05.q3, "sign", apart_with(sign=-1), "sign"),
    (ch05.q3, "swapped", apart_with(order=-1), "before eps"),
    (ch05.q3, "along the width", apart_with(shape=(1, 1, 1, -1)), "along the width"),
    (ch05.q3, "as it comes", apart_with(shape=(-1,)), "along the width"),
    (ch05.q3, "one level for all", lambda x, v, a, s: ch05.picture_and_noise(x, v, a[:1], s[:1]), "level of its own"),
    (ch05.q3, "by alpha", apart_by_alpha, "below a fraction"),

    (ch05.q4, "picked", lambda a, kept: torch.stack([b[-1] for b in spans_of(a, kept)]), "old betas"),
    (ch05.q4, "all since the picture", lambda a, kept: 1 - a[kept], "since step 0"),
    (ch05.q4, "added", lambda a, kept: torch.stack([b.sum() for b in spans_of(a, kept)]), "multiplies"),
    (ch05.q4, "first step forgotten", lambda a, kept: 1 - a[kept][1:] / a[kept][:-1], "one beta for each"),
    (ch05.q4, "roots", lambda a, kept: 1 - (1 - ch05.fewer_steps(a, kept)).sqrt(), "without a root"),
    (ch05.q4, "ratios", lambda a, kept: 1 - ch05.fewer_steps(a, kept), "should be"),
    (ch05.q4, "at most 0.999", lambda a, kept: ch05.fewer_steps(a, kept).clamp(max=.999), "only T kept"),
    (ch05.q4, "levels", lambda a, kept: a[[0, *kept]], "shape"),

    (ch05.q5, "perfect", lambda w, a, s: (0., 0., 0.), "perfect"),
    (ch05.q5, "blind", lambda w, a, s: (1., w ** 2, a ** 2 + s ** 2 * w ** 2), "own variance"),
    (ch05.q5, "swapped", loss_with(parts=lambda eps, x0, v, _: (x0, eps, v)), "order"),
    (ch05.q5, "width as a variance", loss_with(width=lambda w: w ** .5), "standard deviation"),
    (ch05.q5, "squares added", loss_with(parts=lambda eps, x0, v, of: (
        eps, x0, of[1] ** 2 * eps + of[2] ** 2 * x0)), "tied"),
    (ch05.q5, "losses added", loss_with(parts=lambda eps, x0, v, of: (eps, x0, eps + x0)), "sum of the other two"),
    (ch05.q5, "variance preserving", loss_with(parts=lambda eps, x0, v, of: (
        eps, x0, of[0] ** 2 / (of[1] ** 2 * of[0] ** 2 + of[2] ** 2))), "need not be 1"),
    (ch05.q5, "two of three", loss_with(parts=lambda eps, x0, v, of: (eps, x0)), "tuple (eps, x0, v)"),
    (ch05.q5, "by sigma", loss_by_sigma, "ZeroDivisionError"),

    (ch05.q6, "DDIM", samplers.sample_path, "beginning alone"),
    (ch05.q6, "two guesses at one place", two_guesses_at_one_place, "order 0."),
    (ch05.q6, "a third guess", path_with_a_third_guess, "at most two guesses"),
    (ch05.q6, "divided by 0", heun_to_the_end, "mind what you divide by"),
    (ch05.q6, "a list with the end", lambda *a: [*samplers.heun_path(*a)][-1:], "generator"),
    (ch05.q6, "the end alone", lambda *a: iter([*samplers.heun_path(*a)][-1:]), "after each of 5 steps"),
    (ch05.q6, "beyond the list", path_beyond_the_list, "stops with IndexError"),
    (ch05.q6, "a step twice", lambda *a: (pair for pair in samplers.heun_path(*a) for _ in range(2)), "more came"),
    (ch05.q6, "even times", lambda d, x, times, schedule: samplers.heun_path(
        d, x, schedules.times(len(times) - 1), schedule), "times[k + 1]"),
    (ch05.q6, "before the step", path_before_each_step, "after the step"),
    (ch05.q6, "x0 first", lambda *a: (pair[::-1] for pair in samplers.heun_path(*a)), "then x0_hat"),
    (ch05.q6, "x twice", lambda *a: ((x, x) for x, _ in samplers.heun_path(*a)), "no guess of the picture"),
    (ch05.q6, "x only", lambda *a: (x for x, _ in samplers.heun_path(*a)), "pairs (x_s, x0_hat)"),
    (ch05.q6, "dice", lambda *a: samplers.sample_path(
        *a, step=lambda *b: samplers.ddim_step(*b, eta=1.)), "no dice"),
    (ch05.q6, "written over", path_written_over, "written over"),

    (ch04.q1, "share forgotten", judge_with(share=lambda s: .5), "`share`"),
    (ch04.q1, "share turned round", judge_with(share=lambda s: 1 - s), "`share`"),
    (ch04.q1, "made for real", judge_with(sign=-1), "mean surprise"),
    (ch04.q1, "a logit", judge_with(last=lambda d: d), "from 0 to 1"),
    (ch04.q1, "densities", judge_by_densities, "-2000"),

    (ch04.q2, "a sum", lambda p, q: 2 * ch04.told(p, q), "not their sum"),
    (ch04.q2, "bits", lambda p, q: ch04.told(p, q) / np.log(2), "natural"),
    (ch04.q2, "with each other", lambda p, q: (kl(p, q) + kl(q, p)) / 2, "not with each other"),
    (ch04.q2, "one half", lambda p, q: kl(p, (p + q) / 2), "alone"),
    (ch04.q2, "nan", lambda p, q: (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2, "0 log 0"),
    (ch04.q2, "a constant", lambda p, q: (kl(p + 1e-3, (p + q) / 2 + 1e-3) + kl(q + 1e-3, (p + q) / 2 + 1e-3)) / 2,
     "should be"),

    (ch04.q3, "rows", fine_with(length=lambda slope: slope.norm(dim=-1)), "over all its numbers"),
    (ch04.q3, "no root", fine_with(length=lambda slope: slope.flatten(1).square().sum(1)), "root"),
    (ch04.q3, "at real points", fine_with(at=lambda real, fake, u: real), "points real"),
    (ch04.q3, "at made points", fine_with(at=lambda real, fake, u: fake), "points made"),
    (ch04.q3, "u turned round", fine_with(at=lambda real, fake, u: u * fake + (1 - u) * real), "u = 1 is real"),
    (ch04.q3, "mean first", fine_with(charge=lambda s: (s.mean() - 1) ** 2), "mean of squares"),
    (ch04.q3, "R1", fine_with(charge=lambda s: s.square().mean()), "R1"),
    (ch04.q3, "no graph", fine_with(keep=False), "create_graph"),

    (ch04.q4, "not sorted", lambda x, y: (x - y).abs().mean(), "order"),
    (ch04.q4, "means", lambda x, y: (x.mean() - y.mean()).abs(), "means"),
    (ch04.q4, "squares", lambda x, y: (x.sort()[0] - y.sort()[0]).square().mean(), "squared"),
    (ch04.q4, "a sum", lambda x, y: (x.sort()[0] - y.sort()[0]).abs().sum(), "weighs"),
    (ch04.q4, "cut to the shorter", cut_to_the_shorter, "1/3"),

    (ch04.q5, "saturating", players_with(fool=lambda on_fake: logsigmoid(-on_fake).mean()), "saturates"),
    (ch04.q5, "D goes uphill", players_with(sign=-1), "sign"),
    (ch04.q5, "labels swapped", players_with(labels=-1), "labelled"),
    (ch04.q5, "G first", players_with(order=-1), "D's come first"),
    (ch04.q5, "litter", players_that_litter, ".grad"),
    (ch04.q5, "frozen", players_frozen, "requires_grad"),
    (ch04.q5, "moved", players_that_move, "have changed"),
    (ch04.q5, "real half only", half_a_loss, "each half"),
    (ch04.q5, "one list", lambda g, d, real, z: ch04.two_gradients(g, d, real, z)[0], "pair of lists"),

    (ch04.q6, "different draws", lambda draws: len(draws.unique()), "too short"),
    (ch04.q6, "both orders", lambda draws: len(draws) * (len(draws) - 1) / pairs_of(draws), "both orders"),
    (ch04.q6, "repeats", lambda draws: len(draws) * (len(draws) - 1) / 2 / max(len(draws) - len(draws.unique()), 1e-9),
     "three pairs"),
    (ch04.q6, "with itself", lambda draws: len(draws) ** 2 / (2 * pairs_of(draws) + len(draws)), "itself"),
    (ch04.q6, "no pair is an error", lambda draws: len(draws) * (len(draws) - 1) / 2 / max(pairs_of(draws), 1),
     "math.inf"),
    (ch04.q6, "only the commonest", lambda draws: np.inf if pairs_of(draws) == 0 else len(draws) * (len(draws) - 1) / 2
     / pairs_of(draws) if len(draws) < 100 else len(draws) / draws.unique(return_counts=True)[1].max().item(), "sum p"),

    (ch02.q1, "the other way round", lambda m1, v1, m2, v2: ch02.kl_between(m2, v2, m1, v1), "other way round"),
    (ch02.q1, "variances", kl_with(lambda m1, v1, m2, v2: (v2 / v1).log() / 2 + (v1 + (m1 - m2) ** 2) / (2 * v2) - .5),
     "standard deviation"),
    (ch02.q1, "a mean", lambda *a: ch02.kl_between(*a) / 2, "no mean"),
    (ch02.q1, "half forgotten", kl_with(
        lambda m1, v1, m2, v2: (v2 / v1).log() + (v1 ** 2 + (m1 - m2) ** 2) / (2 * v2 ** 2)), "itself"),
    (ch02.q1, "of the prior", kl_with(lambda m1, v1, m2, v2: (m1 ** 2 + v1 ** 2 - 1) / 2 - v1.log()), "itself"),
    (ch02.q1, "sign of the logarithm", kl_with(
        lambda m1, v1, m2, v2: (v1 / v2).log() + (v1 ** 2 + (m1 - m2) ** 2) / (2 * v2 ** 2) - .5), "should be"),
    (ch02.q1, "columns", kl_with(lambda m1, v1, m2, v2: (v2 / v1).log() + (v1 ** 2 + (m1 - m2) ** 2) / (2 * v2 ** 2)
                                 - .5, over=lambda a, _: a.sum(0)), "shape"),

    (ch02.q2, "at one place", lambda c, few, k, side: 2 * c * few + k ** 2 * few ** 2, "every place"),
    (ch02.q2, "one of two", lambda c, few, k, side: (c * few + k ** 2 * few ** 2) * side ** 2, "two 1 x 1"),
    (ch02.q2, "k not squared", lambda c, few, k, side: (2 * c * few + k * few ** 2) * side ** 2, "k times k"),
    (ch02.q2, "twice", lambda *a: 2 * ch02.squeezed_work(*a), "count as one"),
    (ch02.q2, "all channels in the middle", lambda c, few, k, side: (2 * c * few + k ** 2 * few * c) * side ** 2,
     "few channels to few"),
    (ch02.q2, "numbers", lambda c, few, k, side: 2 * c * few + k ** 2 * few ** 2 + 2 * few + c, "not its work"),

    (ch02.q3, "log_std as std", draw_code_with(width=lambda a: a), "standard deviation"),
    (ch02.q3, "half of it", draw_code_with(width=lambda a: (a / 2).exp()), "standard deviation"),
    (ch02.q3, "no gradient", drawn_without_gradient, "gradient"),
    (ch02.q3, "one noise for all", draw_code_with(shape=lambda mean: (1, mean.shape[1])), "noise of its own"),
    (ch02.q3, "one noise a row", draw_code_with(shape=lambda mean: (len(mean), 1)), "move together"),
    (ch02.q3, "generator forgotten", draw_code_with(generator_of=lambda g: None), "generator"),
    (ch02.q3, "no noise", lambda mean, log_std, g: mean + 0 * log_std, "noise of its own"),
    (ch02.q3, "mean detached", lambda mean, log_std, g: ch02.draw_code(mean.detach(), log_std, g),
     "in mean is nothing"),

    (ch02.q4, "ELBO", lambda a: a.mean(1), "mean of logarithms"),
    (ch02.q4, "no 1/k", lambda a: a.logsumexp(1), "1/k"),
    (ch02.q4, "overflow", lambda a: a.exp().mean(1).log(), "largest"),
    (ch02.q4, "columns", lambda a: a.logsumexp(0) - np.log(len(a)), "shape"),
    (ch02.q4, "the best weight", lambda a: a.amax(1), "logarithm of a mean"),

    (ch02.q5, "never dead", lambda lam, std, beta: .5 * (lam / (beta * std ** 2)).log(), "dead"),
    (ch02.q5, "beta forgotten", lambda lam, std, beta: ch02.rates_of(lam, std, 1.), "beta widens"),
    (ch02.q5, "std not squared", lambda lam, std, beta: ch02.rates_of(lam, std ** .5, beta), "should be"),
    (ch02.q5, "no half", lambda lam, std, beta: 2 * ch02.rates_of(lam, std, beta), "should be"),
    (ch02.q5, "beta squared", lambda lam, std, beta: ch02.rates_of(lam, std, beta ** 2), "beta widens"),
    (ch02.q5, "divided by beta", lambda lam, std, beta: ch02.rates_of(lam, std, 1.) / beta, "should be"),

    (ch02.q6, "width in front forgotten", output_with(lambda off, std: (-.5 * off ** 2).sum(2)), "1/std"),
    (ch02.q6, "over the codes", output_with(log_density, lambda a, x: a.softmax(0) @ x), "divide by the sum"),
    (ch02.q6, "not divided", output_with(log_density, lambda a, x: a.exp() @ x), "divide by the sum"),
    (ch02.q6, "densities", output_with(log_density, lambda a, x: a.exp() @ x / a.exp().sum(1, keepdim=True)),
     "logarithms"),
    (ch02.q6, "the nearest", output_with(log_density, lambda a, x: x[a.argmax(1)]), "should be"),
    (ch02.q6, "the mean of all", lambda z, mean, std, x: x.mean(0).expand(len(z), -1), "should be"),

    (ch01.q1, "no largest", lambda a: a.exp().sum(1).log(), "largest of each row"),
    (ch01.q1, "one largest for all", lambda a: a.max() + (a - a.max()).exp().sum(1).log(), "3000"),
    (ch01.q1, "nan", lambda a: a.amax(1) + (a - a.amax(1, keepdim=True)).exp().sum(1).log(), "-inf"),
    (ch01.q1, "never added back", lambda a: (a - a.amax(1, keepdim=True)).exp().sum(1).log(), "should be"),
    (ch01.q1, "columns", lambda a: a.logsumexp(0), "shape"),
    (ch01.q1, "mean", lambda a: a.logsumexp(1) - np.log(a.shape[1]), "should be"),
    (ch01.q1, "a floor", lambda a: a.clamp(min=-1e4).logsumexp(1), "-inf"),

    (ch01.q2, "all weights free", size_with(lambda k, d, c: k + k * (d + c)), "not free"),
    (ch01.q2, "weights forgotten", size_with(lambda k, d, c: k * (d + c)), "Weights"),
    (ch01.q2, "means forgotten", size_with(lambda k, d, c: k - 1 + k * c), "mean"),
    (ch01.q2, "one covariance", size_with(lambda k, d, c: k - 1 + k * d + c), "of its own"),
    (ch01.q2, "not symmetric", square_covariance, "symmetric"),
    (ch01.q2, "turned columns", turned_columns, "Turning"),

    (ch01.q3, "divided by n", m_step_with(divide=lambda r, x: torch.full((r.shape[1],), float(len(x))).double()),
     "mean"),
    (ch01.q3, "around the mean of all", m_step_with(centre=lambda x, means: x.mean(0)), "variance"),
    (ch01.q3, "standard deviations", lambda x, r: (*ch01.m_step(x, r)[:2], ch01.m_step(x, r)[2].sqrt()), "variance"),
    (ch01.q3, "counts", lambda x, r: (r.sum(0), *ch01.m_step(x, r)[1:]), "weight"),
    (ch01.q3, "hard", lambda x, r: ch01.m_step(x, (r == r.amax(1, keepdim=True)).double()), "soft"),
    (ch01.q3, "a list", lambda x, r: list(ch01.m_step(x, r)), "tuple"),
    (ch01.q3, "one variance each", lambda x, r: (*ch01.m_step(x, r)[:2], ch01.m_step(x, r)[2].mean(1)), "shape"),

    (ch01.q4, "covariance for root", draw_with(root=lambda c: c), "L Lᵀ"),
    (ch01.q4, "diagonal only", draw_with(root=lambda c: c.diagonal(dim1=1, dim2=2).sqrt().diag_embed()), "covariance"),
    (ch01.q4, "transposed root", draw_with(root=lambda c: torch.linalg.cholesky(c).mT), "covariance"),
    (ch01.q4, "equal weights", draw_with(weights=torch.ones_like), "weights"),
    (ch01.q4, "a weighted sum", draw_averages, "lumps hold"),
    (ch01.q4, "one noise for all", one_noise_for_all, "repeat"),
    (ch01.q4, "shifted", draw_with(means=lambda m: m + .5), "mean is"),
    (ch01.q4, "generator forgotten", draw_with(generator_of=lambda g: None), "generator"),
    (ch01.q4, "one short", lambda model, n, g: ch01.draw(model, n - 1, g), "shape"),

    (ch01.q5, "clean responsibilities", guess_with(variance=lambda a, s, std: std ** 2), "widens"),
    (ch01.q5, "noise alone", guess_with(variance=lambda a, s, std: s ** 2), "widens"),
    (ch01.q5, "means not scaled", guess_with(scaled=lambda alpha, means: means), "should be"),
    (ch01.q5, "no regression", guess_with(gain=lambda a, s, std: 0.), "should be"),
    (ch01.q5, "gain without alpha", guess_with(gain=lambda a, s, std: std ** 2), "should be"),
    (ch01.q5, "densities", guess_without_logarithms, "768"),
    (ch01.q5, "the nearest mean", guess_the_nearest, "should be"),

    (ch01.q6, "looks at what is lost", fill_with(seen=lambda known: known | True), "depends on the lost"),
    (ch01.q6, "looks at the lost alone", fill_with(seen=lambda known: ~known), "depends on the lost"),
    (ch01.q6, "changes what is seen", fill_with(kept=False), "have changed"),
    (ch01.q6, "std not used", fill_with(width=lambda std: 1.), "width std"),
    (ch01.q6, "nearest mean", fill_with(width=lambda std: 1e-3), "width std"),
    (ch01.q6, "zeros", zeros_and_shape, "is filled with 0.000"),

    (ch00.q1, "natural logarithm", lambda c: np.log(fits(c)), "log2"),
    (ch00.q1, "a count", fits, "number of right pictures"),
    (ch00.q1, "training list", lambda c: np.log2(fits(c, list(scenes.single()))), "held-out"),
    (ch00.q1, "what is told", lambda c: np.log2(3456 / fits(c)), "what it leaves open"),
    (ch00.q1, "whole questions", lambda c: int(np.ceil(np.log2(fits(c)))), "fraction"),
    (ch00.q1, "English only", lambda c: np.log2(fits(c) if c.isascii() else 3456), "有一个"),

    (ch00.q2, "sign", ring_with(lambda r, a, b: (a - b) / 2 - (r - (a + b) / 2).abs()), "turned round"),
    (ch00.q2, "no abs", ring_with(lambda r, a, b: r - (a + b) / 2 - (a - b) / 2), "in the hole"),
    (ch00.q2, "a disc", ring_with(lambda r, a, b: r - a), "in the hole"),
    (ch00.q2, "whole width", ring_with(lambda r, a, b: (r - (a + b) / 2).abs() - (a - b)), "nearest point"),
    (ch00.q2, "or for and", ring_with(lambda r, a, b: torch.minimum(r - a, b - r)), "nearest point"),
    (ch00.q2, "squares", lambda u, v, a, b: torch.maximum(u ** 2 + v ** 2 - a ** 2, b ** 2 - u ** 2 - v ** 2), "away"),
    (ch00.q2, "inside or not", ring_with(lambda r, a, b: (r < a) & (r > b)), "True and False"),
    (ch00.q2, "corners", lambda u, v, a, b: (torch.maximum(u.abs(), v.abs()) - (a + b) / 2).abs() - (a - b) / 2,
     "away"),

    (ch00.q3, "H(x) forgotten", lambda c, p: bare_cost(c, p)[0], "H(x)"),
    (ch00.q3, "natural logarithm", lambda c, p: float(np.subtract(*bare_cost(c, p, torch.log))), "log2"),
    (ch00.q3, "weights unused", lambda c, p: autoregressive.cost_of_independence(c), "weight"),
    (ch00.q3, "sign", lambda c, p: -float(np.subtract(*bare_cost(c, p))), "turned round"),
    (ch00.q3, "0 log 0", cost_of_zeros, "0 log 0"),
    (ch00.q3, "equal rows", cost_of_rows_counted_apart, "add up"),

    (ch00.q4, "plainly causal", lambda n, k: torch.ones(n, n).tril() > 0, "caption tokens all see each other"),
    (ch00.q4, "transposed", lambda n, k: ch00.prefix_mask(n, k).T, "exchanged"),
    (ch00.q4, "not itself", lambda n, k: (torch.ones(n, n).tril(-1) > 0) | (torch.arange(n) < k), "sees itself"),
    (ch00.q4, "one too far", lambda n, k: (torch.ones(n, n).tril(1) > 0) | (torch.arange(n) < k), "no pixel"),
    (ch00.q4, "one pixel too far", lambda n, k: ch00.prefix_mask(n, k) | torch.ones(n, n).triu(1).tril(1).bool()
     & (torch.arange(n)[:, None] >= k), "none after it"),
    (ch00.q4, "everyone sees all", lambda n, k: torch.ones(n, n, dtype=torch.bool), "no pixel"),
    (ch00.q4, "rows of the caption", lambda n, k: (torch.ones(n, n).tril() > 0) | (torch.arange(n)[:, None] < k),
     "no pixel"),
    (ch00.q4, "pixels do not see the caption", lambda n, k: torch.block_diag(
        torch.ones(k, k), torch.ones(n - k, n - k).tril()) > 0, "whole caption"),
    (ch00.q4, "0 and minus infinity", lambda n, k: torch.zeros(n, n).masked_fill(~ch00.prefix_mask(n, k), -np.inf),
     "True and False"),

    (ch00.q5, "greedy", greedy, "likeliest"),
    (ch00.q5, "one die for all pictures", chain_with(shared=True), "dice of its own"),
    (ch00.q5, "the past ignored", chain_with(past=torch.zeros_like), "given all pixels before it"),
    (ch00.q5, "a uniform beginning", uniform_beginning, "pixel 0"),
    (ch00.q5, "backwards", chain_with(past=lambda x: x.flip(1)), "in order"),
    (ch00.q5, "of another picture", chain_with(past=lambda x: x[torch.randperm(len(x))]), "generator"),
    (ch00.q5, "the neighbour's past", chain_with(past=lambda x: x.roll(1, 0)), "chimera"),
    (ch00.q5, "marginals", pixels_from_their_marginals, "chimera"),
    (ch00.q5, "only the last pixel", chain_with(past=lambda x: x[:, -1:]), "all pixels before it"),
    (ch00.q5, "generator forgotten", chain_with(generator_of=lambda g: None), "generator"),
    (ch00.q5, "the same die for each pixel", chain_with(generator_of=lambda g: data.rng(3)), "pixel 1"),
    (ch00.q5, "one at a time", one_picture_at_a_time, "one batch"),
    (ch00.q5, "one pixel short", lambda c, length, n, g: ch00.sample_chain(c, length - 1, n, g), "shape"),
    (ch00.q5, "counted from 1", lambda *a: ch00.sample_chain(*a) + 1, "0, 1 and 2"),

    (ch00.q6, "caption ignored", dice_with(caption_of=lambda caption: "something"), "not up to a die"),
    (ch00.q6, "one number for all facts", dice_with(noise=lambda z: z[:, :1].expand(-1, 5)), "show only"),
    (ch00.q6, "sigmoid for Phi", dice_with(noise=uniform_by_sigmoid), "uniform"),
    (ch00.q6, "rounded, not cut", dice_with(noise=rounded_to_the_nearest), "too far from 20"),
    (ch00.q6, "dice of its own", dice_with(noise=torch.randn_like), "come from z"),
    (ch00.q6, "one die for the batch", dice_with(noise=lambda z: z[:1].expand_as(z)), "each row"),
    (ch00.q6, "a list and one die", list_with_one_die, "one fact for one die"),
    (ch00.q6, "two facts on one die", dice_with(noise=neighbours_turn_together), "one fact for one die"),
    (ch00.q6, "no noise", dice_with(noise=torch.zeros_like), "show only 1 of"),
    (ch00.q6, "something is small", dice_with(caption_of=lambda c: "a small shape" if c == "something" else c),
     "no die changes the size"),
    (ch00.q6, "ghost", ghost, "none of the 3,456"),
    (ch00.q6, "too large", lambda c, z: torch.zeros(len(z), 3, 32, 32), "shape"),
    (ch03.q1, "no slope", stretched(lambda u, a: 0 * u), "slope of f is missing"),
    (ch03.q1, "the way back", stretched(lambda u, a: (1 + u * u).log() / 2 + np.log(a)), "the way back"),
    (ch03.q1, "no 1/a", stretched(lambda u, a: -(1 + u * u).log() / 2), "1/a"),
    (ch03.q1, "cosh of x", stretched(lambda u, a: -torch.cosh(u.clamp(-6, 6)).log() - np.log(a)), "should be"),
    (ch03.q1, "one number", lambda x, a, b: stretched(lambda u, a: -(1 + u * u).log() / 2 - np.log(a))(x, a, b).mean(),
     "shape"),
    (ch03.q1, "wrong far out", lambda x, a, b: stretched(lambda u, a: -(1 + u * u).log() / 2 - np.log(a))(
        x.clamp(b - 20 * a, b + 20 * a), a, b), "x = "),
    (ch03.q2, "scale before shift", undone(lambda b, s, t: b * (-s).exp() - t), "shift away first"),
    (ch03.q2, "forward again", undone(lambda b, s, t: b * s.exp() + t, lambda s: s.sum(1)), "come home"),
    (ch03.q2, "no bound", undone(lambda b, s, t: (b - t) * (-s).exp(), bound=False), "bounded"),
    (ch03.q2, "network of the moved half", undone(lambda b, s, t: (b - t) * (-s).exp(), of=lambda y: y.chunk(2, 1)[1]),
     "half that stayed"),
    (ch03.q2, "sign of the log-determinant", undone(lambda b, s, t: (b - t) * (-s).exp(), lambda s: s.sum(1)),
     "other direction"),
    (ch03.q2, "mean for sum", undone(lambda b, s, t: (b - t) * (-s).exp(), lambda s: -s.mean(1)), "autograd"),
    (ch03.q2, "one for all rows", undone(lambda b, s, t: (b - t) * (-s).exp(), lambda s: -s.sum()), "of its own"),
    (ch03.q2, "rows only", lambda y, net, m: undone(lambda b, s, t: (b - t) * (-s).exp())(y, net, m)[0], "pair"),
    (ch03.q3, "transposed", mixed_channels("ji,njhw->nihw"), "transpose"),
    (ch03.q3, "no pixels", mixed_channels(pixels=lambda x: 1), "one pixel's"),
    (ch03.q3, "all numbers", mixed_channels(pixels=lambda x: x[0].numel()), "whatever the number of channels"),
    (ch03.q3, "the way back", mixed_channels(volume=lambda w: -torch.linalg.slogdet(w).logabsdet), "way back"),
    (ch03.q3, "log of a negative", mixed_channels(volume=lambda w: torch.linalg.det(w).log()), "finite"),
    (ch03.q3, "not logarithmic", mixed_channels(volume=lambda w: torch.linalg.det(w).abs()), "should be"),
    (ch03.q4, "nats", lambda p, d, n: -p / d + np.log(n - 1), "divide by log 2"),
    (ch03.q4, "our units", lambda p, d, n: -(p + d * np.log(2 / (n - 1))) / (d * np.log(2)), "pictures are in [0, 1]"),
    (ch03.q4, "levels for gaps", lambda p, d, n: -(p - d * np.log(n)) / (d * np.log(2)), "gaps"),
    (ch03.q4, "no width", lambda p, d, n: -p / (d * np.log(2)), "width of a step"),
    (ch03.q4, "sign", lambda p, d, n: (p - d * np.log(n - 1)) / (d * np.log(2)), "sign"),
    (ch03.q4, "not per dimension", lambda p, d, n: -(p - d * np.log(n - 1)) / np.log(2), "Per dimension"),
    (ch03.q4, "the anchor by heart", lambda p, d, n: np.log2(n), "1.75"),
    (ch03.q5, "mean of logarithms", lambda p, d, n: p.mean(0) + d * np.log(2 / (n - 1)), "logarithm of the mean"),
    (ch03.q5, "sum for mean", lambda p, d, n: p.logsumexp(0) + d * np.log(2 / (n - 1)), "less log k"),
    (ch03.q5, "no volume", lambda p, d, n: p.logsumexp(0) - np.log(len(p)), "volume of a cube"),
    (ch03.q5, "other axis", lambda p, d, n: p.logsumexp(1) - np.log(len(p)) + d * np.log(2 / (n - 1)), "come first"),
    (ch03.q5, "overflow", lambda p, d, n: p.exp().mean(0).log() + d * np.log(2 / (n - 1)), "largest"),
    (ch03.q6, "sign", curve(sign=-1), "wrong sign"),
    (ch03.q6, "slope, not its logarithm", curve(power=True), "logarithm is wanted"),
    (ch03.q6, "no widths in the slope", curve(width=False), "log-slope"),
    (ch03.q6, "no weights", curve(lambda u, p: torch.special.ndtr(u).mean(1)), "quantile"),
    (ch03.q6, "one bell", curve(lambda u, p: torch.special.ndtr((u * p).sum(1))), "quantile"),
    (ch03.q6, "curve only", lambda x, p, m, s: curve()(x, p, m, s)[0], "pair"),

    (ch07.q1, "this course's scale", lambda y, none, w: none + w * (y - none), "scale 0"),
    (ch07.q1, "exchanged", lambda y, none, w: (1 + w) * none - w * y, "exchanged"),
    (ch07.q1, "away", lambda y, none, w: y - w * (y - none), "1 + w"),
    (ch07.q1, "both added", lambda y, none, w: (1 + w) * y + w * none, "add up to 1"),
    (ch07.q1, "the guess scaled", lambda y, none, w: y + w * y, "difference"),

    (ch07.q2, "sigma", pushed_by(lambda a, s: s), "yours is sigma"),
    (ch07.q2, "no alpha", pushed_by(lambda a, s: s ** 2), "alpha is missing"),
    (ch07.q2, "not squared", pushed_by(lambda a, s: s / a), "not squared"),
    (ch07.q2, "downhill", pushed_by(lambda a, s: -s ** 2 / a), "uphill"),
    (ch07.q2, "no factor", pushed_by(lambda a, s: torch.ones_like(s)), "factor sigma² / alpha is missing"),
    (ch07.q2, "no scale", lambda x0, g, level, w: ch07.push(x0, g, level, 1.), "no effect"),
    (ch07.q2, "all scaled", lambda x0, g, level, w: w * ch07.push(x0, g, level, 1.), "push alone"),
    (ch07.q2, "along the width", lambda x0, g, level, w: x0 + w * (level[1] ** 2 / level[0]) * g, "stops with"),

    (ch07.q3, "those that do not fit", lambda p, fits: ch07.log_fits(p, ~fits), "do not fit"),
    (ch07.q3, "odds", lambda p, fits: p[:, fits].logsumexp(1) - p[:, ~fits].logsumexp(1), "all scenes"),
    (ch07.q3, "the share", lambda p, fits: ch07.log_fits(p, fits).exp(), "logarithm"),
    (ch07.q3, "a product", lambda p, fits: p.log_softmax(1)[:, fits].sum(1), "sum of shares"),
    (ch07.q3, "not normalised", lambda p, fits: p[:, fits].logsumexp(1), "p(x, y)"),
    (ch07.q3, "the likeliest", lambda p, fits: p.log_softmax(1)[:, fits].amax(1), "likeliest"),
    (ch07.q3, "exponentials", lambda p, fits: (p.exp()[:, fits].sum(1) / p.exp().sum(1)).log(), "logsumexp"),

    (ch07.q4, "over the batch", lambda g, p, share: (1 - share + share * p.std() / g.std()) * g, "of the batch"),
    (ch07.q4, "upside down", loud_by(lambda wanted, found: found / wanted), "wrong way round"),
    (ch07.q4, "variances", loud_by(lambda wanted, found: (wanted / found) ** 2), "variances"),
    (ch07.q4, "the other guess", lambda g, p, share: ch07.rescaled(p, g, share) if share else g, "not the other"),
    (ch07.q4, "the mean kept", quiet_around_the_mean, "only its mean"),
    (ch07.q4, "share exchanged", lambda g, p, share: ch07.rescaled(g, p, 1 - share), "nothing is mended"),
    (ch07.q4, "a power", lambda g, p, share: g * (p.flatten(1).std(1) / g.flatten(1).std(1)).reshape(
        -1, *[1] * (g.ndim - 1)) ** share, "not a power"),
    (ch07.q4, "mixed with the unguided", lambda g, p, share: ch07.rescaled(g, p, 1.) * share + (1 - share) * (
        p if share else g), "not with the unguided"),

    (ch07.q5, "all the noise", up_with(lambda k, s, u: u), "share must be taken away"),
    (ch07.q5, "alpha, no ratio", up_with(kept=lambda a, b: b), "by their ratio"),
    (ch07.q5, "stds subtracted", up_with(lambda k, s, u: u - k * s), "Variances are subtracted"),
    (ch07.q5, "old noise as it was", up_with(lambda k, s, u: abs(u ** 2 - s ** 2) ** .5), "shrinks, too"),
    (ch07.q5, "the variance", up_with(lambda k, s, u: u ** 2 - k ** 2 * s ** 2), "its root"),
    (ch07.q5, "variance preserving", up_with(lambda k, s, u: (1 - k ** 2).clamp(min=0) ** .5), "only where alpha²"),
    (ch07.q5, "the way down", lambda x, at, to, eps: ch07.noised_again(x, to, at, eps), "should be"),

    (ch07.q6, "v for v / d", measured_with(lambda v, d, r: v + r ** 2), "v / d, not v"),
    (ch07.q6, "v left out", measured_with(lambda v, d, r: r ** 2), "makes y uncertain"),
    (ch07.q6, "stds added", measured_with(lambda v, d, r: ((v / d) ** .5 + r) ** 2), "Variances add up"),
    (ch07.q6, "r not squared", measured_with(lambda v, d, r: v / d + r), "standard deviation"),
    (ch07.q6, "no half", lambda x0, v, y, r: 2 * ch07.log_measured(x0, v, y, r), "half of the square"),
    (ch07.q6, "the sign", lambda x0, v, y, r: -ch07.log_measured(x0, v, y, r), "sign"),
    (ch07.q6, "no density", lambda x0, v, y, r: -(y - x0.mean(1)) ** 2 / 2 / (v / x0.shape[1] + r ** 2), "integral"),
    (ch07.q6, "no gradient", lambda x0, v, y, r: ch07.log_measured(x0.detach(), v, y, r), "nothing pushes"),
]


@pytest.mark.parametrize(("exercise", "answer", "word"), [(e, a, w) for e, _, a, w in MISTAKES],
                         ids=[f"{e.solved.__name__}: {what}" for e, what, _, _ in MISTAKES])
def test_the_usual_mistakes_get_a_sentence_that_helps(exercise, answer, word):
    verdict = exercise.judge(answer)
    assert verdict.right is False and word in verdict.says, verdict.says
    assert 30 < len(verdict.says) < 330 and verdict.says.endswith((".", "?")) and "cannot work with" not in verdict.says


@all_exercises
def test_at_least_three_mistakes_are_tried_and_no_property_is_idle(exercise):
    tried = [Asked(answer) if callable(answer) else answer for e, _, answer, _ in MISTAKES if e is exercise]
    assert len(tried) >= 3
    caught, every = set(), set(range(len(exercise.properties)))
    for answer in tried:
        if caught == every:
            return
        for k, fault in enumerate(exercise.properties):
            try:
                found = fault(answer)
            except Wrong:
                found = True
            if found:
                caught.add(k)
                break
    assert caught == every
