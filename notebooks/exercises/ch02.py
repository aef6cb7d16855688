"""The exercises of chapter 2: a divergence, the cost of a squeeze, a draw, a bound, who lives, the best decoder."""
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minidiff import data

from . import Exercise, brief, differs, misshapen


def random(*shape, key):
    """Normal numbers, float64, that depend on the key alone."""
    return torch.randn(*shape, generator=data.rng("exercise", 2, key), dtype=torch.float64)


# --- 1 the divergence of two Gaussians --------------------------------------------------------------------------------

def kl_between(m1, v1, m2, v2):
    """KL(N(m1, v1^2) || N(m2, v2^2)), [n]; means and standard deviations [n, d]."""
    return ((v2 / v1).log() + (v1 ** 2 + (m1 - m2) ** 2) / (2 * v2 ** 2) - .5).sum(1)


def equal_gaussians(kl_between):
    """From itself it is 0."""
    m, v = random(4, 3, key="m"), random(4, 3, key="v").exp()
    return differs(kl_between(m, v, m, v), torch.zeros(4).double(), "From a Gaussian to itself the divergence")


def by_integration(kl_between):
    """The definition, on a grid, number by number."""
    grid = torch.linspace(-40, 40, 160_001, dtype=torch.float64)
    (m1, m2), (v1, v2) = (random(2, 3, 2, key=key) for key in ("means", "widths"))
    v1, v2 = (.4 * v1).exp(), (.4 * v2).exp()

    def log_density(m, v):
        return -((grid - m[..., None]) / v[..., None]) ** 2 / 2 - v[..., None].log() - .9189385332
    p, q = log_density(m1, v1), log_density(m2, v2)
    want = (p.exp() * (p - q)).sum((1, 2)) * (grid[1] - grid[0])
    got = kl_between(m1, v1, m2, v2)
    if not (wrong := differs(got, want, "The divergence of two random pairs")):
        return None
    other = (q.exp() * (q - p)).sum((1, 2)) * (grid[1] - grid[0])
    advice = {"That is the divergence the other way round.": other, "Sum over the d numbers, no mean.": want / 2,
              "Mind that v is a standard deviation: the variance is its square.":
                  (v2 / v1).log().sum(1) / 2 + ((v1 + (m1 - m2) ** 2) / (2 * v2) - .5).sum(1)}
    same = [words for words, value in advice.items() if not differs(got, value, "")]
    return f"{wrong} {same[0] if same else 'The check integrates p (log p - log q) on a grid.'}"


q1 = Exercise(
    "`kl_between(m1, v1, m2, v2)`: the divergence between two diagonal Gaussians.",
    solved=kl_between, properties=[equal_gaussians, by_integration],
    hints=["Take the mean of $\\log p - \\log q$ over $p$; only squares are averaged, and $\\mathrm E_p (z - m_2)^2 = "
           "v_1^2 + (m_1 - m_2)^2$.", "With $m_2 = 0$, $v_2 = 1$ it must become (2.11)."],
    right="It agrees with integration, and from a Gaussian to itself it is 0.")


# --- 2 what a squeeze costs -------------------------------------------------------------------------------------------

def squeezed_work(c, few, k, side):
    """Multiply-adds of 1x1 (c to few), k x k (few to few), 1x1 (few to c) on side x side."""
    return (2 * c * few + k ** 2 * few ** 2) * side ** 2


def as_a_network_counts(squeezed_work):
    """PyTorch's own count."""
    for c, few, k, side in ((64, 16, 3, 8), (12, 5, 5, 6), (7, 7, 1, 3)):
        block = nn.Sequential(nn.Conv2d(c, few, 1), nn.Conv2d(few, few, k, padding=k // 2), nn.Conv2d(few, c, 1))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            block(torch.zeros(1, c, side, side))
        want, area = counter.get_total_flops() // 2, side ** 2
        usual = {"A layer works at every place of the map.": want / area, "There are two 1 x 1 convolutions.":
                 want - c * few * area, "A k x k window has k times k places.": (2 * c * few + k * few ** 2) * area,
                 "A multiplication and its addition count as one.": 2 * want,
                 "The middle one goes from few channels to few.": (2 * c * few + k ** 2 * few * c) * area,
                 "Numbers of a layer are not its work.": sum(p.numel() for p in block.parameters())}
        if wrong := differs(squeezed_work(c, few, k, side), want, squeezed_work.call, usual, tol=1e-9):
            return wrong
    return None


q2 = Exercise(
    "`squeezed_work(c, few, k, side)`: multiply-adds of a 1 × 1 bottleneck.",
    solved=squeezed_work, properties=[as_a_network_counts],
    hints=["By (2.3) a convolution costs $k^2 a b\\, hw$. Here are three.",
           "The two of $1 \\times 1$ cost the same: $c$ times `few` at each place."],
    right="PyTorch counts the same.")


# --- 3 draw, and let the gradient through -----------------------------------------------------------------------------

def draw_code(mean, log_std, generator):
    """z ~ N(mean, exp(log_std)^2), [n, d], differentiable in both; dice from the generator."""
    eps = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    return mean + log_std.exp() * eps


def drawn_from_q(draw_code):
    """Shape, the generator, and the moments of many draws."""
    mean, log_std = torch.tensor([[1., -3.]]).double(), torch.tensor([[-1., .5]]).double()
    mean, log_std = mean.expand(40_000, 2), log_std.expand(40_000, 2)
    z, again = (draw_code(mean, log_std, data.rng("exercise", "codes")).detach() for _ in range(2))
    if wrong := misshapen(z, mean, "With mean and log_std [40000, 2] the draw"):
        return wrong
    if not z.equal(again):
        return "Equal generators give different codes; throw all dice with `generator`."
    if len(z.unique(dim=0)) < 39_000:
        return "Many rows have the same noise; each row should have noise of its own."
    if (torch.corrcoef(z.T)[0, 1]).abs() > .05:
        return "The numbers of a code move together; each should have noise of its own."
    off = z.mean(0) - mean[0]
    if off.abs().max() > .06:
        return f"The mean of 40,000 draws is {brief(z.mean(0))}; it should be {brief(mean[0])}."
    return differs(z.std(0), log_std[0].exp(), "The standard deviation of 40,000 draws", tol=.015)


def gradient_passes(draw_code):
    """d E[z^2] / d mean = 2 mean, d E[z^2] / d log_std = 2 std^2."""
    mean, log_std = torch.full((40_000, 1), .8, dtype=torch.float64), torch.full((40_000, 1), -.3, dtype=torch.float64)
    mean, log_std = mean.requires_grad_(), log_std.requires_grad_()
    z = draw_code(mean, log_std, data.rng("exercise", "slope"))
    if not z.requires_grad:
        return "No gradient comes through the draw; mean and log_std should stand in a formula with the die."
    slopes = torch.autograd.grad(z.square().sum(), (mean, log_std), allow_unused=True)
    wants = 2 * .8, 2 * float(log_std[0].detach().exp()) ** 2
    for slope, want, name in zip(slopes, wants, ("mean", "log_std"), strict=True):
        if slope is None or abs(float(slope.mean()) - want) > .05:
            got = "nothing" if slope is None else f"{float(slope.mean()):.3f}"
            return f"The slope of the mean of z² in {name} is {got}; it should be {want:.3f}."
    return None


q3 = Exercise(
    "`draw_code(mean, log_std, generator)`: a code through which gradients pass.",
    solved=draw_code, properties=[drawn_from_q, gradient_passes],
    hints=["Throw a standard normal die of the shape of `mean` with `generator`.",
           "$z = m + v\\varepsilon$; `log_std` is $\\log v$.", "`torch.normal` throws the die itself: no gradient."],
    right="Its moments are q's, and the slopes in mean and log_std are right.")


# --- 4 the bound from weights -----------------------------------------------------------------------------------------

def importance_bound(log_w):
    """log (1/k) sum_j exp log_w[:, j], [n]."""
    k = torch.tensor(float(log_w.shape[1]), dtype=log_w.dtype)
    return log_w.logsumexp(1) - k.log()


def bounds_of_small_weights(importance_bound):
    """The definition, where nothing can overflow; one weight is its own bound."""
    log_w = random(5, 4, key="weights")
    if wrong := differs(importance_bound(log_w[:, :1]), log_w[:, 0], "With one weight a row the bound"):
        return wrong
    got, want = importance_bound(log_w), log_w.exp().mean(1).log()
    if wrong := differs(got, want, "With four weights a row the bound"):
        if not misshapen(got, want, "") and not differs(got, log_w.mean(1), ""):
            return f"{wrong} A mean of logarithms is the ELBO; take the logarithm of the mean."
        return f"{wrong} It is the logarithm of a mean: mind the 1/k."
    return None


def bounds_of_pictures(importance_bound):
    """A common factor comes out as a sum."""
    for c in (-3000., 3000.):
        log_w = random(5, 4, key="weights")
        what = f"With log weights around {c:g} the bound"
        if wrong := differs(importance_bound(log_w + c), c + log_w.exp().mean(1).log(), what, tol=1e-7):
            return f"{wrong} Take the largest out before the exponential."
    return None


q4 = Exercise(
    "`importance_bound(log_w)`: the importance-weighted bound.",
    solved=importance_bound, properties=[bounds_of_small_weights, bounds_of_pictures],
    hints=["It is a log-sum-exp over the k weights of a picture, and something for the mean.",
           "`log_w.logsumexp(1)` survives any weights; the mean divides by k."],
    right="It is the logarithm of the mean weight, at any size.")


# --- 5 who lives ------------------------------------------------------------------------------------------------------

def rates_of(lam, std, beta):
    """Rate of each direction [d] of the best linear beta-VAE with this std."""
    return (.5 * (lam / (beta * std ** 2)).log()).clamp(min=0)


def brute_force(lam, std, beta):
    """The rate at the top of the objective of one direction, over decoder weight, encoder gain and width."""
    t = torch.tensor([.5, .5, -.2], dtype=torch.float64, requires_grad=True)           # w, gain, log v
    climb = torch.optim.LBFGS([t], lr=.5, max_iter=400, tolerance_grad=1e-12, tolerance_change=1e-14,
                              line_search_fn="strong_wolfe")

    def parts():
        w, gain, v = t[0], t[1], t[2].exp()
        error = lam * (1 - w * gain) ** 2 + (w * v) ** 2
        return error / (2 * std ** 2), (gain ** 2 * lam + v ** 2 - 1) / 2 - t[2]

    def objective():
        climb.zero_grad()
        seen, rate = parts()
        (seen + beta * rate).backward()
        return seen + beta * rate
    climb.step(objective)
    return float(parts()[1].detach())


def as_climbing_finds(rates_of):
    """Each direction alone, by brute force."""
    lam = torch.tensor([5., 2., .9, .3]).double()
    for std, beta in ((1., 1.), (.5, 1.), (.5, 4.), (1., .25), (.7, 3.)):
        want = torch.tensor([brute_force(float(value), std, beta) for value in lam]).double()
        what = f"With lam = {brief(lam)}, std = {std:g}, beta = {beta:g} the rate"
        got = rates_of(lam, std, beta)
        if wrong := differs(got, want, what, tol=2e-3):
            if not misshapen(got, want, "") and (got < 0).any():
                return f"{wrong} A rate below 0 means that the direction is dead."
            return f"{wrong} By (2.22) beta widens the noise: its variance is beta std²."
    return None


q5 = Exercise(
    "`rates_of(lam, std, beta)`: the rates of a linear β-VAE.",
    solved=rates_of, properties=[as_climbing_finds],
    hints=["By (2.22) it is a VAE with another std. Which?", "(2.17) for that std; mind the dead directions.",
           "`.clamp(min=0)`."],
    right="Climbing finds the same rates, and the same directions dead.")


# --- 6 the best decoder -----------------------------------------------------------------------------------------------

def best_output(z, mean, std, x):
    """E[x | z] under q(z | x_i), all pictures equally likely, [c, D]."""
    off = (z[:, None] - mean) / std                                      # [c n d]
    log_q = (-.5 * off ** 2 - std.log()).sum(2)
    return log_q.softmax(1) @ x


def case(key, far=0.):
    """Codes, and what an encoder says of twelve pictures of three numbers."""
    mean, std, x = random(12, 2, key=key), (.6 * random(12, 2, key="std")).exp(), random(12, 3, key="x")
    return random(5, 2, key="z") + far, mean, std, x


def densities_by_the_book(best_output):
    """(2.23) with torch's own densities, where nothing underflows."""
    z, mean, std, x = case("near")
    q = torch.distributions.Normal(mean, std).log_prob(z[:, None]).sum(2).exp()
    want = (q[:, :, None] * x).sum(1) / q.sum(1, keepdim=True)
    got = best_output(z, mean, std, x)
    if not (wrong := differs(got, want, "For random codes and an encoder of different widths the output")):
        return None
    if not misshapen(got, want, "") and not differs(got, (-.5 * ((z[:, None] - mean) / std) ** 2).sum(2).softmax(1) @ x,
                                                    ""):
        return f"{wrong} A density has its width in front, too: 1/std for each number."
    return f"{wrong} Weigh picture i by q(z | x_i), and divide by the sum over the pictures."


def codes_far_away(best_output):
    """Where all densities underflow, the weights still add up to 1."""
    z, mean, std, x = case("far", far=200.)
    std = torch.full_like(std, .7)
    got = best_output(z, mean, std, x)
    log_q = torch.distributions.Normal(mean, std).log_prob(z[:, None]).sum(2)
    r = (log_q - log_q.amax(1, keepdim=True)).exp()
    wrong = differs(got, r @ x / r.sum(1, keepdim=True), "For codes far from all pictures the output")
    return f"{wrong} Work with logarithms, as in (1.10)." if wrong else None


q6 = Exercise(
    "`best_output(z, mean, std, x)`: what the best decoder draws.",
    solved=best_output, properties=[densities_by_the_book, codes_far_away],
    hints=["`z[:, None] - mean` is `[c, n, d]`: each code seen from each picture.",
           "$\\log q(z \\mid x_i)$ is a sum over the numbers of the code; it contains $-\\log v$.",
           "A softmax over the pictures, then `@ x`."],
    right="It is the mean of the pictures, weighted by how likely each sent the code.")
