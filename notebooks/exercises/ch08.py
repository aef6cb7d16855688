"""The exercises of chapter 8: carried sand, merged moments, Fréchet by hand, a fair kernel distance, recall, a trap."""
import functools
import math

import torch

from minidiff import data, metrics, oracle, scenes, weights
from minidiff.metrics import FeatureStatistics

from . import Exercise, Wrong, brief, misshapen, unlike


def random(*shape, key):
    """Normal numbers, float64, that depend on the key alone."""
    return torch.randn(*shape, generator=data.rng("exercise", 8, key), dtype=torch.float64)


def number(got, what):
    """A Python number of what came back, which may be a tensor with one number."""
    if isinstance(got, torch.Tensor) and got.numel() == 1:
        got = got.item()
    if not isinstance(got, int | float) or isinstance(got, bool):
        raise Wrong(f"{what} is {brief(got)}; it should be one number.")
    if not math.isfinite(got):
        raise Wrong(f"{what} is {got}; it should be a finite number.")
    return float(got)


# --- 1 sand on a line -------------------------------------------------------------------------------------------------

def carried(x, y):
    """W^2 of two sets of n numbers: the cheapest plan keeps the order."""
    return (x.sort().values - y.sort().values).square().mean()


def by_all_plans(carried):
    """Four grains can be carried in 24 ways."""
    x, y = random(4, key="x"), 2 * random(4, key="y") + 1
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[(orders.sort(1).values == torch.arange(4)).all(1)]
    costs = (x - y[orders]).square().mean(1)
    rows = (x - y).square().mean()
    best = float(costs.min())
    usual = {"Grain by grain as they come is one plan of many: sort both first.": float(rows),
             "A squared distance is asked for, not its root.": best ** .5,
             "The mean over the grains, not the sum.": 4 * best,
             "That is the dearest plan: one of the two is sorted the wrong way.": float(costs.max()),
             "The cost is the square of the way, not its length.": float(
                 (x.sort().values - y.sort().values).abs().mean()),
             "That compares the means alone.": float((x.mean() - y.mean()) ** 2),
             "That is (8.2), for normal densities; grains need not be normal.": float(
                 (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2)}
    return unlike(number(carried(x, y), "W² of four grains"), best, "For 4 grains, with 24 plans, the result", usual)


def many_grains(carried):
    """Two bells."""
    x, y = random(2000, key="bell"), 3 + 2 * random(2000, key="wide")
    got = number(carried(x, y), "W² of two bells")
    if abs(got - 10) > .8:
        return f"Of 2,000 grains of N(0, 1) and N(3, 4), W² is {brief(got)}; by (8.2) it should be about 10."
    return None


q1 = Exercise(
    "`carried(x, y)`: the squared Wasserstein distance of two sets of equally many numbers.",
    solved=carried, properties=[by_all_plans, many_grains],
    hints=["The cheapest plan on a line never crosses.", "`x.sort().values`: then grain k goes to place k."],
    right="It is the cheapest of all plans.")


# --- 2 moments of two parts -------------------------------------------------------------------------------------------

def merged(a, b):
    """(n, mean, covariance) of two parts together from those of each, covariances unbiased: over n - 1."""
    (n, m, c), (k, u, w) = a, b
    gap = m - u
    scatter = (n - 1) * c + (k - 1) * w + n * k / (n + k) * torch.outer(gap, gap)
    return n + k, (n * m + k * u) / (n + k), scatter / (n + k - 1)


def told(x):
    """Count, mean and unbiased covariance."""
    return len(x), x.mean(0), torch.cov(x.T)


def as_all_at_once(merged):
    """Two parts of different size, far from each other."""
    x = torch.cat([random(7, 3, key="a"), 2 * random(20, 3, key="b") + 3])
    a, b = told(x[:7]), told(x[7:])
    (n, m, c), (k, u, w) = a, b
    got = merged(a, b)
    if not isinstance(got, tuple | list) or len(got) != 3:
        return f"{brief(got)} came back; it should be the tuple (n, mean, covariance)."
    if number(got[0], "The count of both") != 27:
        return f"The count of parts of 7 and 20 is {brief(got[0])}; it should be 27."
    usual = {"A mean of means weighs both parts alike; they have 7 and 20 points.": (m + u) / 2,
             "The weights are exchanged.": (k * m + n * u) / 27}
    if wrong := unlike(got[1], x.mean(0), "The mean", usual):
        return wrong
    inside, gap = (n - 1) * c + (k - 1) * w, torch.outer(m - u, m - u)
    usual = {"The parts' means differ; that spreads the whole, too.": inside / 26,
             "Scatter over n - 1; and the parts' means differ, which spreads the whole.": (n * c + k * w) / 27,
             "Scatters add up: multiply each covariance by its n - 1 first.": (
                 n * c + k * w + n * k / 27 * gap) / 26,
             "The covariance is over n - 1, not n.": (inside + n * k / 27 * gap) / 27,
             "The gap of the means weighs n_a n_b / (n_a + n_b).": (inside + gap) / 26}
    return unlike(got[2], torch.cov(x.T), "The covariance", usual)


q2 = Exercise(
    "`merged(a, b)`: count, mean and unbiased covariance of two parts together.",
    solved=merged, properties=[as_all_at_once],
    hints=["It is (8.6), but for covariances: a covariance is its scatter over n - 1.",
           "Turn both covariances into scatters, add, add what the gap of the means brings, divide by n_a + n_b - 1."],
    right="Parts of any size add up to the whole.")


# --- 3 Fréchet without matrices ---------------------------------------------------------------------------------------

def frechet_diagonal(m1, v1, m2, v2):
    """(8.5) for diagonal covariances; means and variances [d]."""
    return (m1 - m2).square().sum() + (v1.sqrt() - v2.sqrt()).square().sum()


def as_matrices_say(frechet_diagonal):
    """The library, with the variances on a diagonal."""
    m1, m2 = random(5, key="m1"), random(5, key="m2")
    v1, v2 = random(5, key="v1").square() + .1, 3 * random(5, key="v2").square() + .1
    want = metrics.frechet_distance(m1, torch.diag(v1), m2, torch.diag(v2))
    means, spread = float((m1 - m2).square().sum()), float((v1.sqrt() - v2.sqrt()).square().sum())
    usual = {"The means are missing.": spread, "The variances are missing.": means,
             "FID is the squared distance; no root at the end.": want ** .5,
             "The difference of standard deviations is squared, not that of variances.": means + float(
                 (v1 - v2).square().sum()),
             "In (8.5) the root is of the product of both variances.": means + float((v1 + v2 - 2 * v1 * v2).sum()),
             "The sum over features, not the mean.": want / 5,
             "The means are squared first, then added.": float((m1 - m2).sum() ** 2) + spread,
             "The cross term needs a factor of 2.": means + float((v1 + v2 - (v1 * v2).sqrt()).sum())}
    return unlike(number(frechet_diagonal(m1, v1, m2, v2), "The distance"), want, "In 5 features it", usual)


def nothing_between_equals(frechet_diagonal):
    """Equal distributions, one feature that never varies."""
    m, v = random(4, key="m"), torch.tensor([0., 1., 2., 1e-12]).double()
    got = number(frechet_diagonal(m, v, m.clone(), v.clone()), "The distance of equals")
    return None if abs(got) < 1e-9 else f"Of two equal distributions it is {brief(got)}; it should be 0."


q3 = Exercise(
    "`frechet_diagonal(m1, v1, m2, v2)`: the Fréchet distance where covariances are diagonal.",
    solved=frechet_diagonal, properties=[as_matrices_say, nothing_between_equals],
    hints=["Diagonal matrices are multiplied and rooted number by number.",
           "Then it is (8.2), once for every feature: means, and standard deviations."],
    right="For diagonal covariances (8.5) is (8.2), feature by feature.")


# --- 4 a fair kernel distance -----------------------------------------------------------------------------------------

def fair(within_x, within_y, between):
    """The unbiased MMD² from kernel matrices: [n, n] of x with x, [m, m] of y with y, [n, m] of x with y."""
    def others(k):
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))
    return others(within_x) + others(within_y) - 2 * between.mean()


def kernels(n, m, key):
    """Matrices of the cubic kernel, and of the points they come from."""
    x, y = random(n, 3, key=f"x {key}"), random(m, 3, key=f"y {key}") + .5
    return [(a @ b.T / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]


def pair_by_pair(fair):
    """The definition, by counting pairs."""
    k_x, k_y, k_xy = kernels(4, 6, 0)
    def mean(k, pairs):
        return sum(float(k[i, j]) for i, j in pairs) / len(pairs)
    apart = [[(i, j) for i in range(n) for j in range(n) if i != j] for n in (4, 6)]
    want = mean(k_x, apart[0]) + mean(k_y, apart[1]) - 2 * float(k_xy.mean())
    a, b, c = (float(k.mean()) for k in (k_x, k_y, k_xy))
    usual = {"A picture with itself is no pair: leave the diagonal out.": a + b - 2 * c,
             "Without the diagonal there are n (n - 1) pairs, not n².": (
                 float(k_x.sum() - k_x.trace()) / 16 + float(k_y.sum() - k_y.trace()) / 36 - 2 * c),
             "The mean between needs a factor of 2.": want + c,
             "What is alike between the sets makes them near: it is subtracted.": want + 4 * c,
             "Take means, not sums: the matrices have different sizes.": float(
                 (k_x.sum() - k_x.trace()) + (k_y.sum() - k_y.trace()) - 2 * k_xy.sum())}
    return unlike(number(fair(k_x, k_y, k_xy), "The estimate"), want, "From 4 and 6 pictures it", usual)


def without_bias(fair):
    """Of equal sources it is 0 on average."""
    found = []
    for k in range(300):
        x, y = random(5, 3, key=f"fair x {k}"), random(5, 3, key=f"fair y {k}")
        found.append(number(fair(*((a @ b.T / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))), "The estimate"))
    found = torch.tensor(found)
    if abs(found.mean()) > 5 * found.std() / 300 ** .5:
        return f"Of two sets from one source it is {brief(float(found.mean()))} on average; it should be 0."
    return None


q4 = Exercise(
    "`fair(within_x, within_y, between)`: the kernel distance without bias.",
    solved=fair, properties=[pair_by_pair, without_bias],
    hints=["(8.9) has three means. In the first two a picture never meets itself.",
           "The sum less the trace, over n (n - 1)."],
    right="Of equal sources it is 0 on average.")


# --- 5 recall ---------------------------------------------------------------------------------------------------------

def recall(real, made, k):
    """Share of real features that lie in a ball of a made one, which reaches that one's k-th made neighbour."""
    reach = torch.cdist(made, made).kthvalue(k + 1, dim=1).values
    return (torch.cdist(real, made) <= reach).any(1).double().mean()


def by_the_library(recall):
    """Two clouds that overlap, and other numbers of neighbours."""
    real, made = random(60, 3, key="real"), .6 * random(80, 3, key="made") + .3
    for k in (3, 1, 5):
        want = metrics.precision_recall(real, made, k)["recall"]
        usual = {"That is precision: exchange the roles.": metrics.precision_recall(real, made, k)["precision"],
                 "That is coverage: the balls stand around the made ones.":
                     metrics.precision_recall(real, made, k)["coverage"]}
        for other, advice in ((k - 1, "A point is its own nearest neighbour: it does not count."),
                              (k + 1, "That reaches one neighbour too far.")):
            if other:
                usual.setdefault(advice, metrics.precision_recall(real, made, other)["recall"])
        if wrong := unlike(number(recall(real, made, k), "Recall"), want, f"With k = {k} recall", usual):
            return wrong
    return None


q5 = Exercise(
    "`recall(real, made, k)`: how much of the world comes at all.",
    solved=recall, properties=[by_the_library],
    hints=["It is (8.10) with the roles exchanged: balls around the made features.",
           "`torch.cdist(made, made).kthvalue(k + 1, dim=1).values`: + 1, since each point is its own nearest.",
           "Which real features lie in any ball? Their share."],
    right="What never comes, it misses.")


# --- 6 a trap for FID -------------------------------------------------------------------------------------------------

def invisible(x, eyes):
    """Pictures [n, 3, 32, 32] that show the same scenes as x, and that FID by the network `eyes` takes for others."""
    most, steps, y = .06, 4, x.clone()
    for _ in range(steps):
        y.requires_grad_()
        uphill, = torch.autograd.grad(eyes(y).sum(), y)
        y = y.detach() + most / steps * uphill.sign()
    return y.clamp(-1, 1)


@functools.cache
def watched():
    """The network, 60 scenes, 250 pictures, and the moments of the world."""
    eyes = weights.load("features").requires_grad_(False)
    world, fresh = (scenes.render(scenes.full(n, data.rng("exercise", 8, k))) for n, k in ((2000, "w"), (250, "f")))
    return eyes, scenes.full(60, data.rng("exercise", 8, "trap")), fresh, statistics(eyes, world)


def statistics(eyes, x):
    """Moments of features."""
    with torch.no_grad():
        return FeatureStatistics.of(torch.cat([eyes(part) for part in x.split(250)]))


def the_oracle_sees_nothing(invisible):
    """The same scenes are read, all legal."""
    eyes, s, _, _ = watched()
    x = scenes.render(s)
    y = invisible(x.clone(), eyes)
    if form := misshapen(y, x, "What comes back"):
        return form
    y = y.detach()
    if y.abs().max() > 1 + 1e-6:
        return "Some values lie beyond -1 and 1; pictures should stay between."
    told = [oracle.same(a, b) for a, b in zip(oracle.read(y), s, strict=True)]
    if sum(told) < 59:
        return f"Of 60 pictures the oracle reads {sum(told)} as the same scene; it should be at least 59."
    return None


def but_fid_does(invisible):
    """3 more than that of as many untouched pictures."""
    eyes, _, fresh, there = watched()
    plain, changed = (statistics(eyes, x) for x in (fresh, invisible(fresh.clone(), eyes).detach()))
    fids = [metrics.frechet_distance(s.mean, s.covariance, there.mean, there.covariance) for s in (plain, changed)]
    if fids[1] < fids[0] + 3:
        return (f"FID goes from {fids[0]:.2f} to {fids[1]:.2f}; it should rise by 3. Eyes overlook what is random; "
                "ask them in which direction each pixel moves their features.")
    return None


q6 = Exercise(
    "`invisible(x, eyes)`: harm that FID sees, and nobody else.",
    solved=invisible, properties=[the_oracle_sees_nothing, but_fid_does],
    hints=["Part 6 walked downhill in pixels, far. Here a few small steps do, and uphill in whatever moves features.",
           "The sum of all features, `eyes(y).sum()`, has a gradient in the pixels; move each a little with its sign.",
           "Steps of 0.015, four of them, then `clamp(-1, 1)`. The oracle forgives 0.06."],
    right="No scene has changed, and FID has risen as if half of the things were missing.")
