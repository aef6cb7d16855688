"""The exercises of chapter 7: two conventions, the push, what fits, a cure for loudness, noise again, a measurement."""
import math
from functools import partial

import numpy as np
import torch

from minidiff import data
from minidiff.mixture import GaussianMixture

from . import Exercise, brief, differs, misshapen, unlike


def random(*shape, key):
    """Normal numbers, float64, that depend on the key alone."""
    return torch.randn(*shape, generator=data.rng("exercise", 7, key), dtype=torch.float64)


# --- 1 two conventions ------------------------------------------------------------------------------------------------

def guided_eps(eps_y, eps_none, w):
    """Classifier-free guidance with the w of Ho & Salimans: w = 0 is off."""
    return (1 + w) * eps_y - w * eps_none


def at_zero_nothing_happens(guided_eps):
    """Their scale of 0 is the network's own answer."""
    y, none = random(3, 4, key="y"), random(3, 4, key="none")
    usual = {"That is the guess without a caption: this course's scale 0, or the two exchanged.": none}
    return unlike(guided_eps(y, none, 0.), y, "At w = 0 the result", usual)


def beyond_it(guided_eps):
    """As the course's scale of 1 + w."""
    y, none = random(2, 3, 2, key="y"), random(2, 3, 2, key="none")
    for w in (2., .5, 7.):
        usual = {"Away from the caption? Its weight is 1 + w, that of the other -w.": y - w * (y - none),
                 "The weights 1 + w and -w add up to 1; yours do not.": (1 + w) * y + w * none,
                 "Not the guess is scaled, but the difference of both.": y + w * y}
        if wrong := unlike(guided_eps(y, none, w), y + w * (y - none), f"At w = {w:g} the result", usual):
            return wrong
    return None


q1 = Exercise(
    "`guided_eps(eps_y, eps_none, w)`: guidance as Ho & Salimans write it.",
    solved=guided_eps, properties=[at_zero_nothing_happens, beyond_it],
    hints=["Our scale is 1 + their w. Put that into (7.7).",
           "Collect what stands before `eps_y` and before `eps_none`; the two weights add up to 1."],
    right="Their w = 2 is this course's scale 3.")


# --- 2 the push -------------------------------------------------------------------------------------------------------

def push(x0, slope, level, scale):
    """x0 + scale sigma^2 / alpha slope; x0 and slope [b, d], level = (alpha, sigma), [b] each; slope is a gradient."""
    alpha, sigma = level
    return x0 + (scale * sigma ** 2 / alpha)[:, None] * slope


def lumps():
    """Two lumps in the plane, both together and the second alone."""
    means, variances = torch.tensor([[-1., .4], [.8, -.3]]).double(), torch.tensor([.2, .5]).double()
    return (GaussianMixture.of(torch.tensor([.6, .4]).double(), means, variances, "spherical"),
            GaussianMixture.of(torch.ones(1).double(), means[1:], variances[1:], "spherical"))


def as_bayes_says(push):
    """The best denoiser of everything, pushed, is that of the second lump, at noise levels of all kinds."""
    both, second = lumps()
    for a, s in ((.6, .8), (.9, .2), (.3, 1.5)):
        x, alpha, sigma = random(5, 2, key=f"x {a}"), torch.full((5,), a).double(), torch.full((5,), s).double()
        at = x.clone().requires_grad_()
        slope, = torch.autograd.grad(both.noised(a, s).responsibilities(at)[:, 1].log().sum(), at)
        x0, want = both.posterior_mean(x, a, s), second.posterior_mean(x, a, s)
        usual = {"The factor is sigma² / alpha, from Tweedie's formula; yours is sigma.": x0 + s * slope,
                 "The factor is sigma² / alpha; alpha is missing.": x0 + s ** 2 * slope,
                 "The factor is sigma² / alpha; sigma is not squared.": x0 + s / a * slope,
                 "The slope goes uphill: add it.": 2 * x0 - want,
                 "The factor sigma² / alpha is missing.": x0 + slope}
        what = f"With alpha = {a:g} and sigma = {s:g}, at scale 1, the pushed guess"
        if wrong := unlike(push(x0, slope, (alpha, sigma), 1.), want, what, usual):
            return wrong
    return None


def each_row_its_own_level(push):
    """Rows at different times, and a scale."""
    x0, slope = random(3, 4, key="x0"), random(3, 4, key="slope")
    alpha, sigma = torch.tensor([.9, .5, .1]).double(), torch.tensor([.1, .6, 1.]).double()
    want = x0 + 3 * slope * (sigma ** 2 / alpha)[:, None]
    usual = {"The scale belongs to the push alone, not to the guess.": 3 * want - 6 * slope * (
        sigma ** 2 / alpha)[:, None], "The scale has no effect.": x0 + slope * (sigma ** 2 / alpha)[:, None]}
    return unlike(push(x0, slope, (alpha, sigma), 3.), want, "At scale 3, each row at its own level, the guess", usual)


q2 = Exercise(
    "`push(x0, slope, level, scale)`: a guess, pushed uphill.",
    solved=push, properties=[as_bayes_says, each_row_its_own_level],
    hints=["It is (7.3); the gradient is given as `slope`.",
           "Tweedie: x0_hat = (x_t + sigma² score) / alpha. What is added to the score comes times sigma² / alpha.",
           "alpha and sigma are [b], one a row: `[:, None]` lets them meet [b, d]."],
    right="At scale 1 it is Bayes' rule, to the last digit.")


# --- 3 what fits ------------------------------------------------------------------------------------------------------

def log_fits(log_p, fits):
    """log p(y | x_t), [b]: log_p [b, k] is log(weight times density) of each scene at x_t, fits [k] tells which fit."""
    return log_p[:, fits].logsumexp(1) - log_p.logsumexp(1)


def by_shares(log_fits):
    """Numbers of ordinary size, where shares can be added up as they are."""
    log_p, fits = random(6, 5, key="log p") * 2 - 1, torch.tensor([True, False, True, True, False])
    p = log_p.exp()
    want = (p[:, fits].sum(1) / p.sum(1)).log()
    usual = {"That is the share of those that do not fit.": (p[:, ~fits].sum(1) / p.sum(1)).log(),
             "Divide by all scenes, those that fit among them.": (p[:, fits].sum(1) / p[:, ~fits].sum(1)).log(),
             "That is the share; its logarithm is wanted.": want.exp(),
             "A sum of shares, not of their logarithms.": log_p.log_softmax(1)[:, fits].sum(1),
             "That is log p(x, y); divide by p(x).": p[:, fits].sum(1).log(),
             "Not only the likeliest of those that fit: all of them count.": log_p.log_softmax(1)[:, fits].amax(1)}
    return unlike(log_fits(log_p, fits), want, "Of 5 scenes, 3 of which fit, log p(y | x)", usual)


def far_from_everything(log_fits):
    """Densities of pictures: e to the minus thousands."""
    log_p = torch.tensor([[-5000., -5002., -9000.], [-800., -20., -810.]], dtype=torch.float64)
    want = torch.tensor([-2 - math.log1p(math.exp(-2)), 0.], dtype=torch.float64)
    if wrong := unlike(log_fits(log_p, torch.tensor([False, True, True])), want, "With densities like e^-5000 it"):
        return wrong + " Such numbers are 0 for a computer: stay with logarithms (logsumexp)."
    return None


q3 = Exercise(
    "`log_fits(log_p, fits)`: a perfect classifier of noisy pictures.",
    solved=log_fits, properties=[by_shares, far_from_everything],
    hints=["p(y | x) is what those that fit weigh, divided by what all weigh.",
           "The logarithm of a sum of exponentials is `torch.logsumexp`; it survives e^-5000."],
    right="It holds even where every density is 0 for a computer.")


# --- 4 too loud -------------------------------------------------------------------------------------------------------

def rescaled(guided, positive, share):
    """The guided guess [b, *d] with its spread pulled by `share` to that of the unguided one, each row on its own."""
    wanted, found = (x.flatten(1).std(1).reshape(-1, *[1] * (x.ndim - 1)) for x in (positive, guided))
    return (1 - share + share * wanted / found) * guided


def all_the_way(rescaled):
    """At share 1 each row has the other's standard deviation, at 0 nothing changes."""
    positive = random(3, 2, 4, 4, key="positive") * torch.tensor([.5, 1, 3])[:, None, None, None]
    guided = 2.5 * random(3, 2, 4, 4, key="guided") + .7
    if wrong := unlike(rescaled(guided, positive, 0.), guided, "At share 0 the guess"):
        return wrong + " There nothing is mended."
    factor = (positive.flatten(1).std(1) / guided.flatten(1).std(1))[:, None, None, None]
    usual = {"Each row has a spread of its own; yours is that of the batch.": guided * positive.std() / guided.std(),
             "The wrong way round: wanted over found.": guided / factor,
             "That is the ratio of the variances.": guided * factor ** 2,
             "Multiply the guided guess, not the other.": positive / factor,
             "Multiply the whole guess; only its mean was kept here.": guided.mean((1, 2, 3), True) + (
                 guided - guided.mean((1, 2, 3), True)) * factor}
    return unlike(rescaled(guided, positive, 1.), guided * factor, "At share 1 the guess", usual)


def part_of_the_way(rescaled):
    """The factors are mixed."""
    positive, guided = random(2, 9, key="p"), 4 * random(2, 9, key="g")
    factor = (positive.std(1) / guided.std(1))[:, None]
    want = .3 * guided + .7 * factor * guided
    usual = {"The shares are exchanged: share 1 mends all.": .7 * guided + .3 * factor * guided,
             "A share of the way is a mean, not a power.": factor ** .7 * guided,
             "What is not mended stays: (1 - share) guided.": .7 * factor * guided,
             "Mix with the guided guess, not with the unguided one.": .3 * positive + .7 * factor * guided}
    return unlike(rescaled(guided, positive, .7), want, "At share 0.7 the guess", usual)


q4 = Exercise(
    "`rescaled(guided, positive, share)`: quieter colours.",
    solved=rescaled, properties=[all_the_way, part_of_the_way],
    hints=["It is (7.10). The standard deviation is over all numbers of one picture, a row on its own.",
           "`x.flatten(1).std(1)` is [b]; give it the axes that x has before you multiply.",
           "The factor is (1 - share) + share · wanted / found."],
    right="At share 1 each picture is as loud as it was unguided.")


# --- 5 noise again ----------------------------------------------------------------------------------------------------

def noised_again(x, at, to, eps):
    """From x at `at` = (alpha_s, sigma_s) up to `to` = (alpha_t, sigma_t), which has more noise; eps is N(0, 1)."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = at, to
    kept = alpha_t / alpha_s
    return kept * x + (sigma_t ** 2 - kept ** 2 * sigma_s ** 2) ** .5 * eps


def as_in_one_go(noised_again):
    """Two independent noises are one, so that x_t is what one step from x0 gives: its parts are asked one by one."""
    x, eps = random(2, 3, key="x"), random(2, 3, key="eps")
    for (a, s), (b, u) in (((.9, .3), (.6, .7)), ((.7, .3), (.4, .6)), ((1., .5), (1., 2.)), ((1., 0.), (.6, .8))):
        kept, fresh = b / a, math.sqrt(u ** 2 - (b * s / a) ** 2)
        usual = {"x has noise already; its share must be taken away before new noise is added.": kept * x + u * eps,
                 "x must shrink from alpha_s to alpha_t, by their ratio.": b * x + fresh * eps,
                 "Variances are subtracted, not standard deviations.": kept * x + (u - kept * s) * eps,
                 "The old noise shrinks, too: (alpha_t / alpha_s)² sigma_s².":
                 kept * x + math.sqrt(abs(u ** 2 - s ** 2)) * eps,
                 "That is the variance of the fresh noise; eps comes times its root.": kept * x + fresh ** 2 * eps,
                 "1 - (alpha_t / alpha_s)² is right only where alpha² + sigma² = 1.":
                 kept * x + math.sqrt(1 - min(kept, 1) ** 2) * eps}
        what = f"From (alpha, sigma) = {brief((a, s))} up to {brief((b, u))} the result"
        levels = [tuple(torch.tensor(v, dtype=torch.float64) for v in pair) for pair in ((a, s), (b, u))]
        if wrong := unlike(noised_again(x, *levels, eps), kept * x + fresh * eps, what, usual):
            return wrong
    return None


q5 = Exercise(
    "`noised_again(x, at, to, eps)`: RePaint's step up.",
    solved=noised_again, properties=[as_in_one_go],
    hints=["x_s = alpha_s x0 + sigma_s (old noise). Multiply by what turns alpha_s into alpha_t.",
           "Then the old noise has variance (alpha_t / alpha_s)² sigma_s². How much is missing to sigma_t²?"],
    right="Noised twice is noised once, with the right amount.")


# --- 6 a measurement --------------------------------------------------------------------------------------------------

def log_measured(x0, v, y, r):
    """log p(y | x_t), [b]: y [b] is the mean of a picture's d numbers, measured with std r; given x_t these numbers are
    independent, with means x0 [b, d] and variance v."""
    spread = v / x0.shape[1] + r ** 2
    return -(y - x0.mean(1)) ** 2 / (2 * spread) - np.log(2 * np.pi * spread) / 2


def pushed_if(x, y, level, spread):
    """The guess for data N(0, I), pushed as if y had this variance."""
    a, s = level
    x0 = a * x / (a ** 2 + s ** 2)
    return x0 + s ** 2 / (a ** 2 + s ** 2) * ((y - x0.mean(1)) / (x.shape[1] * spread))[:, None]


def as_bayes_says_of_gaussians(log_measured):
    """Data N(0, I): the pushed guess must be the mean of x0 given x_t and y, from the joint Gaussian."""
    for d, a, s, r in ((4, .6, .8, .3), (9, .9, .5, .05)):
        x, y, v = random(3, d, key=f"x {d}"), random(3, key=f"y {d}"), s ** 2 / (a ** 2 + s ** 2)
        at = x.clone().requires_grad_()
        said = log_measured(a * at / (a ** 2 + s ** 2), v, y, r)
        if wrong := misshapen(said, y, "log p(y | x_t)"):
            return wrong
        if not said.requires_grad:
            return "The result does not depend on x0 for autograd, so nothing pushes."
        pushed = a * x / (a ** 2 + s ** 2) + s ** 2 / a * torch.autograd.grad(said.sum(), at)[0]
        average = torch.full((1, d), 1 / d, dtype=torch.float64)
        seen = torch.cat([a * torch.eye(d, dtype=torch.float64), average])                     # of x0, in (x_t, y)
        cov = seen @ seen.T + torch.diag(torch.tensor([s ** 2] * d + [r ** 2], dtype=torch.float64))
        want = torch.linalg.solve(cov, torch.cat([x, y[:, None]], 1).T).T @ seen

        instead = partial(pushed_if, x, y, (a, s))
        usual = {"A mean of d independent numbers has variance v / d, not v.": instead(v + r ** 2),
                 "x0 is only the mean guess: what is open in it, v / d, makes y uncertain, too.": instead(r ** 2),
                 "Variances add up: v / d + r².": instead((math.sqrt(v / d) + r) ** 2),
                 "r is a standard deviation; its square adds up.": instead(v / d + r),
                 "log p has half of the square in it.": 2 * want - instead(math.inf),
                 "The sign: far from y is unlikely.": 2 * instead(math.inf) - want}
        if wrong := unlike(pushed, want, f"With {d} numbers and r = {r:g} the pushed guess", usual):
            return wrong
    return None


def a_density(log_measured):
    """Over all y it adds up to 1."""
    y = torch.linspace(-6, 6, 4001).double()
    x0 = torch.tensor([[.4, -.2, 1.]]).double().expand(len(y), -1)
    total = float(torch.trapezoid(log_measured(x0, .3, y, .4).exp(), y))
    return differs(total, 1., "The integral of p(y | x_t) over y", tol=1e-5)


q6 = Exercise(
    "`log_measured(x0, v, y, r)`: a guide without a network.",
    solved=log_measured, properties=[as_bayes_says_of_gaussians, a_density],
    hints=["Given x_t, the mean of the picture is Gaussian. What is its mean, what its variance?",
           "The d numbers are independent: the variance of their mean is v / d. The measurement adds r².",
           "What is left is the logarithm of a normal density of y."],
    right="With it every guess becomes the mean of what fits both, x_t and the measurement.")
