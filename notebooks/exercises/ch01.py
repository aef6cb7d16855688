"""The exercises of chapter 1: log-sum-exp, counting numbers, an M-step, drawing, the best guess, half a picture."""
import math

import torch

from minidiff import data
from minidiff.mixture import GaussianMixture

from . import Exercise, Wrong, brief, differs, luck, misshapen


def random(*shape, key):
    """Normal numbers, float64, that depend on the key alone."""
    return torch.randn(*shape, generator=data.rng("exercise", 1, key), dtype=torch.float64)


# --- 1 log-sum-exp ----------------------------------------------------------------------------------------------------

def log_sum_exp_rows(a):
    """log sum_k exp a[:, k], [n]; a [n, k] may hold minus infinity."""
    m = a.amax(1, keepdim=True)
    m = torch.where(m.isfinite(), m, torch.zeros_like(m))               # a row of minus infinity: nothing to take out
    return m[:, 0] + (a - m).exp().sum(1).log()


def rows_of_moderate_size(log_sum_exp_rows):
    """The definition, where nothing can over- or underflow."""
    a = random(5, 3, key="moderate")
    return differs(log_sum_exp_rows(a), a.exp().sum(1).log(), log_sum_exp_rows.call)


def rows_far_from_zero(log_sum_exp_rows):
    """log sum exp (a + c) = c + log sum exp a, for c that no exponential survives."""
    for c in (-2000., 2000.):
        a = random(4, 3, key="far").round(decimals=2)
        got = log_sum_exp_rows(a + c)
        if not isinstance(got, torch.Tensor) or not got.isfinite().all():
            return f"Around {c:g} the result is {brief(got)}; take out the largest of each row before the exponential."
        if wrong := differs(got, c + a.exp().sum(1).log(), f"Around {c:g} the result", tol=1e-6):
            return wrong
    a = torch.tensor([[0., -3000.], [3000., 2999.]]).double()            # the largest of all hides the first row
    return differs(log_sum_exp_rows(a), torch.tensor([0., 2999 + math.log(1 + math.e)]).double(),
                   "With one row around 0 and one around 3000 the result")


def impossible_components(log_sum_exp_rows):
    """Minus infinity counts as nothing; where all is impossible, so is the sum."""
    a = torch.tensor([[0., -math.inf, 0.], [-math.inf] * 3]).double()
    got = log_sum_exp_rows(a)
    if wrong := differs(got[:1], torch.tensor([math.log(2)]).double(), "With a[0] = [0, -inf, 0] the result"):
        return wrong
    if got[1] != -math.inf:
        return f"For a row of nothing but -inf the result is {got[1]:g}; nothing has probability, so it should be -inf."
    return None


q1 = Exercise(
    "`log_sum_exp_rows(a)`: $\\log \\sum_k e^{a_k}$ for each row, whatever its size.",
    solved=log_sum_exp_rows, properties=[rows_of_moderate_size, rows_far_from_zero, impossible_components],
    hints=["Take out the largest of *each row*: `a.amax(1, keepdim=True)`.",
           "$-\\infty - (-\\infty)$ is `nan`. When does it occur, and what could be taken out instead?",
           "`torch.where(m.isfinite(), m, 0)` takes nothing out of rows that hold nothing."],
    right="It neither overflows nor underflows, and impossible components count as nothing.")


# --- 2 counting -------------------------------------------------------------------------------------------------------

def mixture_size(k, d, kind, rank):
    """Free numbers of a mixture of k components in d dimensions."""
    covariance = {"full": d * (d + 1) // 2, "diag": d, "spherical": 1,
                  "lowrank": d + d * rank - rank * (rank - 1) // 2}[kind]
    return k - 1 + k * (d + covariance)


def directions(d, kind, rank):
    """In how many directions a covariance of this kind moves: the rank of a Jacobian."""
    def covariance(t):
        if kind == "full":
            root = torch.zeros(d, d, dtype=t.dtype).index_put(tuple(torch.tril_indices(d, d)), t)
            return root @ root.T
        if kind == "lowrank":
            return t[:d].diag() + t[d:].reshape(d, rank) @ t[d:].reshape(d, rank).T
        return (t * torch.ones(d, dtype=t.dtype)).diag()
    many = {"full": d * (d + 1) // 2, "diag": d, "spherical": 1, "lowrank": d + d * rank}[kind]
    at = random(many, key="directions").abs() + .5
    return int(torch.linalg.matrix_rank(torch.func.jacrev(lambda t: covariance(t).flatten())(at)))


def every_direction_counts(mixture_size):
    """Covariances by the rank of a Jacobian, means and weights by their degrees of freedom."""
    for kind, k, d, rank in (("spherical", 1, 5, 0), ("diag", 4, 7, 0), ("full", 3, 6, 0), ("lowrank", 1, 12, 1),
                             ("lowrank", 5, 12, 3)):
        c = directions(d, kind, rank)
        usual = {"The weights add up to 1, so the last one is not free.": k + k * (d + c),
                 "Weights are numbers too.": k * (d + c), "Each component has a mean, too.": k - 1 + k * c,
                 "A covariance is symmetric: entries above the diagonal are not free.": k - 1 + k * (d + d * d),
                 "Each component has a covariance of its own.": k - 1 + k * d + c,
                 "The shares add up to 1 once, not once in each component.": (k - 1) * (1 + d + c)}
        if kind == "lowrank":
            usual["Turning the columns of U among themselves changes nothing; r(r-1)/2 numbers are not free."] = (
                k - 1 + k * (d + d + d * rank))
            usual["A low-rank covariance has its diagonal, too."] = k - 1 + k * (d + c - d)
        if kind == "spherical":
            usual["A round covariance is one number, not one in each direction."] = k - 1 + k * (d + d)
        if wrong := differs(mixture_size(k, d, kind, rank), k - 1 + k * (d + c), mixture_size.call, usual, tol=1e-9):
            return wrong
    return None


q2 = Exercise(
    "`mixture_size(k, d, kind, rank)`: how many free numbers a mixture has.",
    solved=mixture_size, properties=[every_direction_counts],
    hints=["Three parts: weights, means, covariances. The table of part 5 has the last.",
           "$k$ weights that add up to 1: how many may you choose?"],
    right="Each number counts that moves the mixture, and no other.")


# --- 3 an M-step ------------------------------------------------------------------------------------------------------

def m_step(x, r):
    """(weights [k], means [k, d], variances [k, d]) from points [n, d] and responsibilities [n, k]."""
    n = r.sum(0)
    means = r.T @ x / n[:, None]
    variances = (r[..., None] * (x[:, None] - means).square()).sum(0) / n[:, None]
    return n / len(x), means, variances


def three(m_step, x, r):
    """The three tensors, or a sentence."""
    got, d, k = m_step(x, r), x.shape[1], r.shape[1]
    if not isinstance(got, tuple) or len(got) != 3:
        raise Wrong(f"{m_step.call} is {brief(got)}; it should be the tuple (weights, means, variances).")
    for part, shape, name in zip(got, ((k,), (k, d), (k, d)), ("weights", "means", "variances"), strict=True):
        if wrong := misshapen(part, torch.zeros(shape), f"The tensor of {name}"):
            raise Wrong(wrong)
    return got


def certain_points(m_step):
    """Where each point belongs to one component, a group's share, mean and variance."""
    x, which = random(60, 3, key="certain"), torch.arange(60) % 4 // 2 + torch.arange(60) // 40
    weights, means, variances = three(m_step, x, torch.nn.functional.one_hot(which, 3).double())
    for k in range(3):
        mine, what = x[which == k], f"of a component that holds {int((which == k).sum())} of 60 points for certain"
        for got, want, name in ((weights[k], torch.tensor(len(mine) / 60).double(), "weight"),
                                (means[k], mine.mean(0), "mean"),
                                (variances[k], mine.var(0, correction=0), "variance")):
            if wrong := differs(got, want, f"The {name} {what}"):
                return wrong
    return None


def no_better_parameters(m_step):
    """The bound (1.11) has no slope at the answer: autograd."""
    x, r = random(80, 2, key="soft"), random(80, 3, key="shares").softmax(1)
    weights, means, variances = (t.detach().double().clone().requires_grad_() for t in three(m_step, x, r))
    if (variances <= 0).any():
        return "A variance is not positive; it should be a mean of squares."
    log = -(x[:, None] - means) ** 2 / (2 * variances) - variances.log() / 2
    bound = (r * (log.sum(2) + (weights / weights.sum()).log())).sum() / len(x)
    slopes = torch.autograd.grad(bound, (weights, means, variances))
    for slope, name in zip(slopes, ("weights", "means", "variances"), strict=True):
        if slope.abs().max() > 1e-6:
            return (f"With soft responsibilities the bound (1.11) still rises if the {name} are moved; they should be "
                    "the weighted shares, means, and mean squares around the new means.")
    return differs(weights.sum(), 1, "The sum of the weights")


q3 = Exercise(
    "`m_step(x, r)`: weights, means and diagonal variances from responsibilities.",
    solved=m_step, properties=[certain_points, no_better_parameters],
    hints=["$n_k$ is `r.sum(0)`. Weights are $n_k / n$; everything else is divided by $n_k$.",
           "All means at once: `r.T @ x` is `[k, d]`.",
           "`x[:, None] - means` is `[n, k, d]`: each point seen from each new mean."],
    right="With certain points it is each group's mean and variance, and the bound has no slope left.")


# --- 4 drawing --------------------------------------------------------------------------------------------------------

def draw(model, n, generator):
    """n points [n, d] from a mixture with full covariances; all dice are thrown with the generator."""
    weights, means, covariances = model.weights_, model.means_, model.covariances_
    k = torch.multinomial(weights, n, replacement=True, generator=generator)
    z = torch.randn(n, means.shape[1], generator=generator, dtype=means.dtype)
    return means[k] + (torch.linalg.cholesky(covariances)[k] @ z[:, :, None])[:, :, 0]


def lumps():
    """Three clear lumps, all oblique or flat."""
    return GaussianMixture.of(torch.tensor([.5, .2, .3]), torch.tensor([[0., 0], [9, 0], [0, 9]]), torch.tensor(
        [[[1., .5], [.5, 2]], [[.5, -.4], [-.4, .5]], [[2., 0], [0, .3]]]))


def one_generator(draw):
    """Shape, and all dice from the generator."""
    first, again = (draw(lumps(), 50, data.rng("exercise", "points")) for _ in range(2))
    if wrong := misshapen(first, torch.zeros(50, 2), draw.call):
        return wrong
    return None if first.equal(again) else "Equal generators give different points; throw all dice with `generator`."


def shares_and_moments(draw):
    """Lump by lump: how often, where, how wide, how oblique."""
    model = lumps()
    x = draw(model, 20_000, data.rng("exercise", "many points")).double()
    k, want = model.responsibilities(x).argmax(1), (20_000 * model.weights_).round().long()
    count = k.bincount(minlength=3)
    if luck(count, model.weights_) < 1e-6:
        return f"The lumps hold {count.tolist()} of 20,000 points; by their weights it should be about {want.tolist()}."
    for i in range(3):
        mine, mean, covariance = x[k == i], model.means_[i], model.covariances_[i]
        if len(mine.unique(dim=0)) < len(mine):
            return f"In lump {i} points repeat; each point should have noise of its own."
        if (mine.mean(0) - mean).abs().max() > .12:
            return f"Lump {i} lies around {brief(mine.mean(0))}; its mean is {brief(mean)}."
        if (torch.cov(mine.T) - covariance).abs().max() > .15:
            return (f"Lump {i} has the covariance {brief(torch.cov(mine.T).flatten())} instead of "
                    f"{brief(covariance.flatten())}; which L makes L z right, if L Lᵀ is the covariance of L z?")
    return None


q4 = Exercise(
    "`draw(model, n, generator)`: n points from a mixture.",
    solved=draw, properties=[one_generator, shares_and_moments],
    hints=["`torch.multinomial(weights, n, replacement=True, generator=generator)` throws the first die of each point.",
           "If $L L^\\top = \\Sigma$ and $z$ is standard normal, $L z$ has covariance $\\Sigma$: "
           "`torch.linalg.cholesky`.",
           "`roots[k] @ z[:, :, None]` multiplies each point's noise with the root of its own component."],
    right="Shares, means and covariances of all lumps are the mixture's.")


# --- 5 the best guess -------------------------------------------------------------------------------------------------

def best_guess(x, level, means, std):
    """E[x0 | x_t = x] for equally likely round components; x [n, d], means [k, d], level = (alpha, sigma)."""
    alpha, sigma = level
    variance = alpha ** 2 * std ** 2 + sigma ** 2
    r = (-torch.cdist(x, alpha * means).square() / (2 * variance)).softmax(1)
    middle = r @ means
    return middle + alpha * std ** 2 / variance * (x - alpha * middle)


def bayes_on_a_line(best_guess):
    """In one dimension the integral of Bayes' rule, on a grid."""
    clean = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    means, std, x = torch.tensor([[-2.], [.5], [3.]]).double(), .6, torch.linspace(-3, 3, 7, dtype=torch.float64)
    prior = (-(clean[:, None] - means[:, 0]) ** 2 / (2 * std ** 2)).logsumexp(1)
    for alpha, sigma in ((1., .7), (.8, .6), (.3, .95)):
        posterior = (prior - (x[:, None] - alpha * clean) ** 2 / (2 * sigma ** 2)).softmax(1)
        got = best_guess(x[:, None], (alpha, sigma), means, std)
        what = f"With alpha = {alpha:g}, sigma = {sigma:g} and three components on a line, the guess"
        if wrong := differs(got, (posterior @ clean)[:, None], what, tol=1e-5):
            return wrong + " Noise widens a component to alpha² std² + sigma²."
    return None


def pictures_of_768_numbers(best_guess):
    """Where densities underflow; little noise leads home."""
    means = random(20, 768, key="pictures")
    x = .999 * means[:5] + .01 * random(5, 768, key="little")
    got = best_guess(x, (.999, .01), means, .02)
    if wrong := misshapen(got, x, "In 768 dimensions the guess"):
        return wrong
    return differs(got, x / .999, "With next to no noise in 768 dimensions the guess", tol=.03)


q5 = Exercise(
    "`best_guess(x, level, means, std)`: the posterior mean of a mixture of round components.",
    solved=best_guess, properties=[bayes_on_a_line, pictures_of_768_numbers],
    hints=["The noised components have means $\\alpha\\mu_k$ and variance $v = \\alpha^2 s^2 + \\sigma^2$.",
           "Their responsibilities are a softmax of $-|x - \\alpha\\mu_k|^2 / 2v$; `torch.cdist` gives distances.",
           "Component $k$ guesses $\\mu_k + \\alpha s^2 / v \\, (x - \\alpha\\mu_k)$. Mix the guesses."],
    right="It is Bayes' rule, and it survives 768 dimensions.")


# --- 6 half a picture -------------------------------------------------------------------------------------------------

def fill_in(x, known, means, std):
    """x [n, d] with the numbers where known [d] is False replaced by their mean given the others."""
    r = (-torch.cdist(x[:, known], means[:, known]).square() / (2 * std ** 2)).softmax(1)
    return torch.where(known, x, r @ means)


def case(n, key):
    """Points near four means in six dimensions, of which three numbers are known."""
    means, known = random(4, 6, key="half"), torch.tensor([True, False, True, True, False, False])
    return means[torch.arange(n) % 4] + .5 * random(n, 6, key=key), known, means


def what_is_seen_stays(fill_in):
    """Known numbers are untouched; lost ones are not looked at."""
    x, known, means = case(12, "seen")
    got = fill_in(x, known, means, .5)
    if wrong := misshapen(got, x, fill_in.call):
        return wrong
    if not torch.equal(got[:, known], x[:, known]):
        return "Numbers that were seen have changed; only those where `known` is False are filled in."
    other = torch.where(known, x, 5 * random(12, 6, key="elsewhere"))
    if not torch.allclose(fill_in(other, known, means, .5), got):
        return "The filling depends on the lost numbers themselves; responsibilities may look at the known ones only."
    return None


def weighted_samples(fill_in):
    """A second road: clean points drawn from the mixture, weighted by how near their known numbers are."""
    x, known, means = case(6, "weigh")
    got, std, n = fill_in(x, known, means, .5), .5, 400_000
    for row, filled in zip(x, got, strict=True):
        k = torch.randint(4, (n,), generator=data.rng("exercise", "weigh"))
        near = (-(row[known] - means[k][:, known]).square().sum(1) / (2 * std ** 2)).exp()
        lost = means[k][:, ~known] + std * random(n, 3, key="lost")
        want = (near[:, None] * lost).sum(0) / near.sum()
        off = (filled[~known] - want).abs()
        if off.max() > .05:
            i = int(off.argmax())
            return (f"A lost number is filled with {float(filled[~known][i]):.3f}; weighing {n:,} random points by "
                    f"their known numbers gives {float(want[i]):.3f}. Responsibilities come from "
                    "these, with width std.")
    return None


q6 = Exercise(
    "`fill_in(x, known, means, std)`: the lost numbers of a picture, given the others.",
    solved=fill_in, properties=[what_is_seen_stays, weighted_samples],
    hints=["In a round component the numbers are independent: once it is known, the seen say nothing of the lost.",
           "So the seen numbers only tell which component it is: responsibilities from `x[:, known]`.",
           "The lost numbers are then the mean of the means, weighted so; `torch.where(known, x, …)`."],
    right="The seen part says which component it is, and the components say the rest.")
