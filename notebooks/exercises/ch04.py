"""The exercises of chapter 4: an uneven coin, what a picture tells, a fine, sand, two players, birthdays."""
import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import logsigmoid

from minidiff import data

from . import Exercise, Wrong, brief, differs, misshapen


def random(*shape, key):
    """Normal numbers, float64, that depend on the key alone."""
    return torch.randn(*shape, generator=data.rng("exercise", 4, key), dtype=torch.float64)


# --- 1 an uneven coin -------------------------------------------------------------------------------------------------

def best_judge(log_p, log_q, share):
    """The best D(x), [n], if a share of all pictures shown is real; log densities [n] of real and made."""
    return torch.sigmoid(log_p - log_q + np.log(share / (1 - share)))


def no_other_value_is_better(best_judge):
    """The mean cross-entropy at each point, by trying 20,000 values."""
    log_p, log_q, values = random(6, key="p"), random(6, key="q"), torch.linspace(0, 1, 20_001).double()[1:-1, None]
    for share in (.5, .2, .9):
        loss = -share * log_p.exp() * values.log() - (1 - share) * log_q.exp() * (1 - values).log()
        got = best_judge(log_p, log_q, share)
        if wrong := misshapen(got, log_p, best_judge.call):
            return wrong
        if ((got < 0) | (got > 1)).any():
            return f"{best_judge.call} is {brief(got)}; D is a probability, so every number should be from 0 to 1."
        want = values[loss.argmin(0), 0]
        if (got - want).abs().max() > 2e-4:
            i = int((got - want).abs().argmax())
            return (f"With share = {share:g}, log p = {float(log_p[i]):.3f} and log q = {float(log_q[i]):.3f}, D is "
                    f"{float(got[i]):.4f}; of 20,000 values the mean surprise is least at {float(want[i]):.4f}. "
                    "Real pictures count with `share`, made ones with 1 - `share`.")
    return None


def pictures_have_small_densities(best_judge):
    """Log densities of -2000: only their difference counts."""
    log_p, log_q = torch.tensor([-2000., -2000., 1500.]).double(), torch.tensor([-2001., -1999., 1500.]).double()
    odds = .25 / .75 * torch.tensor([math.e, 1 / math.e, 1]).double()
    return differs(best_judge(log_p, log_q, .25), odds / (1 + odds), "With log densities around -2000 and 1500, D")


q1 = Exercise(
    "`best_judge(log_p, log_q, share)`: the best discriminator for an uneven coin.",
    solved=best_judge, properties=[no_other_value_is_better, pictures_have_small_densities],
    hints=["Weigh the two halves of (4.1) with `share` and 1 - `share`, and set the derivative at a point to zero.",
           "It is Bayes' rule: the prior of \"real\" is `share`.",
           "A ratio of densities underflows; its logarithm, plus that of share / (1 - share), is a logit."],
    right="No other value has a smaller loss, and pictures with tiny densities do no harm.")


# --- 2 what a picture tells -------------------------------------------------------------------------------------------

def told(p, q):
    """JSD in nats of two lists of probabilities [k]; a probability may be 0."""
    m = (p + q) / 2
    return (torch.xlogy(p, p) - torch.xlogy(p, m) + torch.xlogy(q, q) - torch.xlogy(q, m)).sum() / 2


def entropy(p):
    """In nats, of any table of probabilities."""
    p = p[p > 0]
    return float(-(p * p.log()).sum())


def mutual_information(told):
    """H(coin) + H(x) - H(coin, x) from the joint table of the coin and the picture."""
    for key in ("one", "two", "three"):
        p, q = random(5, key=key).softmax(0), (2 * random(5, key=key + " q")).softmax(0)
        joint = torch.stack([p, q]) / 2
        want = math.log(2) + entropy(joint.sum(0)) - entropy(joint)
        m = joint.sum(0)
        kl = [float((a * (a / b).log()).sum()) for a, b in ((p, m), (q, m), (p, q), (q, p))]
        usual = {"It is the mean of two divergences, not their sum.": kl[0] + kl[1],
                 "Nats want the natural logarithm.": want / math.log(2),
                 "Both are compared with their mean m, not with each other.": (kl[2] + kl[3]) / 2,
                 "That is half of it: p against m. Where is q against m?": kl[0] / 2,
                 "That is p against m alone; the mean is over both.": kl[0]}
        if wrong := differs(told(p, q), want, told.call, usual, tol=1e-6):
            return wrong
    return None


def zeros_are_welcome(told):
    """No overlap: the whole coin, log 2; equal lists with zeros: nothing."""
    p, q = torch.tensor([.5, .5, 0, 0]).double(), torch.tensor([0, 0, .1, .9]).double()
    for a, b, want, what in ((p, q, math.log(2), "of lists that do not overlap"), (p, p, 0., "of two equal lists")):
        got = told(a, b)
        if not torch.as_tensor(got).isfinite().all():
            return f"The divergence {what} is {brief(got)}; a probability of 0 adds nothing: 0 log 0 counts as 0."
        if wrong := differs(got, want, f"The divergence {what}", tol=1e-6):
            return wrong
    return None


q2 = Exercise(
    "`told(p, q)`: the Jensen–Shannon divergence of two lists, zeros and all.",
    solved=told, properties=[mutual_information, zeros_are_welcome],
    hints=["m = (p + q) / 2, then the mean of KL(p || m) and KL(q || m).",
           "`torch.xlogy(a, b)` is a log b, and 0 where a is 0."],
    right="It is what the picture tells about the coin, from nothing to log 2.")


# --- 3 a fine ---------------------------------------------------------------------------------------------------------

def fine(d, real, fake, u):
    """E (|grad d| - 1)^2 at u real + (1 - u) fake; pictures [b, c, h, w], u [b], d gives [b]."""
    x = (u[:, None, None, None] * real + (1 - u)[:, None, None, None] * fake).detach().requires_grad_()
    slope, = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def case(key):
    """Real and made pictures and a u for each."""
    return random(5, 2, 3, 4, key=key), random(5, 2, 3, 4, key=key + " made") + 1, torch.linspace(.1, .8, 5).double()


def slopes_by_small_steps(fine):
    """Finite differences of a d that is no straight line, at the right points."""
    real, fake, u = case("fine")
    a, h = random(24, key="a"), 1e-5

    def d(x):
        return (x.flatten(1) @ a).sin() + x.flatten(1).square().sum(1) / 20
    x = torch.stack([t * r + (1 - t) * f for t, r, f in zip(u, real, fake, strict=True)]).flatten(1)
    steps = h * torch.eye(24, dtype=torch.float64)
    slope = torch.stack([(d(x + step) - d(x - step)) / (2 * h) for step in steps], 1)
    length = slope.square().sum(1).sqrt()
    usual = {"A picture has one slope: the length over all its numbers, channels and rows too.":
                 float((slope.reshape(5, 2, 3, 4).norm(dim=-1) - 1).square().mean()),
             "That is (|grad|² - 1)²; the length is the root of the sum of squares.":
                 float((length ** 2 - 1).square().mean()),
             "That is the square of the mean; the fine is the mean of squares.": float((length.mean() - 1) ** 2),
             "That is R1, which wants slope 0; here slope 1 is free.": float((length ** 2).mean())}
    got = fine(d, real, fake, u)
    at = {"real": real, "made": fake, "u made + (1 - u) real": torch.stack(
        [t * f + (1 - t) * r for t, r, f in zip(u, real, fake, strict=True)])}
    for name, points in at.items():
        y = points.flatten(1)
        there = torch.stack([(d(y + step) - d(y - step)) / (2 * h) for step in steps], 1).norm(dim=1)
        usual[f"That is the slope at the points {name}; u = 1 is real."] = float((there - 1).square().mean())
    return differs(got, float((length - 1).square().mean()), fine.call, usual, tol=1e-5)


def it_teaches(fine):
    """The fine has a gradient in d's own weights: d/dw (|w| |a| - 1)^2."""
    real, fake, u = case("teaches")
    a, w = random(24, key="line"), torch.tensor(.7, dtype=torch.float64, requires_grad=True)
    got = fine(lambda x: w * (x.flatten(1) @ a), real, fake, u)
    if not isinstance(got, torch.Tensor) or not got.requires_grad:
        return "The fine has no gradient in the weights of d; autograd.grad keeps the graph with create_graph=True."
    slope, = torch.autograd.grad(got, w, allow_unused=True)
    if slope is None:
        return "The fine does not depend on the weights of d; keep the graph of the slope with create_graph=True."
    return differs(slope, 2 * (.7 * a.norm() - 1) * a.norm(), "The fine's derivative in a weight of a linear d")


q3 = Exercise(
    "`fine(d, real, fake, u)`: the gradient penalty for pictures.",
    solved=fine, properties=[slopes_by_small_steps, it_teaches],
    hints=["`u[:, None, None, None]` stretches u over a picture; detach the mixture and ask for its gradient.",
           "d(x).sum() has in each picture the gradient of that picture's own logit.",
           "`slope.flatten(1).norm(dim=1)` is one length a picture; create_graph=True keeps it differentiable."],
    right="The slopes are those of small steps, and the fine teaches d.")


# --- 4 sand -----------------------------------------------------------------------------------------------------------

def work(x, y):
    """The Wasserstein distance of two lists of numbers, [n] and [m], all numbers of a list weighing the same."""
    at, _ = torch.cat([x, y]).sort()
    gaps = at.diff()

    def left(sample):
        return (sample[:, None] <= at[:-1]).double().mean(0)
    return ((left(x) - left(y)).abs() * gaps).sum()


def best_of_all_plans(work):
    """As many as there are: all 120 plans for five grains."""
    for key in ("plan", "other plan"):
        x, y = random(5, key=key), 2 * random(5, key=key + " y") + 1
        cost = (x[:, None] - y).abs()
        want = min(float(cost[range(5), plan].mean()) for plan in itertools.permutations(range(5)))
        usual = {"In the order they came; the best plan keeps the order of size.": float((x - y).abs().mean()),
                 "Only the means are compared; two heaps of equal mean may differ.": float((x.mean() - y.mean()).abs()),
                 "Work is sand times distance; you took the distance squared.":
                     float((x.sort()[0] - y.sort()[0]).square().mean()),
                 "Each grain weighs 1/n.": 5 * want}
        if wrong := differs(work(x, y), want, work.call, usual, tol=1e-6):
            return wrong
    return None


def heaps_of_different_grain(work):
    """Three numbers against five: cut every grain, until both have fifteen."""
    x, y = random(3, key="three"), random(5, key="five") * 2
    even = (x.repeat_interleave(5).sort()[0] - y.repeat_interleave(3).sort()[0]).abs().mean()
    wrong = differs(work(x, y), float(even), "For a list of 3 and one of 5 the distance", tol=1e-6)
    if wrong:
        return wrong + " Each grain of the first weighs 1/3, of the second 1/5."
    return differs(work(x, x + 100), 100., "The distance of a list and the same list moved by 100", tol=1e-6)


q4 = Exercise(
    "`work(x, y)`: the Wasserstein distance of two lists of different lengths.",
    solved=work, properties=[best_of_all_plans, heaps_of_different_grain],
    hints=["Use the second form of (4.18): the area between the two shares F.",
           "F changes only where there is a number. Sort all n + m; between neighbours both are constant.",
           "`(x[:, None] <= at).double().mean(0)` is the share of x to the left of each of `at`."],
    right="No plan is cheaper, and grains of different weight are no trouble.")


# --- 5 two players ----------------------------------------------------------------------------------------------------

def two_gradients(g, d, real, z):
    """(gradients of (4.1) in d's parameters, gradients of (4.10) in g's), as lists; nothing else may change."""
    of_d, of_g = list(d.parameters()), list(g.parameters())
    log_d = torch.nn.functional.logsigmoid
    loss_d = -log_d(d(real)).mean() - log_d(-d(g(z).detach())).mean()
    loss_g = -log_d(d(g(z))).mean()
    return list(torch.autograd.grad(loss_d, of_d)), list(torch.autograd.grad(loss_g, of_g))


def players():
    """A small generator and discriminator with known weights, real points and noise."""
    g = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    d = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()
    with torch.no_grad():
        for i, p in enumerate([*g.parameters(), *d.parameters()]):
            p.copy_(random(*p.shape, key=f"weights {i}"))
    return g, d, random(7, 2, key="real") + 1, random(7, 2, key="noise")


def by_small_steps(loss, parameters, h=1e-6):
    """Central differences of a loss in each number of each parameter."""
    out = []
    for p in parameters:
        slope = torch.zeros_like(p)
        for i in range(p.numel()):
            with torch.no_grad():
                flat, values = p.view(-1), []
                kept = flat[i].item()
                for step in (h, -h):
                    flat[i] = kept + step
                    values.append(float(loss()))
                flat[i] = kept
            slope.view(-1)[i] = (values[0] - values[1]) / (2 * h)
        out.append(slope)
    return out


def both(two_gradients, g, d, examples):
    """The two lists, or a sentence; examples: real points and noise."""
    got = two_gradients(g, d, *examples)
    if not isinstance(got, tuple | list) or len(got) != 2 or not all(isinstance(part, tuple | list) for part in got):
        raise Wrong(f"{two_gradients.call} is {brief(got)}; it should be a pair of lists, D's gradients and G's.")
    for part, player, name in ((got[0], d, "D"), (got[1], g, "G")):
        if len(part) != len(list(player.parameters())):
            raise Wrong(f"There are {len(part)} gradients for {name}, which has {len(list(player.parameters()))} "
                        "parameters; D's come first.")
        for slope, p in zip(part, player.parameters(), strict=True):
            if wrong := misshapen(slope, p.detach(), f"A gradient for {name}"):
                raise Wrong(wrong + " D's come first, in the order of its parameters.")
    return got


def gradients_are_right(two_gradients):
    """Both losses, one player's weight moved at a time."""
    g, d, real, z = players()
    of_d, of_g = both(two_gradients, g, d, (real, z))

    def judged():
        return -logsigmoid(d(real)).mean() - logsigmoid(-d(g(z))).mean()

    def fooled():
        return -logsigmoid(d(g(z))).mean()

    def as_first_written():
        return logsigmoid(-d(g(z))).mean()
    for got, loss, player, name in ((of_d, judged, d, "D"), (of_g, fooled, g, "G")):
        want = by_small_steps(loss, list(player.parameters()))
        if all((a - b).abs().max() < 1e-5 for a, b in zip(got, want, strict=True)):
            continue
        if all((a + b).abs().max() < 1e-5 for a, b in zip(got, want, strict=True)):
            return f"{name}'s gradients have the wrong sign; both players go downhill on their own loss."
        other = by_small_steps(as_first_written, list(player.parameters()))
        if name == "G" and all((a - b).abs().max() < 1e-5 for a, b in zip(got, other, strict=True)):
            return "G's gradients are those of (4.8), which saturates; (4.10) is wanted."
        where = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if (a - b).abs().max() >= 1e-5)
        at = int((got[where] - want[where]).abs().argmax())
        return (f"A gradient of {name}'s, in its parameter {where}, is {float(got[where].flatten()[at]):.4f}; by small "
                f"steps of that weight it is {float(want[where].flatten()[at]):.4f}. Is each half of the loss there, "
                "and labelled right?")
    return None


def nothing_is_left_lying_about(two_gradients):
    """No .grad in any weight, and no weight has moved."""
    g, d, real, z = players()
    before = [p.detach().clone() for p in (*g.parameters(), *d.parameters())]
    both(two_gradients, g, d, (real, z))
    for name, player in (("D", d), ("G", g)):
        if any(p.grad is not None and p.grad.abs().max() > 0 for p in player.parameters()):
            return (f"Afterwards there are gradients in {name}'s weights (.grad); the next backward() would add to "
                    "them. torch.autograd.grad(loss, parameters) leaves none.")
        if not all(p.requires_grad for p in player.parameters()):
            return f"Afterwards {name}'s weights have requires_grad False; it could not learn any more."
    moved = any(not torch.equal(a, b) for a, b in zip(before, (*g.parameters(), *d.parameters()), strict=True))
    return "Afterwards weights have changed; only gradients were asked for." if moved else None


q5 = Exercise(
    "`two_gradients(g, d, real, z)`: what each player follows, and nothing left behind.",
    solved=two_gradients, properties=[nothing_is_left_lying_about, gradients_are_right],
    hints=["D's loss is (4.1): on `real` with logsigmoid(d), on g(z) with logsigmoid(-d).",
           "G's loss is -logsigmoid(d(g(z))): through D, but in G's weights alone.",
           "`torch.autograd.grad(loss, list(d.parameters()))` gives gradients and writes nothing into .grad."],
    right="Each player's gradient is that of small steps of its own weights, and the other one is left alone.")


# --- 6 birthdays ------------------------------------------------------------------------------------------------------

def how_many(draws):
    """How many different pictures a generator seems to have, from draws [n], the number of the picture drawn."""
    _, counts = draws.unique(return_counts=True)
    equal = (counts * (counts - 1) // 2).sum().item()
    return float("inf") if equal == 0 else len(draws) * (len(draws) - 1) / 2 / equal


def pairs_by_pairs(how_many):
    """All pairs of a short list, one by one."""
    for draws in ([3, 1, 3, 2], [0, 0, 0, 5, 5, 1, 2], [7, 7]):
        n = len(draws)
        equal = sum(a == b for a, b in itertools.combinations(draws, 2))
        want = n * (n - 1) / 2 / equal
        usual = {"That counts the different draws; the list may be too short to show all.": len(set(draws)),
                 "Each pair was counted in both orders on one side only.": 2 * want,
                 "Three equal draws are three pairs, not two.": n * (n - 1) / 2 / max(n - len(set(draws)), 1),
                 "A draw makes no pair with itself.": n * n / sum(a == b for a in draws for b in draws)}
        usual = {advice: value for advice, value in usual.items() if not math.isclose(value, want)}
        if wrong := differs(how_many(torch.tensor(draws)), want, how_many.call, usual, tol=1e-6):
            return wrong
    return None


def no_pair_no_end(how_many):
    """No two alike: no upper end in sight."""
    got = how_many(torch.arange(20))
    if got != math.inf:
        return f"With 20 draws, all different, the result is {brief(got)}; nothing limits it, so it is math.inf."
    return None


def even_and_uneven(how_many):
    """Many draws: K if all are equally likely, else 1 / sum p^2."""
    for p, what in ((torch.ones(500), "500 equally likely pictures"),
                    (1 / torch.arange(1., 301), "300 pictures, the k-th with a share like 1/k")):
        p = p / p.sum()
        draws = torch.multinomial(p, 4000, replacement=True, generator=data.rng("exercise", "birthdays"))
        want = float(1 / p.square().sum())
        got = float(how_many(draws))
        if abs(got / want - 1) > .1:
            return f"From 4,000 draws of {what} the result is {got:.1f}; 1 / sum p² is {want:.1f}."
    return None


q6 = Exercise(
    "`how_many(draws)`: a generator's pictures, counted by coincidences.",
    solved=how_many, properties=[pairs_by_pairs, no_pair_no_end, even_and_uneven],
    hints=["With K equally likely pictures, a pair of draws is equal with probability 1/K. How many pairs are there?",
           "`draws.unique(return_counts=True)`: c equal draws make c (c - 1) / 2 equal pairs.",
           "Pairs in all, divided by equal pairs; where there is none, math.inf."],
    right="It is one over the share of equal pairs, however even or uneven the draws.")
