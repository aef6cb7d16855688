"""The exercises of chapter 3: a stretched density, undo a coupling, mix channels, bits, draws, a perfect curve."""
import math

import numpy as np
import torch
from torch import nn
from torch.func import jacrev, vmap

from minidiff import data

from . import Exercise, Wrong, brief, differs, misshapen


def random(*shape, key):
    """Normal numbers, float64, that depend on the key alone."""
    return torch.randn(*shape, generator=data.rng("exercise", 3, key), dtype=torch.float64)


def pair(function, inputs, shape):
    """The two tensors that a function gives back, the first of the given shape; or a sentence."""
    got = function(*inputs)
    if not isinstance(got, tuple) or len(got) != 2:
        raise Wrong(f"{function.call} is {brief(got)}; it should be a pair: the numbers and the log-determinants.")
    for part, like, name in zip(got, (torch.zeros(shape), torch.zeros(shape[0])),
                                ("first part", "log-determinant"), strict=True):
        if wrong := misshapen(part, like, f"The {name} of {function.call}"):
            raise Wrong(wrong + " Each row has a log-determinant of its own." * (name != "first part"))
    return got


def log_det_of(f, rows):
    """log |det J_f| at each row, by automatic differentiation."""
    return torch.linalg.slogdet(vmap(jacrev(f))(rows)).logabsdet.detach()


# --- 1 a stretched density --------------------------------------------------------------------------------------------

def log_stretched(x, a, b):
    """log p(x) [n] of x = b + a sinh(z), z standard normal."""
    u = (x - b) / a
    return -torch.asinh(u).square() / 2 - np.log(2 * np.pi) / 2 - (1 + u * u).log() / 2 - np.log(a)


def area_is_share(log_stretched):
    """The area under the density between two points is the share of normal numbers that land there."""
    share = float(torch.special.ndtr(torch.tensor([-2.5, 1.5]).double()).diff())
    for a, b in ((1., 0.), (2., 1.), (.3, -2.)):
        z = torch.linspace(-2.5, 1.5, 20_001, dtype=torch.float64)
        x = b + a * z.sinh()
        got = log_stretched(x, a, b)
        if wrong := misshapen(got, x, log_stretched.call):
            return wrong
        normal = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        usual = {"That is the density of z: the slope of f is missing.": normal,
                 "The slope is that of f, from x to z; you took the way back.": normal * a * z.cosh(),
                 "The slope of (x - b)/a counts as well: 1/a.": normal / z.cosh()}
        usual = {advice: float(torch.trapezoid(p, x)) for advice, p in usual.items()}
        what = f"With a = {a:g}, b = {b:g} the area under p between the images of z = -2.5 and 1.5"
        if wrong := differs(float(torch.trapezoid(got.exp(), x)), share, what, usual, tol=1e-4):
            return wrong
    return None


def slope_by_autograd(log_stretched):
    """(3.1), far out too, with the slope by differentiation."""
    x, a, b = torch.tensor([-60., -3, .1, 5, 80]).double(), 1.7, .4
    z, slope = torch.asinh((x - b) / a), vmap(jacrev(lambda v: torch.asinh((v - b) / a)))(x)
    return differs(log_stretched(x, a, b), slope.log() - z * z / 2 - math.log(2 * math.pi) / 2,
                   f"With a = {a:g}, b = {b:g}, x = {brief(x)}, log p")


q1 = Exercise(
    "`log_stretched(x, a, b)`: the density of $b + a \\sinh z$.",
    solved=log_stretched, properties=[area_is_share, slope_by_autograd],
    hints=["$f(x) = \\mathrm{arsinh}((x - b)/a)$, and $\\log p(x) = \\log \\mathcal N(f(x); 0, 1) + \\log f'(x)$.",
           "The slope of arsinh at $u$ is $1/\\sqrt{1 + u^2}$; by the chain rule $1/a$ counts, too."],
    right="The area between any two points is the share of samples there.")


# --- 2 undo a coupling ------------------------------------------------------------------------------------------------

def undo(y, net, m):
    """(x [n, 2c], log |det dx/dy| [n]) of a coupling that keeps its first half."""
    a, b = y.chunk(2, 1)
    s, t = net(a).chunk(2, 1)
    s = m * torch.tanh(s / m)
    return torch.cat([a, (b - t) * (-s).exp()], 1), -s.sum(1)


def network(c):
    """A random network [n, c] -> [n, 2c] whose answers are large enough to show a missing bound."""
    net = nn.Sequential(nn.Linear(c, 16), nn.Tanh(), nn.Linear(16, 2 * c)).double().requires_grad_(False)
    for k, p in enumerate(net.parameters()):
        p.copy_(random(*p.shape, key=f"net {c} {k}"))
    return net


def back_where_it_was(undo):
    """Rows that a coupling has moved come home."""
    for c, m in ((1, 1.), (3, 2.)):
        net, x = network(c), random(8, 2 * c, key="home")
        a, b = x.chunk(2, 1)
        free, t = net(a).chunk(2, 1)
        s = m * torch.tanh(free / m)
        y = torch.cat([a, b * s.exp() + t], 1)
        got, _ = pair(undo, (y, net, m), x.shape)
        if not torch.equal(got[:, :c], a):
            return f"With rows of {2 * c} numbers the first half has changed; a coupling leaves it alone."
        other, shift = net(y[:, c:]).chunk(2, 1)
        usual = {"Take the shift away first, then undo the scale.": y[:, c:] * (-s).exp() - t,
                 "The log-scale is bounded by m tanh(s'/m).": (y[:, c:] - t) * (-free).exp(),
                 "The network sees the half that stayed, y[:, :c].":
                     (y[:, c:] - shift) * (-m * torch.tanh(other / m)).exp()}
        if advice := next((advice for advice, wrong in usual.items() if torch.allclose(got[:, c:], wrong)), ""):
            return f"With rows of {2 * c} numbers and m = {m:g} the second half does not come home. {advice}"
        if wrong := differs(got, x, f"With rows of {2 * c} numbers and m = {m:g} what should come home"):
            return wrong
    return None


def log_det_of_this_direction(undo):
    """Against autograd."""
    c, m = 3, 2.
    net, y = network(c), random(6, 2 * c, key="direction")
    _, got = pair(undo, (y, net, m), y.shape)
    want = log_det_of(lambda row: undo.function(row[None], net, m)[0][0], y)
    if torch.allclose(got.double(), -want):
        return "The log-determinant is that of the other direction; undoing a stretch is a squeeze, so its sign turns."
    return differs(got, want, "The log-determinant, beside autograd's,")


q2 = Exercise(
    "`undo(y, net, m)`: the inverse of a coupling and its log-determinant.",
    solved=undo, properties=[back_where_it_was, log_det_of_this_direction],
    hints=["`a, b = y.chunk(2, 1)`; $a$ is what it was, so `net(a)` says again what it said.",
           "First take $t$ away, then multiply with $e^{-s}$; and do not forget to bound $s$.",
           "The diagonal of this direction's Jacobian is $e^{-s}$."],
    right="It brings every row home, and autograd agrees on the log-determinant.")


# --- 3 mix channels ---------------------------------------------------------------------------------------------------

def mix_channels(x, w):
    """(z [n, c, h, w], log |det dz/dx| [n]) of a 1x1 convolution."""
    pixels = x.shape[2] * x.shape[3]
    return torch.einsum("ij,njhw->nihw", w, x), (pixels * torch.linalg.slogdet(w).logabsdet).expand(len(x))


def each_pixel_is_multiplied(mix_channels):
    """z[:, i, j] = W x[:, i, j], pixel by pixel."""
    x, w = random(2, 3, 2, 4, key="pixels"), random(3, 3, key="matrix")
    got, _ = pair(mix_channels, (x, w), x.shape)
    want = torch.stack([torch.stack([torch.stack([w @ x[n, :, i, j] for j in range(4)], 1) for i in range(2)], 1)
                        for n in range(2)])
    if torch.allclose(got, torch.einsum("ji,njhw->nihw", w, x)):
        return "Each pixel is multiplied with the transpose of w; it should be w @ x[n, :, i, j]."
    return differs(got, want, "Beside w @ x[n, :, i, j] pixel by pixel, z")


def volume_by_autograd(mix_channels):
    """Determinants of both signs, pictures that are not square."""
    for key, flip in (("right", 1.), ("inside out", -1.)):
        w = torch.linalg.qr(random(2, 2, key=key))[0] @ torch.tensor([[2., .3], [0, .7]]).double()
        w = w * torch.tensor([1., flip * float(torch.linalg.det(w).sign())]).double()
        x = random(3, 2, 2, 3, key="volume")
        _, got = pair(mix_channels, (x, w), x.shape)
        want = float(log_det_of(lambda r, w=w: mix_channels.function(r.view(1, 2, 2, 3), w)[0].flatten(),
                                x.flatten(1))[0])
        once = float(torch.linalg.slogdet(w).logabsdet)
        usual = {"That is one pixel's; all pixels are stretched.": once, "That is the way back.": -want,
                 "There are h w pixels, whatever the number of channels.": once * x[0].numel()}
        what = f"With det w = {float(torch.linalg.det(w)):.2f} and 2 x 3 pixels the log-determinant"
        for number in got:
            if wrong := differs(number, want, what, usual):
                return wrong
    return None


q3 = Exercise(
    "`mix_channels(x, w)`: an invertible 1×1 convolution and its log-determinant.",
    solved=mix_channels, properties=[each_pixel_is_multiplied, volume_by_autograd],
    hints=["`torch.einsum(\"ij,njhw->nihw\", w, x)` multiplies the channels of each pixel.",
           "`torch.linalg.slogdet(w).logabsdet` is $\\log|\\det W|$, for one pixel.",
           "The same number for each row: `.expand(len(x))`."],
    right="Pixel by pixel it is w, and the volume is autograd's, inside out or not.")


# --- 4 bits -----------------------------------------------------------------------------------------------------------

def bits_from_unit(log_p, dims, levels):
    """Bits per dimension of pictures in [0, 1] that are told to `levels` steps."""
    return -(log_p - dims * np.log(levels - 1)) / (dims * np.log(2))


def nobody_knows(bits_from_unit):
    """Uniform over the cubes of all levels: log2(levels) bits."""
    for dims, levels in ((768, 256), (64, 17), (10, 2)):
        log_p = -dims * math.log(levels / (levels - 1))
        nats, bit = log_p / dims, math.log(2)
        usual = {"log_p is in nats; divide by log 2.": -nats + math.log(levels - 1),
                 "The pictures are in [0, 1]: a step is 1/(levels - 1) wide.":
                     (-nats + math.log((levels - 1) / 2)) / bit,
                 "Per dimension: divide by dims, too.": (-log_p + dims * math.log(levels - 1)) / bit,
                 "levels steps have levels - 1 gaps between them, each 1/(levels - 1) wide.":
                     (-nats + math.log(levels)) / bit,
                 "A density is not a probability yet: the width of a step is missing.": -nats / bit,
                 "A higher density means fewer bits: mind the sign.": (nats - math.log(levels - 1)) / bit}
        what = f"For a uniform model of {dims} numbers on {levels} levels the result"
        if wrong := differs(bits_from_unit(log_p, dims, levels), math.log2(levels), what, usual):
            return wrong
    return None


def a_compressor(bits_from_unit):
    """Levels drawn with probabilities 1/2, 1/4, 1/8, 1/8 need 1.75 bits each; the density is flat on each cube."""
    shares = torch.tensor([.5, .25, .125, .125]).double()
    for dims in (1, 30):
        log_p = dims * float((shares * (shares * 3).log()).sum())        # cubes 1/3 wide
        what = f"For {dims} numbers on 4 levels of probability 1/2, 1/4, 1/8, 1/8 the mean result"
        if wrong := differs(bits_from_unit(log_p, dims, 4), 1.75, what):
            return wrong
    return None


q4 = Exercise(
    "`bits_from_unit(log_p, dims, levels)`: nats of a density on $[0, 1]$ as bits per dimension.",
    solved=bits_from_unit, properties=[nobody_knows, a_compressor],
    hints=["(3.21), with another $\\Delta$. How far apart are `levels` even steps from 0 to 1?",
           "$\\Delta = 1/(n-1)$, so $D \\log\\Delta = -D \\log(n-1)$."],
    right="Who knows nothing needs log2(levels) bits, and a perfect compressor its entropy.")


# --- 5 several draws --------------------------------------------------------------------------------------------------

def log_probability(log_p, dims, levels):
    """(3.19): [n] lower bounds of log P from k draws each."""
    return log_p.logsumexp(0) - np.log(len(log_p)) + dims * np.log(2 / (levels - 1))


def mean_of_densities(log_probability):
    """The definition, where nothing can over- or underflow."""
    log_p, step = random(4, 3, key="draws"), 2 / 16
    got, want = log_probability(log_p, 2, 17), (log_p.exp().mean(0) * step ** 2).log()
    wrongs = {"the mean of the logarithms is below the logarithm of the mean; (3.19) wants the latter.":
                  log_p.mean(0) + 2 * math.log(step),
              "the sum over the k draws should be a mean: less log k.": want + math.log(4),
              "the volume of a cube is missing: dims times log(2/(levels - 1)).": log_p.exp().mean(0).log()}
    if wrong := misshapen(got, want, log_probability.call):
        return wrong + " The draws come first: there is one result for each picture."
    for advice, wrong in wrongs.items():
        if torch.allclose(got, wrong):
            return f"With 4 draws of 3 pictures the result is {brief(got)} instead of {brief(want)}: {advice}"
    return differs(got, want, "With 4 draws of 3 pictures of 2 numbers on 17 levels the result")


def real_pictures(log_probability):
    """log-densities of thousands of nats."""
    for c in (-1e4, 1e4):
        log_p = random(5, 3, key="thousands")
        got = log_probability(log_p + c, 768, 256)
        if not isinstance(got, torch.Tensor) or not got.isfinite().all():
            return f"Around {c:,.0f} nats the result is {brief(got)}; take the largest out before the exponential."
        want = log_p.exp().mean(0).log() + c - 768 * math.log(127.5)
        if wrong := differs(got, want, f"Around {c:,.0f} nats the result", tol=1e-8):
            return wrong
    return None


q5 = Exercise(
    "`log_probability(log_p, dims, levels)`: a bound of $\\log P$ from several draws.",
    solved=log_probability, properties=[mean_of_densities, real_pictures],
    hints=["A mean of densities, whose logarithm you want: log-sum-exp over the draws, (1.10), less $\\log k$.",
           "`log_p.logsumexp(0)`. And a density times the volume $\\Delta^D$ is a probability."],
    right="It is the logarithm of the mean, and it survives real pictures.")


# --- 6 a perfect curve ------------------------------------------------------------------------------------------------

def to_normal(x, weights, means, stds):
    """(f(x) [n], log f'(x) [n]) for x [n] of a mixture of normals; weights, means, stds [k]."""
    u = (x[:, None] - means) / stds
    z = torch.special.ndtri((weights * torch.special.ndtr(u)).sum(1))
    log_p = (weights.log() - stds.log() - u * u / 2).logsumexp(1)        # both without the 2 pi
    return z, log_p + z * z / 2


def mixture():
    """Three humps of different widths."""
    return tuple(torch.tensor(numbers).double() for numbers in ([.5, .3, .2], [-2., 1., 3.], [.5, 1., .2]))


def samples_become_normal(to_normal):
    """Numbers drawn from the mixture, pushed through, have normal quantiles."""
    weights, means, stds = mixture()
    k = torch.multinomial(weights, 40_000, replacement=True, generator=data.rng("exercise", 3, "humps"))
    x = means[k] + stds[k] * random(40_000, key="samples")
    z, _ = pair(to_normal, (x, weights, means, stds), x.shape)
    for q, want in ((.1, -1.2816), (.5, 0.), (.9, 1.2816)):
        got = float(z.double().quantile(q))
        if abs(got - want) > .04:
            return (f"Of 40,000 numbers from a mixture the {q:g} quantile of f(x) is {got:.3f}; of normal numbers it "
                    f"is {want:.3f}. F adds up the weights times Phi((x - mean)/std).")
    return None


def slope_is_the_curve_s(to_normal):
    """Against autograd of the curve itself."""
    weights, means, stds = mixture()
    x = torch.linspace(-3.5, 4, 60, dtype=torch.float64)
    _, got = pair(to_normal, (x, weights, means, stds), x.shape)
    slope = vmap(jacrev(lambda v: to_normal.function(v[None], weights, means, stds)[0][0]))(x)
    if torch.allclose(got.exp(), slope.log(), atol=1e-6) or torch.allclose(got, slope, atol=1e-6):
        return "That is the slope itself; its logarithm is wanted."
    if torch.allclose(got, -slope.log(), atol=1e-6):
        return "The log-slope has the wrong sign: it is log p(x) - log N(f(x)), not the other way round."
    return differs(got, slope.log(), "Beside autograd's, the log-slope", tol=1e-5)


q6 = Exercise(
    "`to_normal(x, weights, means, stds)`: the curve that makes a mixture on a line normal, and its log-slope.",
    solved=to_normal, properties=[samples_become_normal, slope_is_the_curve_s],
    hints=["$F(x) = \\sum_k \\pi_k \\Phi\\big((x - \\mu_k)/\\sigma_k\\big)$; `x[:, None]` meets the components.",
           "By (3.1), $p(x) = \\mathcal N(f(x))\\, f'(x)$. You know $p$, so you know $f'$.",
           "$\\log f'(x) = \\log p(x) + z^2/2 + \\frac12\\log 2\\pi$."],
    right="Samples become normal, and the slope is the curve's own.")
