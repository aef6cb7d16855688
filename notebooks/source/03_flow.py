# %% [markdown]
# # Flows
#
# *Chapter 3*
#
# The VAE paints from a short code, and paid for it twice. Its likelihood is an integral that we could only bound from
# below; and what the code does not hold is lost, so its pictures are blurred.
#
# **The question of this chapter: can a network turn noise into pictures and still tell exactly how probable each
# picture is?**

# %% [markdown]
# It can, if each step can be undone. Think of a rubber sheet with a Gaussian hill of sand on it. Stretch the sheet
# here, squeeze it there, but never tear it or fold it over. The sand takes a new shape; and as we know how much each
# place was stretched, we know how high the sand lies.
#
# Below, such a sheet takes the shape of chapter 1's four lumps. By the end of part 3 you will have built all of it.

# %%
import itertools
import json
import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.func import jacrev, vmap

from minidiff import data, flow, mixture, oracle, plot, scenes, train, weights
from minidiff.curves import Affine, Spline
from minidiff.flow import Flow, FlowConfig
from minidiff.mixture import GaussianMixture
from minidiff.notebook import Rule, claim, claims_table, expect, same, steps

plot.style()

# %%
truth = GaussianMixture.of(torch.tensor([.4, .3, .2, .1]),           # chapter 1's four lumps
                           torch.tensor([[0., 0], [3, 1], [1, 3.5], [-2.5, 2]]),
                           torch.tensor([[[.6, .3], [.3, .5]], [[.8, -.4], [-.4, .5]],
                                         [[.3, 0], [0, .9]], [[.5, .2], [.2, .2]]]))


def planar(truth, couplings, n, seed=0):
    """A flow in the plane, trained for n steps of 256 points each: parts 2 and 3 explain every word."""
    with train.seeded("planar", seed):
        model = Flow(FlowConfig(2, steps=couplings, mix=False))
    points = truth.sample(50_000, seed=1000 + seed).float()
    train.fit(model, model.loss, data.batches(points, 256, seed), steps=steps(n), lr=3e-3, seed=seed)
    return model


sheet = planar(truth, couplings=12, n=1000)

# %%
def bent(model, done, side=120):
    """The sheet with `done` of the couplings undone: the sand, and the lines that were straight."""
    u, v = torch.linspace(-5.5, 6, side), torch.linspace(7.5, -4, side)
    z, skip = torch.cartesian_prod(v, u).flip(1), model.config.steps - done
    z = z.flip(1) if skip % 2 else z                                 # each step swaps the two axes
    with torch.no_grad():
        z, log_det = flow.Chain(model.map.maps[3 * skip:])(z)
    sand = ((flow.normal(z) + log_det).exp() / .12).clamp(0, 1).sqrt().view(side, side)
    z = z.T.reshape(2, side, side)
    pixels = (z - z.round()).abs() / torch.stack(torch.gradient(z, dim=(1, 2))).norm(dim=0)
    lines = ((1.2 - pixels).clamp(0, 1) * (z.abs() < 3.3).all(0)).amax(0) * .8
    colour = 1 - sand * torch.tensor([1., .55, .3]).view(3, 1, 1)
    return (2 * (1 - lines) * colour - 1 + .2 * lines)[None]

# %%
frames = [bent(sheet, done) for done in range(13)]
plot.film(frames, columns=1, fps=3,
          alt="A film: a square grid with a round hill on it bends, step by step, until the hill has "
              "four lobes.")

# %%
plot.grid(torch.cat([frames[i] for i in (0, 3, 6, 8, 12)]), columns=5,
          captions=["a Gaussian on a straight grid", "3 couplings", "6", "8", "12: the four lumps"],
          title="Twelve moves bend the grid, and the hill becomes four lumps",
          alt="Five panels: a square grid with one round hill, then grids that bend more and more, at "
              "last with four lobes joined by thin bridges.")

# %% [markdown]
# | | |
# |---|---|
# | **You need** | Chapters 0 to 2; determinants, the chain rule in several dimensions |
# | **This chapter adds** | `flow`: couplings, actnorm, invertible 1×1 convolutions, RealNVP and Glow |
# | | `curves`: what a coupling does to a number: straight lines and splines |
# | **Time** | about two minutes on one core |
#
# Letters and terms: [notation and glossary](notation.md). $f$ goes from data to noise, $z = f(x)$; its inverse
# paints, $x = f^{-1}(z)$. Noise is always $z \sim \mathcal N(0, I)$ here, and $D$ is how many numbers an $x$ has.

# %% [markdown]
# ## 1 When the sheet is stretched
#
# One dimension first. Let $z$ be normal, and $x = e^z$.
#
# **Predict first.** The most likely value of $z$ is 0. Is the most likely value of $x$ then $e^0 = 1$?
#
# No sand is lost. What lay between $z$ and $z + dz$ lies now between $x$ and $x + dx$. So $p_X(x)\, |dx| = p_Z(z)\,
# |dz|$, and with $z = f(x)$
#
# $$ p_X(x) = p_Z\big(f(x)\big)\, \big|f'(x)\big| . \tag{3.1} $$
#
# Where $f$ is steep, a wide piece of $z$ ends in a narrow piece of $x$, and the sand lies high. Here $f(x) = \log x$
# and $f'(x) = 1/x$: steepest near 0. We stretch a hundred thousand numbers and count.

# %%
z = torch.randn(100_000, generator=data.rng("stretch"), dtype=torch.float64)
edges = np.linspace(.05, 6, 120)
middle = (edges[1:] + edges[:-1]) / 2
log_normal = -np.log(middle) ** 2 / 2 - math.log(2 * math.pi) / 2
by_formula = np.exp(log_normal) / middle                             # (3.1)
counted = np.histogram(z.exp().numpy(), edges)[0] / len(z) / (edges[1] - edges[0])
expect("largest difference of the formula and the count", abs(by_formula - counted).max(), 0, .035)
expect("the most likely x", middle[by_formula.argmax()], .33, .41)
by_table = torch.special.ndtr(torch.tensor([.05, 6]).log()).diff().item()
same("the area, and the share of z between log .05 and log 6", by_formula.sum() * (edges[1] - edges[0]),
     by_table, tol=1e-3)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.24, 3.2))
axes[0].hist(z.numpy(), np.log(edges), density=True, color=plot.COLOURS[5])
axes[0].set(title="slices of z, up to log 6, …", xlabel="z", ylabel="density", xlim=(-3.2, 3.2))
axes[1].bar(middle, counted, edges[1] - edges[0], color=plot.COLOURS[5])
axes[1].plot(middle, by_formula, color="black", label="(3.1)")
axes[1].axvline(1, color=plot.COLOURS[1], ls="--", label="$e^0$")
axes[1].set(title="… and the same slices as x", xlabel="$x = e^z$", xlim=(0, 6))
axes[1].legend()
fig.suptitle("Where the sheet is pressed together, the sand lies higher: the top is not at 1")
plot.show(fig, alt="Left: a normal histogram. Right: the histogram of its exponentials, highest near "
                   "0.37, with a curve through it and a dashed line at 1.")

# %% [markdown]
# The top is at $e^{-1} \approx 0.37$: near 0 the sheet is pressed together, and that counts. *Where a density is
# highest depends on the coordinates.* Keep that in mind for part 9.
#
# ### More dimensions
#
# A small box around $x$ becomes a small oblique box around $f(x)$. Its edges are the columns of the **Jacobian** $J =
# \partial f / \partial x$, and its volume is the size of the determinant:
#
# $$ \mathrm{vol}\big(A\,[0,1]^d\big) = |\det A| . \tag{3.2} $$
#
# You know that from linear algebra; we count it all the same. A million points fall on a square. How many fall into
# the oblique box?

# %%
dice = torch.rand(1_000_000, 2, generator=data.rng("darts"), dtype=torch.float64) * 8 - 4      # area 64
for A in torch.tensor([[[2., 1], [.5, 1.5]], [[1, -2], [1.5, .5]], [[.3, 0], [2, 1]]]).double():
    inside = torch.linalg.solve(A, dice.T).T                         # where they were in the unit box
    area = 64 * ((inside >= 0) & (inside <= 1)).all(1).double().mean()
    same(f"area counted, and |det A| = {abs(torch.det(A)):.2f},", area, abs(torch.det(A)), tol=.02)

# %% [markdown]
# So what (3.1) says in one dimension becomes the **change of variables**
#
# $$ \log p_X(x) = \log p_Z\big(f(x)\big) + \log \big|\det J_f(x)\big| , \qquad J_f = \frac{\partial f}{\partial x} .
#    \tag{3.3} $$
#
# For the way back nothing new is needed. $f^{-1}(f(x)) = x$; differentiate both sides:
#
# $$ J_{f^{-1}}\big(f(x)\big)\, J_f(x) = I , \qquad
#    \log\big|\det J_{f^{-1}}\big(f(x)\big)\big| = -\log\big|\det J_f(x)\big| . \tag{3.4} $$
#
# For a check we need a map whose result is known. Computers have one for making normal numbers out of uniform ones,
# Box and Muller's: an angle $2\pi u_2$ and a radius $\sqrt{-2 \log u_1}$. If (3.3) is right, a density of 1 on the
# unit square must turn into the normal density, exactly.

# %%
def paint(u):
    """Two uniform numbers become a point: Box and Muller."""
    r, angle = (-2 * u[0].log()).sqrt(), 2 * math.pi * u[1]
    return torch.stack([r * angle.cos(), r * angle.sin()])


def unpaint(x):
    """The way back: f in (3.3)."""
    return torch.stack([(-x.square().sum() / 2).exp(), torch.atan2(x[1], x[0]) / (2 * math.pi) % 1])


def log_det_of(f, x):
    """log |det J_f| at each row of x, by automatic differentiation."""
    return torch.linalg.slogdet(vmap(jacrev(f))(x)).logabsdet

# %%
u = torch.rand(200, 2, generator=data.rng("box"), dtype=torch.float64)
x = vmap(paint)(u)
same("there and back", vmap(unpaint)(x), u)
same("(3.3), from a density of 1, and the normal density", 0 + log_det_of(unpaint, x),
     flow.normal(x))
same("(3.4): log-determinants there and back", log_det_of(paint, u), -log_det_of(unpaint, x))

# %% [markdown]
# Two nice things follow. A model that is such an $f_\theta$ has an *exact* likelihood: (3.3), no bound, no integral.
# So we can simply climb it, and by (1.3) that brings the model nearer to the truth. And it can be drawn from: throw
# $z$, take $f_\theta^{-1}$.
#
# It is called a **normalising flow**, or flow: read in the direction of $f$, it makes the data normal.
#
# ## 2 Which maps?
#
# So we want a network for $f$. Three wishes:
#
# 1. it can be undone;
# 2. undoing is cheap;
# 3. its $\log|\det J|$ is cheap.
#
# A usual network fails at all three. The third looks harmless, but a determinant of $D$ rows costs about $D^3/3$
# multiplications, and $J$ itself $D$ backward passes. For *one* colour picture of 32 × 32:

# %%
for side in (8, 16, 32, 256):
    D = 3 * side ** 2
    print(f"{side:3} x {side:<3} D = {D:7,}  a determinant: {D ** 3 / 3:.0e} multiplications, "
          f"a sum of D numbers: {D:.0e}")

# %% [markdown]
# The first help is that wishes are kept under **composition**. One map after the other, $f = f_n \circ \dots \circ
# f_1$; Jacobians are multiplied (chain rule), determinants too, so their logarithms add:
#
# $$ \log|\det J_f(x)| = \sum_{i=1}^n \log|\det J_{f_i}(x_{i-1})| , \qquad x_0 = x,\; x_i = f_i(x_{i-1}) . \tag{3.5} $$
#
# Many simple moves make a complicated one. The simple move that made flows work is the **coupling**. Cut $x$ into two
# halves, $x = (a, b)$. Leave $a$ alone. A network looks at $a$, and says how to scale and shift $b$:
#
# $$ a' = a , \qquad b' = b \odot e^{s(a)} + t(a) . \tag{3.6} $$
#
# **Predict first.** The network $(s, t)$ may be anything. Does it have to be invertible?

# %% [markdown]
# No! To undo the move we need $s(a)$ and $t(a)$, and $a$ is still there:
#
# $$ a = a' , \qquad b = \big(b' - t(a')\big) \odot e^{-s(a')} . \tag{3.7} $$
#
# The network itself is never turned round. And the Jacobian? $a'$ does not depend on $b$ at all, and each number of
# $b'$ on just one number of $b$:
#
# $$ J = \begin{pmatrix} I & 0 \\ \partial b'/\partial a & \mathrm{diag}\, e^{s(a)} \end{pmatrix} , \qquad
#    \log|\det J| = \sum_i s_i(a) . \tag{3.8} $$
#
# The determinant of a triangular matrix is the product of its diagonal. Whatever complicated thing the network does
# stands in the lower left block, where the determinant does not look. All three wishes, for one pass through the
# network.

# %%
def coupled(x, net):
    """(3.6) and (3.8) for rows x: net gives s and t, one behind the other."""
    a, b = x.chunk(2, 1)
    s, t = net(a).chunk(2, 1)
    return torch.cat([a, b * s.exp() + t], 1), s.sum(1)


def uncoupled(y, net):
    """(3.7)."""
    a, b = y.chunk(2, 1)
    s, t = net(a).chunk(2, 1)
    return torch.cat([a, (b - t) * (-s).exp()], 1)


def random_net(c_in, c_out, key, width=32):
    """A network of one hidden layer with random numbers, float64."""
    with train.seeded("net", key):
        return nn.Sequential(nn.Linear(c_in, width), nn.Tanh(), nn.Linear(width, c_out)).double()

# %%
x = torch.randn(50, 16, generator=data.rng("rows"), dtype=torch.float64)
nets = [random_net(8, 16, key) for key in range(4)]


def four(x):
    """Four couplings; in between the numbers change places."""
    total = 0
    for net in nets:
        x, log_det = coupled(x.flip(1), net)
        total = total + log_det
    return x, total


one, log_det = coupled(x, nets[0])
same("(3.7): there and back", uncoupled(one, nets[0]), x)
same("(3.8) and autograd", log_det, log_det_of(lambda row: coupled(row[None], nets[0])[0][0], x))
same("(3.5), four in a row, and autograd", four(x)[1], log_det_of(lambda row: four(row[None])[0][0], x))

# %% [markdown]
# Look at the Jacobians themselves. In the second panel the halves have changed places first.

# %%
def straight(row):
    return coupled(row[None], nets[0])[0][0]


def flipped(row):
    return coupled(row.flip(0)[None], nets[1])[0][0].flip(0)


jacobians = {"one coupling": straight, "halves exchanged": flipped,
             "both": lambda row: flipped(straight(row))}

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.24, 3))
for ax, (name, f) in zip(axes, jacobians.items(), strict=True):
    J = jacrev(f)(x[0]).detach()
    ax.imshow(J, cmap="RdBu", vmin=-1, vmax=1)
    ax.set(title=f"{name}: {(J == 0).double().mean():.0%} zeros", xticks=[], yticks=[])
    ax.title.set_size(10)
    ax.grid(visible=False)
fig.suptitle("Each coupling is triangular; two in a row are three quarters full")
plot.show(fig, alt="Three 16 by 16 matrices: a diagonal and a block below it; a diagonal and a block "
                   "above it; three quarters full.")

# %% [markdown]
# That is why the halves must *change places*. Without it $a$ would never move: half of the code would be half of the
# picture, untouched, and could never be normal. With it, three couplings let every number act on every other.
#
# ### A bound on the scale
#
# $e^s$ is a dangerous thing. A few layers with $s = 10$ each stretch by $e^{30}$, and a float has only seven digits.
# Undoing then returns noise. So we bound it, smoothly:
#
# $$ s = m \tanh(s'/m) , \qquad |s| < m , \tag{3.9} $$
#
# where $s'$ comes from the network. For small $s'$ nothing changes, since $\tanh u \approx u$.
#
# **Predict first.** Eight random couplings in ordinary 32-bit numbers; the weights that make $s'$ grow. How large is
# the error after going there and back?

# %%
def bounded(net, m=1.):
    """(3.9) behind a network."""
    def new(a):
        s, t = net(a).chunk(2, 1)
        return torch.cat([m * torch.tanh(s / m), t], 1)
    return new


def round_trip(nets, x):
    """The largest error after going through couplings and back."""
    y = x
    for net in nets:
        y = coupled(y.flip(1), net)[0]
    for net in reversed(nets):
        y = uncoupled(y, net).flip(1)
    return float((y - x).abs().nan_to_num(1e9).max())

# %%
wild = [random_net(8, 16, key).float() for key in range(8)]
errors = {"s as it comes": [], "s bounded by 1": []}
strengths = (1, 2, 4, 8, 16, 32)
with torch.no_grad():
    for before, now in itertools.pairwise((1, *strengths)):
        for net in wild:
            net[2].weight[:8] *= now / before                        # the rows that make s'
        errors["s as it comes"].append(round_trip(wild, x.float()))
        errors["s bounded by 1"].append(round_trip([bounded(net) for net in wild], x.float()))
plot.curves({name: (strengths, np.clip(e, 1e-8, 1e9)) for name, e in errors.items()}, log="xy",
            xlabel="weights behind s', times", ylabel="largest error, there and back",
            title="Without a bound on the scale, a flow is invertible on paper only",
            alt="Errors against the size of weights: unbounded rises to a billion, bounded stays "
                "small.")

# %%
expect("error at 32 times the weights, unbounded", errors["s as it comes"][-1], 1e3)
expect("error at 32 times the weights, bounded", errors["s bounded by 1"][-1], 0, .01)

# %% [markdown]
# Unbounded, the way back is useless from eight times the weights on; bounded, the error stays below a hundredth.
#
# The library's version is the same, cut into parts: `flow.Coupling(net, transform)` halves the channels and asks the
# network; the transform, here `Affine`, is (3.6) with (3.9). Every map of the module has `forward` and `inverse`, and
# each gives back the log-determinant of its own direction.

# %%
given = random_net(8, 16, "library")
ours, our_log_det = coupled(x, bounded(given, 2.))
library = flow.Coupling(given, Affine(most=2.))
same("our coupling and the library's", ours, library(x)[0])
same("log-determinants", our_log_det, library(x)[1])
same("ours undone by the library", library.inverse(ours)[0], x)
same("log-determinants on the way back, by (3.4)", library.inverse(ours)[1], -our_log_det)

# %% [markdown]
# ## 3 A flow in the plane
#
# Stack such couplings, let the halves change places in between, and put the end of it into (3.3). That is **RealNVP**
# (Dinh et al. 2017). The likelihood is climbed by gradients; the loss is its negative,
#
# $$ -\log p_\theta(x) = \underbrace{\tfrac12 |z|^2 + \tfrac D2 \log 2\pi}_{\text{how far out the code lies}}
#    \;-\; \underbrace{\log\big|\det J_f(x)\big|}_{\text{how much was stretched}} , \qquad z = f_\theta(x) .
#    \tag{3.10} $$
#
# The two terms pull against each other. The first alone would shrink everything to $z = 0$; the second alone would
# blow it up without end.
#
# The opening was such a stack. We take its layers out of the library's `Flow` and run them by hand.

# %%
def log_prob_by_hand(model, x):
    """-(3.10), layer by layer."""
    total = 0
    for layer in model.map.maps:
        x, log_det = layer(x)
        total = total + log_det                                      # (3.5)
    return -x.square().sum(1) / 2 - x.shape[1] / 2 * math.log(2 * math.pi) + total

# %%
side = torch.linspace(-9, 11, 401)
area = float(side[1] - side[0]) ** 2
everywhere = torch.cartesian_prod(side, side)
with torch.no_grad():
    same("by hand and by the library", log_prob_by_hand(sheet, everywhere[::100]),
         sheet.log_prob(everywhere[::100]), tol=1e-4)
    p = sheet.log_prob(everywhere).exp()
expect("the density adds up to one", float(p.sum() * area), .995, 1.005)
counted = torch.histogramdd(sheet.sample(50_000, seed=1), [20, 20], range=[-9., 11, -9, 11])[0] / 5e4
by_density = p.view(401, 401)[:-1, :-1].reshape(20, 20, 20, 20).sum((1, 3)) * area
off = (counted - by_density).abs().sum() / 2
expect("its samples fall where it says: total variation", off, 0, .04)

# %% [markdown]
# Its layers are triples. First an *actnorm*, which shifts and scales each number (part 4), then the change of places,
# `Flip`, then a coupling. The sums say that it is a density, and the histogram that samples and density are about the
# same thing: `sample` uses the inverses, `log_prob` does not.
#
# How near is it to the truth? We know that truth, so we need no test set and no bound:
#
# $$ \mathrm{KL}(p\,\|\,p_\theta) = \mathrm E_p\big[\log p(x) - \log p_\theta(x)\big] , \tag{3.11} $$
#
# with both logarithms exact. **Predict first.** One Gaussian is 0.6 nats away (part 2 of chapter 1). How far is one
# coupling, and how far are eight?

# %%
def nats(truth, model, n=20_000):
    """(3.11) from n samples of the truth, and its standard error."""
    return truth.kl(lambda x: model.log_prob(x.float()), n, seed=99)


depths = (1, 2, 4, 8)
stacks = {(k, seed): planar(truth, k, n=500, seed=seed) for k in depths for seed in (1, 2)}
stacks[12, 0] = sheet
away = {key: nats(truth, model)[0] for key, model in stacks.items()}
gaussian, _ = truth.kl(GaussianMixture(1).fit(truth.sample(50_000)).log_prob, 20_000, seed=99)

# %%
fig, ax = plt.subplots(figsize=(8.24, 3.3))
ax.axhline(gaussian, color="black", ls=":", label="one Gaussian")
for seed, mark in ((1, "o"), (2, "s")):
    ax.plot(depths, [away[k, seed] for k in depths], marker=mark, label=f"500 steps, seed {seed}")
ax.plot(12, away[12, 0], "^", ms=8, label="the opening, 1,000 steps")
ax.set(title="Each coupling is simple; a dozen of them come near", xlabel="couplings", yscale="log",
       ylabel="KL(p ∥ p_θ), nats", xticks=(*depths, 12))
ax.legend()
plot.show(fig, alt="Divergence falls from 0.6 for a Gaussian to 0.4, 0.17, 0.1 and below as couplings "
                   "are added.")
for k, low, high in ((1, .37, .46), (2, .14, .22), (4, .09, .16), (8, .04, .13)):
    expect(f"{k} couplings, mean of two seeds, in nats", (away[k, 1] + away[k, 2]) / 2, low, high)
expect("twelve, in nats", away[12, 0], .01, .08)

# %% [markdown]
# One coupling: about 0.42 nats; eight: 0.1; the twelve of the opening, trained twice as long, 0.04. One coupling has
# bent only one of the two numbers. That is better than a Gaussian, and far from the truth.
#
# ### It may not tear
#
# Now we pull the lumps apart, to twice their distance, and train again. A density hides what is small, so we look at
# its logarithm.
#
# **Predict first.** The truth has four separate lumps. The sheet begins as one hill. What lies between the lumps?

# %%
apart = GaussianMixture.of(truth.weights_, 2 * truth.means_, truth.covariances_)
torn = planar(apart, 8, n=500, seed=1)
u, v = torch.linspace(-9, 10, 200), torch.linspace(-6, 12, 200)
spots = torch.cartesian_prod(v, u).flip(1)
codes = torn.encode(apart.means_.float())[0].detach()
paths = [torn.decode(torch.lerp(codes[i], codes[j], torch.linspace(0, 1, 300)[:, None])).detach()
         for i, j in ((0, 1), (1, 2), (2, 3))]


def log_heights(ax, model, name):
    """The logarithm of a density in the plane."""
    with torch.no_grad():
        heights = model.log_prob(spots).clamp(min=-16).view(200, 200)
    ax.contourf(u, v, heights, 16, cmap="Blues")
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.set_title(f"log density of {name}", size=10)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.24, 3.9))
log_heights(axes[0], apart, "the truth")
log_heights(axes[1], torn, "a flow of eight couplings")
for path in paths:
    axes[1].plot(*path.T, "-", color=plot.COLOURS[1], lw=1.5)
fig.suptitle("The flow leaves bridges between the lumps; straight lines of codes cross them")
plot.show(fig, alt="Log densities: the truth has four separate hills; the flow's hills are joined by "
                   "ridges, along which orange paths run from hill to hill.")

# %% [markdown]
# The orange paths are *straight lines* in $z$, from the code of one lump's centre to the next, decoded. A line has no
# gaps, and $f^{-1}$ is continuous, so the path has none: it must cross the empty land. All along the line the normal
# density is positive; so is $p_\theta$ on the path.
#
# A continuous map with a continuous inverse (a *homeomorphism*) can stretch the sheet as thin as it likes, but cannot
# make two sheets of one. Thin means a small $|\det J_f|$, which can be tiny but never 0. A network of finite size,
# trained for a finite time, leaves some sand on the way, in **filaments**. (Between our lumps the truth has *almost*
# nothing, so an endlessly flexible flow could match it. Clean scenes are truly apart; there it could not.)

# %% [markdown]
# How much? We count samples that fall where the truth has almost none: below the density that 99 of 100 true points
# exceed. The truth itself puts 1 % there.

# %%
def strays(truth, model):
    """The share of samples that lie where only one true point in a hundred does."""
    floor = truth.log_prob(truth.sample(20_000, seed=5)).quantile(.01)
    return float((truth.log_prob(model.sample(20_000, seed=6).double()) < floor).double().mean())


expect("samples that went astray, the truth's four lumps", strays(truth, stacks[8, 1]), .012, .06)
expect("pulled apart", strays(apart, torn), .04, .12)
emptiest = torch.stack([path[apart.log_prob(path.double()).argmin()] for path in paths])
with torch.no_grad():
    surplus = torn.log_prob(emptiest) - apart.log_prob(emptiest.double())
expect("in the emptiest places of the three paths the flow has more, in nats", surplus.min(), 2)

# %% [markdown]
# ### A curve instead of a line
#
# (3.6) moves each number of $b$ along a straight line, $e^s b + t$. Nothing in (3.7) and (3.8) needs that. *Any*
# curve $g$ that rises from $-\infty$ to $\infty$ can be undone, and a slope above 0 has a logarithm:
#
# $$ b'_i = g_{a,i}(b_i) , \qquad \log|\det J| = \sum_i \log g_{a,i}'(b_i) . \tag{3.12} $$
#
# A line cannot make two humps one hill; a curve that is flat between them can. A handy kind is the
# **rational-quadratic spline** (Durkan et al. 2019): a few bins, and in each a quotient of two parabolas. With $u \in
# [0, 1]$ the place in a bin from $(x_0, y_0)$ to $(x_1, y_1)$, slopes $d_0, d_1$ at its ends and mean slope $m =
# \frac{y_1-y_0}{x_1-x_0}$,
#
# $$ y = y_0 + (y_1 - y_0)\, \frac{m u^2 + d_0\, u (1-u)}{m + (d_0 + d_1 - 2m)\, u (1-u)} . \tag{3.13} $$

# %%
def piece(x, corners, slopes):
    """(3.13)."""
    (x0, x1, y0, y1), (d0, d1) = corners, slopes
    u, m = (x - x0) / (x1 - x0), (y1 - y0) / (x1 - x0)
    return y0 + (y1 - y0) * (m * u * u + d0 * u * (1 - u)) / (m + (d0 + d1 - 2 * m) * u * (1 - u))


ends = torch.tensor([-1., 2.], dtype=torch.float64, requires_grad=True)
for y1, slopes in ((3., (.2, 5.)), (.5, (4., .1)), (2., (0.01, 0.01))):
    y = piece(ends, (-1., 2., -.5, y1), slopes)
    same(f"to y = {y1}: the ends", y, (-.5, y1))
    same(f"its slopes, and {slopes}", torch.autograd.grad(y.sum(), ends)[0], slopes)
    inner = piece(torch.linspace(-1, 2, 1000, dtype=torch.float64), (-1., 2., -.5, y1), slopes)
    expect("it rises all the way", bool((inner.diff() > 0).all()))

# %% [markdown]
# The ends and slopes fit, and it rises; so neighbouring bins join smoothly. The library's `Spline` lets the network
# choose widths, heights and slopes of all bins between $-4$ and 4 (outside, $y = x$), and undoes (3.13) by solving a
# quadratic equation. One such curve, trained on two humps on a line, all by itself:

# %%
spline = Spline(bins=8)
line = GaussianMixture.of(torch.tensor([.6, .4]), torch.tensor([[-1.5], [2.]]),
                          torch.tensor([[[.16]], [[.25]]]))
points, given = line.sample(5000, seed=1).float(), torch.zeros(1, 23, 1, requires_grad=True)
climber = torch.optim.Adam([given], lr=.05)
for _ in range(steps(300)):
    z, log_slope = spline.forward(points, given.expand(5000, -1, -1))
    loss = (z.square() / 2 + math.log(2 * math.pi) / 2 - log_slope).mean()
    climber.zero_grad()
    loss.backward()
    climber.step()

# %%
grid = torch.linspace(-3.99, 3.99, 800)[:, None]
with torch.no_grad():
    knots = [part[0, 0] for part in spline.knots(given)]
    z, log_slope = spline.forward(grid, given.expand(800, -1, -1))
    back = spline.inverse(z, given.expand(800, -1, -1))[0]
i = torch.searchsorted(knots[0], grid[:, 0].contiguous()) - 1
(x, y, d), at = knots, grid[:, 0]
same("(3.13) in each of 8 bins, and the library's curve", z[:, 0],
     piece(at, (x[i], x[i + 1], y[i], y[i + 1]), (d[i], d[i + 1])), tol=1e-4)
same("undone", back, grid, tol=1e-3)
by_differences = (z[2:] - z[:-2]) / (grid[2:] - grid[:-2])
same("its slope by differences", by_differences, log_slope[1:-1].exp(), tol=.1)

# %%
fresh = line.sample(20_000, seed=2)
with torch.no_grad():
    z_fresh, slope = spline.forward(fresh.float(), given.expand(20_000, -1, -1))
off = float((line.log_prob(fresh) - (flow.normal(z_fresh) + slope[:, 0])).mean())
expect("(3.11) with one curve, in nats", off, 0, .02)

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.24, 3), width_ratios=(1, 1.3, 1))
axes[0].hist(fresh[:, 0].numpy(), 60, density=True, color=plot.COLOURS[5])
axes[0].set_title("two humps x", size=10)
axes[1].plot(grid, z)
axes[1].plot(x, y, "o", ms=4, color="black")
axes[1].set(xlabel="x", ylabel="z = g(x)")
axes[1].set_title("a curve of 8 bins", size=10)
axes[2].hist(z_fresh[:, 0].numpy(), 60, density=True, color=plot.COLOURS[5])
axes[2].plot(grid[100:-100], flow.normal(grid).exp()[100:-100], color="black")
axes[2].set_title("one hill z", size=10)
fig.suptitle("A curve that is flat across the gap makes one hill of two humps")
plot.show(fig, alt="Left: a histogram with two humps. Middle: a rising curve, steep at the humps and "
                   "flat between them. Right: a normal histogram under a normal curve.")

# %% [markdown]
# Now four couplings with such curves against eight with lines, at less than twice the cost. (The gap is not gone,
# only thin: where the curve is flattest, its slope is still above 0.)

# %%
def splined(truth, seed=1):
    """`planar` with four couplings of 8-bin splines."""
    with train.seeded("planar", seed):
        model = Flow(FlowConfig(2, steps=4, bins=8, mix=False))
    points = truth.sample(50_000, seed=1000 + seed).float()
    train.fit(model, model.loss, data.batches(points, 256, seed), steps=steps(500), lr=3e-3, seed=seed)
    return model


for goal, lines, top in ((truth, stacks[8, 1], .02), (apart, torn, .05)):
    curved = splined(goal)
    ratio = nats(goal, lines)[0] / nats(goal, curved)[0]
    expect("four curved couplings, in nats", nats(goal, curved)[0], 0, top)
    expect("eight straight ones, times that", ratio, 3)
    expect("samples of the curved that went astray", strays(goal, curved), .01, .045)

# %% [markdown]
# ## 4 From points to pictures
#
# A picture is `[3, h, w]`. Our couplings halve *channels*, so the networks in them can be convolutions: they look at
# half of the channels in a neighbourhood, and answer for the other half. Four small parts are missing. Together with
# couplings they are **Glow** (Kingma & Dhariwal 2018).
#
# ### Squeeze
#
# Three channels cannot be halved, and convolutions should soon see far. So each 2 × 2 pixels become *one* pixel of
# four times the channels. Nothing is computed, numbers only change places: $\log|\det J| = 0$.

# %%
def squeezed(x):
    """[b, c, h, w] -> [b, 4c, h/2, w/2]: each 2 x 2 pixels become the channels of one."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // 2, 2, w // 2, 2)       # row, row in its pair; column, …
    return x.permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


small = torch.arange(16.).view(1, 1, 4, 4)
print("one channel:", small[0, 0].int().tolist())
print("four:       ", squeezed(small)[0].int().tolist())
x = torch.randn(5, 3, 8, 8, generator=data.rng("pictures"), dtype=torch.float64)
same("ours and the library's", squeezed(x), flow.Squeeze()(x)[0])
same("log |det J| by autograd, and 0", log_det_of(lambda row: squeezed(row.view(1, 3, 8, 8)).flatten(),
                                                  x.flatten(1)), torch.zeros(5))

# %% [markdown]
# ### Actnorm
#
# Deep networks like numbers of size one. Batch norm would see to it, but with it the code of one picture would depend
# on the others in its batch. **Actnorm** scales and shifts each channel by two learned numbers, which *start* at mean
# and standard deviation of the first batch:
#
# $$ z_c = (x_c - \mu_c) / \sigma_c , \qquad \log|\det J| = -h w \sum_c \log \sigma_c . \tag{3.14} $$
#
# The factor $hw$: a channel has so many pixels, and all are scaled.
#
# ### Invertible 1×1 convolution
#
# To change places is a permutation of channels. Why not *learn* it? At every pixel the channels are multiplied by one
# and the same matrix $W$:
#
# $$ z_{:,i,j} = W x_{:,i,j} , \qquad \log|\det J| = h w \log|\det W| . \tag{3.15} $$
#
# The Jacobian is block diagonal, one $W$ a pixel. A permutation is one such $W$. (One matrix for the channels of
# every pixel is just a 1 × 1 convolution.) With at most a hundred channels the determinant costs nothing beside the
# convolutions.

# %%
mu, log_std = x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0).log()
W = torch.randn(3, 3, generator=data.rng("W"), dtype=torch.float64)


def normed(x):
    """(3.14)."""
    return (x - mu[:, None, None]) * (-log_std[:, None, None]).exp(), -x[0, 0].numel() * log_std.sum()


def mixed(x):
    """(3.15)."""
    return torch.einsum("ij,bjhw->bihw", W, x), x[0, 0].numel() * torch.linalg.slogdet(W).logabsdet

# %%
norm, mix = flow.ActNorm(3).double().train(), flow.Mix(3).double()
mix.w.data = W
for name, ours, library in (("actnorm", normed, norm), ("1x1 convolution", mixed, mix)):
    same(f"{name}: ours and the library's", ours(x)[0], library(x)[0])
    by_autograd = log_det_of(lambda row, f=ours: f(row.view(1, 3, 8, 8))[0].flatten(), x[:2].flatten(1))
    same(f"{name}: log-determinant and autograd", ours(x)[1].expand(2), by_autograd)

# %% [markdown]
# ### Half of it leaves early
#
# After some steps half of the numbers, $b$, have become as normal as they will. They leave: a last coupling, whose
# network knows $a$, centres and scales them, and they are part of the code. Only $a$ is squeezed and worked on
# further. For the density that is just the product rule,
#
# $$ p(a, b) = p(a)\; \mathcal N\big(b;\; \mu(a), \sigma(a)^2\big) , \tag{3.16} $$
#
# and the numbers that stay to the end are about coarse things, since they have passed more layers and see farther. It
# also saves work: each level has half of the numbers. This is the **multi-scale** architecture.
#
# **Predict first.** A picture has 3 × 16 × 16 = 768 numbers. With three levels, how many of them are left in the
# last?

# %%
with train.seeded("shapes"):
    glow = Flow(FlowConfig(3, 16, levels=3, steps=2, width=16)).eval()
for part in glow.map.modules():
    if isinstance(part, (flow.Squeeze, flow.Split, flow.Flat, flow.ActNorm)):
        part.register_forward_hook(lambda part, x, z: print(
            f"{type(part).__name__:8} {list(x[0].shape[1:])!s:14} -> {list(z[0].shape[1:])}"))
_ = glow.encode(torch.zeros(1, 3, 16, 16))

# %% [markdown]
# Read it inside out: a `Split` ends when all deeper levels have ended. (An `ActNorm` stands for a whole step:
# actnorm, 1×1 convolution, coupling.) 768, then 384, then 192 numbers go on; and out comes a code of 768 again, the
# deepest first.
#
# We check (3.16), and then a whole small Glow, 48 numbers, all parameters shaken: 48 × 48 derivatives by autograd
# against the sum of what all layers said.

# %%
def shaken(model, key, by=.2):
    """The model in float64, with noise on all parameters."""
    with train.seeded("shaken", key), torch.no_grad():
        for p in model.parameters():
            p += by * torch.randn_like(p)
    return model.double().eval()


glow = shaken(Flow(FlowConfig(3, 4, levels=2, steps=2, width=16)), "glow")
x = torch.randn(4, 3, 4, 4, generator=data.rng("tiny"), dtype=torch.float64)
z, log_det = glow.encode(x)
same("48 x 48: the layers' sum, and autograd's determinant", log_det,
     log_det_of(lambda row: glow.encode(row.view(1, 3, 4, 4))[0][0], x.flatten(1)))
same("there and back", glow.decode(z), x)

# %%
leaver = shaken(flow.Coupling(flow.network(6, 12, 16, 2)), "leaver")
a, b = torch.randn(2, 4, 6, 2, 2, generator=data.rng("ab"), dtype=torch.float64)
s, t = bounded(leaver.net, 2.)(a).chunk(2, 1)                        # b' = b exp(s) + t
gauss = torch.distributions.Normal(-t * (-s).exp(), (-s).exp()).log_prob(b).flatten(1).sum(1)
left, log_det = leaver(torch.cat([a, b], 1))
as_noise = flow.normal(left[:, 6:].flatten(1)) + log_det
same("(3.16): what leaves, as noise, and N(b; mean, std)", as_noise, gauss)

# %% [markdown]
# So the mean and the standard deviation of (3.16) are $\mu = -t\, e^{-s}$ and $\sigma = e^{-s}$: Glow's *learned
# prior* is a coupling in disguise.

# %% [markdown]
# ## 5 Pictures are whole numbers
#
# A flow has a density. A picture from a file has whole numbers, 0 to 255 in each place, and what they have is a
# *probability*. A density at single points may be anything, even infinite, and part 10 will show what becomes of a
# flow that finds that out.
#
# The honest way: let a picture stand for the little cube around it. In our units, $[-1, 1]$ in $n$ levels, the cube's
# side is $\Delta = 2/(n-1)$. Its probability under the model is
#
# $$ P_\theta(x) = \int_{[0,1]^D} p_\theta\big(x + \Delta(u - \tfrac12)\big)\, \Delta^D\, du . \tag{3.17} $$
#
# We cannot integrate over 768 numbers. But an integral over the unit cube is an average over uniform $u$, and the
# logarithm of an average is at least the average of the logarithms: (1.11) once more.

# %% [markdown]
# $$ \log P_\theta(x) \;\ge\; \mathrm E_u\big[ \log p_\theta\big(x + \Delta(u - \tfrac12)\big)\big] + D \log \Delta
#    . \tag{3.18} $$
#
# So: add uniform noise of one level's width to each picture, fresh each time, and train the density as ever. This is
# **dequantisation** (Theis et al. 2016). What is climbed is a lower bound of an honest log-probability, and nothing
# can grow without end: a probability is at most 1.
#
# With $k$ draws inside the logarithm the bound is tighter (as IWAE was in chapter 2):
#
# $$ \log P_\theta(x) \;\ge\; \mathrm E\Big[\log \frac1k \sum_{i=1}^k p_\theta\big(x + \Delta(u_i - \tfrac12)\big)\Big]
#    + D \log \Delta . \tag{3.19} $$
#
# In the exact world we can see how much is lost. There the integral over a cube is, for each lump, a product of
# differences of $\Phi$, the normal distribution function, and `log_prob(x, levels=…)` has it. (We take the world at
# half of its contrast, so that no noisy colour ends outside of $[-1, 1]$.)

# %%
world = mixture.of_world("single", std=.1, size=16)                  # chapter 1's measuring stick
dim = world.noised(.5, .0075 ** .5)                                  # half of x, and noise of .1 in all
raw = dim.sample(100, seed=1)


def bounded_mass(x, u, levels):
    """(3.19) for rows x [n, d] and draws u [k, n, d]."""
    delta = 2 / (levels - 1)
    nats = torch.stack([dim.log_prob(x + delta * (draw - .5)) for draw in u])
    return nats.logsumexp(0) - math.log(len(u)) + x.shape[1] * math.log(delta)


def lost(levels, k=1):
    """log P less the bound (3.19) with k draws, nats a picture: mean of 100, and of u and 1 - u."""
    x = ((raw + 1) * (levels - 1) / 2).round() * 2 / (levels - 1) - 1
    u = torch.rand(k, *x.shape, generator=data.rng("u", levels), dtype=torch.float64)
    bounds = [bounded_mass(x, draw, levels).mean() for draw in (u, 1 - u)]
    return float(dim.log_prob(x, levels).mean() - sum(bounds) / 2)

# %%
same("its noise", dim.covariances_[:2].sqrt(), [.1, .1])
u = torch.rand(3, *raw.shape, generator=data.rng("agree"), dtype=torch.float64)
on_steps = (raw * 31.5 + 31.5).round() / 31.5 - 1
same("ours and the library's", bounded_mass(on_steps, u, 64),
     flow.log_mass(dim.log_prob, on_steps, u, 64))
for levels in (256, 128, 64):
    delta = 2 / (levels - 1)
    by_theory = 768 * delta ** 2 / (24 * .1 ** 2)
    expect(f"{levels} levels: lost, over {by_theory:.2f} nats", lost(levels) / by_theory, .9, 1.1)
for k, low, high in ((1, 2.9, 3.6), (5, 1.6, 2.6), (25, .6, 1.8)):
    expect(f"64 levels, {k} draws: lost, in nats", lost(64, k), low, high)

# %% [markdown]
# Where does the prediction come from? Let $r$ be a pixel's distance from its lump's centre. Within a cube the
# logarithm of a normal density is nearly a slope, $-r\Delta v / \sigma^2$ with $v$ uniform on $\pm\frac12$ (its
# curvature shifts both averages alike). For small $y$ the logarithm of $\mathrm E[e^y]$ exceeds $\mathrm E[y]$ by
# half of the variance of $y$. That variance is $r^2\Delta^2/12\sigma^4$, and $\mathrm E[r^2] = \sigma^2$. So
#
# $$ \text{lost} \;\approx\; D\, \frac{\Delta^2}{24\, \sigma^2} \quad \text{nats.} \tag{3.20} $$
#
# At 256 levels that is nothing. Coarse levels cost more, as there the density inside a cube is not flat.
#
# ### Bits per dimension
#
# Likelihoods of pictures are usually told in **bits per dimension**: how many bits an ideal compressor needs for each
# number,
#
# $$ \mathrm{bits/dim} = -\frac{\log p_\theta + D \log \Delta}{D \log 2} . \tag{3.21} $$
#
# Mind the units! For 256 levels in $[-1, 1]$, $\log\Delta = -\log 127.5$, which is 7 bits. Who forgets it reports a
# result that is 7 bits too good. The anchor: nobody knows anything, all 256 levels equally likely. That is 8 bits.

# %%
def bits(log_p, dims, levels):
    """(3.21), log_p a log-density in nats of pictures in [-1, 1]."""
    return -(log_p + dims * math.log(2 / (levels - 1))) / (dims * math.log(2))


for levels, anchor in ((256, 8), (16, 4), (2, 1)):
    width = 2 + 2 / (levels - 1)                                     # from -1 - Δ/2 to 1 + Δ/2
    uniform = -768 * math.log(width)
    same(f"uniform on {levels} levels, and {anchor} bits", bits(uniform, 768, levels), anchor)
same("ours and the library's", bits(-1000., 768, 256), flow.bits_per_dim(-1000., 768, 256))
H, _ = world.entropy(500)
expect("the entropy of the noisy world, in bits/dim", bits(-H, 768, 256), 5.725, 5.745)
print(f"16 x 16 pictures: 1 nat a picture is {1 / (768 * math.log(2)):.4f} bits/dim")

# %% [markdown]
# The last line is a warning. In chapter 1's world with its noise, nearly all bits are noise. A model that is 10 nats
# from the truth, which is much, is wrong in the second decimal. So our headline is KL in nats, and bits/dim stands
# beside it.
#
# ## 6 Train it
#
# ### Real handwriting
#
# Digits first. They have 17 grey levels, so $\Delta = 1/8$; we dequantise, afresh at each step, and 597 of 1,797 are
# held out. Chapter 1's mixtures get one dequantisation of the same pictures.
#
# **Predict first.** The better of two mixtures needs 2.6 bits for each held-out pixel. A small Glow of 200,000
# numbers sees 1,200 pictures. Will it be better or worse?

# %%
pictures, labels = data.digits()
order = torch.randperm(len(pictures), generator=data.rng("digits"))
learn, held = pictures[order][:1200], pictures[order][1200:]


def spread(x, *key):
    """Dequantised digits."""
    return flow.dequantise(x, torch.rand(x.shape, generator=data.rng("spread", *key)), levels=17)


def bits_of(model, x):
    """(3.21) of dequantised digits, by a model with log_prob."""
    with torch.no_grad():
        return float(flow.bits_per_dim(model.log_prob(x).mean(), 64, levels=17))

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")                                  # EM need not converge here
    before = {k: GaussianMixture(k, kind, reg=1e-3, tol=0, max_iter=15, rank=6).fit(
        spread(learn, "EM").flatten(1)) for kind, k in (("lowrank", 10), ("diag", 80))}
least = min(bits_of(model, spread(held, "held")) for model in before.values())
expect("the better mixture, bits per held-out pixel", least, 2.6, 2.7)

# %%
def small_glow(seed=0):
    """Two levels, four steps each."""
    with train.seeded("digits", seed):
        return Flow(FlowConfig(1, 8, levels=2, steps=4, width=48))


writer, epoch = small_glow(), data.batches(learn, 128)
run = train.Training(writer, writer.loss, lambda step: spread(epoch(step), step), steps=steps(500),
                     lr=2e-3)
course = {log.step: bits_of(writer, spread(held, "held")) for log in run if log.step % 50 == 49}
history = run.history()
on_learn = flow.bits_per_dim(-64 * torch.tensor(history.smooth()), 64, levels=17)

# %%
plot.curves({"1,200 it sees": (history.steps[20:], on_learn[20:]),
             "597 held out": (list(course), list(course.values())),
             "better mixture": (history.steps[[0, -1]], [least] * 2)},
            title="A small flow passes the mixtures within two hundred steps",
            xlabel="training step", ylabel="bits per pixel",
            alt="Bits per pixel against steps: the flow's curves fall through the mixture's line at "
                "about step 150 and end near 2.3, held out, and 2.2.")

# %%
expect("held-out bits per pixel at the end", bits_of(writer, spread(held, "held")), 2.2, 2.45)
rows = [spread(held[:10], "show"), writer.sample(10, seed=1), writer.sample(10, seed=2),
        before[10].sample(10, seed=1).reshape(10, 1, 8, 8).float()]
plot.grid(torch.cat(rows), columns=10, rows=["held out", "flow", "flow", "10 low-rank Gaussians"],
          title="By eye flow and mixture are close; by likelihood they are not",
          alt="Rows of ten: real digits with grain, digits of the flow, digits of a mixture; all alike "
              "in kind.")

# %% [markdown]
# A third of a bit a pixel is 15 nats a picture. The same digits, noise of the same kind, an exact density on both
# sides: such a comparison is what likelihood is good for. And are its digits new?

# %%
new = writer.sample(10, seed=3)
distances = torch.cdist(new.flatten(1), learn.flatten(1))
usual = [torch.cdist(some.flatten(1), learn.flatten(1)).amin(1).median()
         for some in (writer.sample(300, seed=4), spread(held, "held"))]
expect("nearest training digit: median distance of samples over that of held-out digits",
       usual[0] / usual[1], 1.15, 1.6)
plot.pair(new, learn[distances.argmin(1)], names=("sample", "nearest of 1,200"),
          title="Not copies: even the nearest training digits differ much",
          alt="Ten samples above their nearest training digits: alike in kind, different in detail.")

# %% [markdown]
# No copies: its samples lie about a third farther from the training digits than real digits do. Part of that is
# honest novelty, and part is that some are no digits.
#
# ### A world whose density we know
#
# Now scenes: chapter 1's exact world, pictures of 16 × 16 with noise. The network `flow-single` saw fresh ones for
# 11,000 steps (recipe `flow-single` of `minidiff.recipes`). Its likelihood is exact and so is the truth's. So (3.11)
# has no doubt left but that of the sample:
#
# $$ \mathrm{KL}(p\,\|\,p_\theta) = -H(p) - \mathrm E_p[\log p_\theta(x)] \;\approx\; \frac1n \sum_i \big[\log p(x_i) -
#    \log p_\theta(x_i)\big] . \tag{3.22} $$
#
# For the VAE only a bound of it was to be had.

# %%
single = weights.load("flow-single")
told = weights.describe("flow-single")["quality"]


def of_flow(rows):
    """log p_theta of rows of 768 numbers."""
    return single.log_prob(rows.float().reshape(-1, 3, 16, 16))

# %%
live, doubt = world.kl(of_flow, 600, seed=3)
print(f"stored: {told['KL']:.0f} nats a picture, standard error {told['standard error']:.1f}, "
      f"n = {told['n']:,}")
expect("600 other pictures, less the stored, in standard errors", (live - told["KL"]) / doubt, -4, 4)
judged = world.sample(2000, seed=4)
with torch.no_grad():
    other_side = -H - float(of_flow(judged).mean())
expect("the left side of (3.22), less that, in nats", other_side - told["KL"], -2.5, 2.5)
print(f"bits/dim {told['bits a number']:.3f}, least possible {told['least possible']:.3f}")
same("bits/dim from nats", bits(-H - told["KL"], 768, 256), told["bits a number"], tol=1e-3)

# %%
ladder = json.loads((weights.TRAINED / "mixtures.json").read_text())["rows"]
bench = json.loads((weights.TRAINED / "flows.json").read_text())["rows"]


def rung(kind, k):
    """Chapter 1's divergences on world `single`, one a seed."""
    return [row["fresh"] for row in ladder
            if (row["world"], row["kind"], row["k"]) == ("single", kind, k)]

# %%
vae = weights.describe("vae-single")["quality"]["iwae"]["1000"]
ranks = {"one full Gaussian": rung("full", 1), "100 diagonal Gaussians": rung("diag", 100),
        "100 low-rank Gaussians": rung("lowrank", 100)}
ranks = {name: (float(np.mean(v)), float(np.std(v, ddof=1))) for name, v in ranks.items()}
plot.bars(ranks | {"VAE, at most": (vae["kl"], vae["error"]),
                  "flow-single": (told["KL"], told["standard error"])},
          title="How far from the truth: the flow's number is exact",
          xlabel="KL(p ∥ p_θ), nats a picture",
          alt="Bars of nats per picture for three mixtures, the VAE's bound and the flow.")

# %%
rows = world.sample(8, seed=21).float().reshape(8, 3, 16, 16), single.sample(16, seed=1)
legal = [scene is not None for scene in oracle.read(torch.cat(rows).clamp(-1, 1))]
plot.grid(torch.cat(rows), [{True: "read", False: "refused"}[good] for good in legal], marks=legal,
          rows=["the world", "flow-single", "flow-single"],
          title="Twenty-two nats from the truth: a few shapes, and many empty grounds",
          alt="A row of noisy scenes of the world; two rows of the flow's, most of them an empty "
              "ground, some with a shape or half of one.")

# %% [markdown]
# The flow leaves all mixtures of chapter 1 far behind, and its number is no bound. (Its samples look as if it were
# worse. Part 9 will say why they may.) But the VAE, of which we have only a bound, is nearer still! *Exact* says how
# well we can measure a model, not how good it is. This world is built just like the VAE: a few facts, then grain of
# one width on each pixel. The VAE has a code for the facts and a number for the width. The flow knows neither; it has
# to *stretch* one single hill into three thousand lumps, in 768 dimensions, and every bridge between them costs.

# %% [markdown]
# What helps? The recipe's comparison trained smaller flows of several kinds, about half a minute of a processor each,
# three seeds. "Affine" has three levels, straight lines, actnorm and learned mixing; the others differ from it in one
# thing each.
#
# **Predict first.** In the plane splines were far ahead. Here?

# %%
def of_bench(name, what):
    """One number a seed."""
    return [row[what] for row in bench if row["name"] == name]


kinds = list(dict.fromkeys(row["name"] for row in bench))
means = {name: float(np.mean(of_bench(name, "KL"))) for name in kinds}
expect("the whole flow, straight lines, is nearest", min(means, key=means.get) == "affine")
expect("one level: nats farther", means["one level"] - means["affine"], 35, 55)
expect("places changed by rule, not learned", means["without mix"] - means["affine"], 8, 20)
expect("splines", means["splines"] - means["affine"], 25, 45)
plot.bars({name: (means[name], float(np.std(of_bench(name, "KL"), ddof=1))) for name in kinds},
          title="At equal minutes: levels help most, and splines are too slow",
          xlabel="KL(p ∥ p_θ), nats a picture, after half a minute of training",
          alt="Bars of nats per picture: affine lowest; without norm, four levels, two levels and "
              "without mix a little higher; splines and one level far higher.")

# %% [markdown]
# One level alone sees too little of a picture. Learned mixing is worth a dozen nats. And the splines, which shone in
# the plane, fall back: their steps take almost four times as long. What counts on a small machine is not the best
# layer, but the best that half a minute can train.
#
# ### Is it exact?
#
# The lecture's claim, in numbers. **The rule, before the run.** We take pictures of the world, and held-out ones, the
# *whole* Jacobian of `flow-single`, 768 × 768 numbers by autograd in 64 bits, and its determinant. The claim *holds*
# if the log-likelihood that the flow tells in ordinary 32 bits differs from that by at most 0.1 nats for each
# picture.

# %%
odd = scenes.render(scenes.single("held out"), 16)[[100, 300]].flatten(1).double()
judges = torch.cat([world.sample(4, seed=11), odd + .1 * data.noise((2, 768), seed=11)])
slow = weights.load("flow-single").double().requires_grad_(False)
by_jacobian = []
for x in judges:
    J = jacrev(lambda row: slow.encode(row.view(1, 3, 16, 16))[0][0], chunk_size=64)(x)
    with torch.no_grad():
        z = slow.encode(x.view(1, 3, 16, 16))[0]
        by_jacobian.append(float(flow.normal(z) + torch.linalg.slogdet(J).logabsdet))

# %%
with torch.no_grad():
    errors = (of_flow(judges) - torch.tensor(by_jacobian)).abs()
claim("C12", said="A flow gives the exact likelihood.", number=errors.max(), n=len(judges),
      rule=Rule("largest difference of log p and log p by the whole Jacobian: at most 0.1 nats",
                lambda v: v <= .1),
      sentence=f"So flow-single's distance from the truth is known: {told['KL']:.0f} nats a picture, "
               f"{told['bits a number']:.3f} bits/dim beside the entropy's "
               f"{told['least possible']:.3f}. Exact is not near: the VAE is at most {vae['kl']:.1f} "
               "nats away.")

# %% [markdown]
# ## 7 Scenes
#
# And world `full`, 32 × 32. We ship `glow`, trained for a quarter of an hour on pictures with noise of 0.1. (Why
# noise? Clean scenes are flat: their numbers lie on thin sheets in 3,072 dimensions, where a density has no bound.
# Part 10.)
#
# **Predict first.** It has an exact likelihood, and it had to encode every detail of every picture. Will its samples
# be better than the VAE's?

# %%
glow = weights.load("glow")
judged = weights.describe("glow")["quality"]
lower = next(name for name in judged if name.startswith("temperature"))
best = float(lower.split()[1])
rows = [data.pictures(8, 5, 32)(0), glow.sample(8, seed=1), glow.sample(8, seed=1, temperature=best)]
legal = [scene is not None for scene in oracle.read(torch.cat(rows).clamp(-1, 1))]
print("legal:", judged["samples"]["legal"], "| at", lower + ":", judged[lower]["legal"])
print("of the first ten thousand, with a number beyond 10:", judged["wild"])
plot.grid(torch.cat(rows), ["read" if good else "refused" for good in legal], marks=legal,
          rows=["data", "samples", f"temperature {best}"],
          title="The flow paints grounds and coloured blobs, and hardly a shape",
          alt="A row of scenes; two rows of samples: flat grounds with one or two coloured blobs, "
              "some with parts of a second ground.")

# %% [markdown]
# Better than nothing, and not good. A few samples run away altogether: what a layer has learned to squeeze, its
# inverse stretches, and nobody ever asked it what it makes of strange codes. (None of the VAE's random codes was
# legal; with a prior fitted to its codes one in eight was.)
#
# A lower **temperature** $T$ draws $z = T\varepsilon$, nearer to the middle: the usual trick for showing samples of
# flows. (It is not the density $p^{1/T^2}$, normalised, unless $|\det J|$ is the same everywhere: each stretch of the
# sheet counts.)

# %%
warm = (0., .3, .5, .7, .85, 1.)
rows = [glow.sample(2, seed=4, temperature=T) for T in warm]
same("at temperature 0 all pictures are one", rows[0], rows[0][:1].expand(2, -1, -1, -1))
print("legal at lower temperatures, on the seeds that the best was chosen by:",
      {T: f"{share:.1f} %" for T, share in sorted(judged["tuning"]["legal"].items())})
plot.grid(torch.stack(rows, 1).flatten(0, 1), [""] * 6 + [f"T = {T}" for T in warm], columns=6,
          title="Cooler samples are calmer, and emptier",
          alt="Two rows of six: at temperature 0 always the same ground, then plain grounds; from "
              "0.5 on a blob of colour grows.")

# %% [markdown]
# ### Between two pictures
#
# Every picture has a code, real ones too. So we walk from one *real* picture to another, in $z$. A straight line? In
# 3,072 dimensions the length of a normal $z$ is always about $\sqrt{3072} \approx 55$; the middle of a straight line
# is shorter, $55/\sqrt2$, which is temperature 0.7. To keep the length we turn instead:
#
# $$ z_\lambda = \cos(\tfrac\pi2 \lambda)\, z_0 + \sin(\tfrac\pi2 \lambda)\, z_1 . \tag{3.23} $$

# %%
ends = data.pictures(4, 6, 32)(0)
ends = ends + .1 * torch.randn(ends.shape, generator=data.rng("ends"))
with torch.no_grad():
    z0, z1 = glow.encode(ends)[0].view(2, 2, -1).transpose(0, 1)
angle = torch.linspace(0, math.pi / 2, 7)[:, None, None]
turned = angle.cos() * z0 + angle.sin() * z1
walks = glow.decode(turned.transpose(0, 1).flatten(0, 1)).detach()
same("the ends of the walks are the pictures", walks[[0, 6, 7, 13]], ends, tol=1e-3)
lengths = turned.norm(dim=2) / 3072 ** .5
expect("lengths along the walk, over 55: shortest", lengths.min(), .8)
expect("longest", lengths.max(), 0, 1.6)
plot.grid(walks, columns=7, title="Between two real pictures things change colour, melt and appear",
          alt="Two rows of seven: an orange circle fades to yellow, another grows; a purple ring melts "
              "into a star.")

# %% [markdown]
# What it finds hard, we have seen in the plane already. A scene has one ground or another, one shape or another, here
# or there: *separate* possibilities, which a sheet that must not tear has to keep connected. Look again at the
# samples: grey ground that turns to navy in a corner. *That is a bridge*, the filament of part 3, in 3,072
# dimensions. And a sharp edge is a promise that many pixels keep together; a dozen local layers keep it for a blob,
# not for a star.
#
# ## 8 A code as large as the picture
#
# ### Nothing is lost
#
# The lecture says: a flow must be invertible, so its code is as large as the picture. First: *is* it invertible, not
# on paper, but in 32 bits, through all layers?

# %%
seen = data.pictures(64, 7, 32)(0)
seen += .1 * torch.randn(seen.shape, generator=data.rng("some"))


def there_and_back(model, x):
    """The largest error of each picture."""
    with torch.no_grad():
        return (model.decode(model.encode(x)[0]) - x).abs().flatten(1).amax(1).nan_to_num(1e30)


with torch.no_grad():
    z, log_det = glow.encode(seen)
    back = glow.map.inverse(z)[1]
expect("64 scenes: largest error after there and back", there_and_back(glow, seen).max(), 0, 1e-3)
expect("log-determinants there and back, sum in nats", (log_det + back).abs().max(), 0, .05)
print("numbers of a picture:", seen[0].numel(), " numbers of its code:", z.shape[1])

# %% [markdown]
# It is. **Predict first.** And for pictures that it has never seen the like of: pure noise, uniform up to $\pm 0.1$,
# or up to $\pm 1$?

# %%
strange = torch.rand(32, 3, 32, 32, generator=data.rng("rand")) * 2 - 1
strengths, precise = (.1, .2, .3, .4, .5, .6, .8, 1), weights.load("glow").double()
errors = {"32 bits": [float(there_and_back(glow, a * strange).median()) for a in strengths],
          "64 bits": [float(there_and_back(precise, a * strange.double()).median()) for a in strengths]}
expect("noise of 0.1, 32 bits: median of the largest errors", errors["32 bits"][0], 0, 1e-5)
expect("noise of 1, 32 bits", errors["32 bits"][-1], 1e3)
expect("noise of 1, 64 bits", errors["64 bits"][-1], 0, .1)
plot.curves({name: (strengths, values) for name, values in errors.items()}, log="y",
            xlabel="uniform noise between plus and minus", ylabel="median of the largest errors",
            title="Invertible where the data are; elsewhere 32 bits are too few",
            alt="Errors against the strength of noise: in 32 bits from a millionth to billions, in 64 "
                "bits from 1e-15 to a thousandth.")

# %% [markdown]
# Each coupling may stretch by $e^2$ at most, and actnorm and $W$ as they like; in a dozen steps that can be a factor
# of many billions. On its own kind of pictures the flow has learned to be gentle. Elsewhere nobody asked it to
# (Behrmann et al. 2021). So: invertible in theory everywhere, in practice where it was trained.

# %% [markdown]
# Could the code be smaller? Not if every picture is to come back: a continuous map from 768 dimensions into fewer
# sends different pictures to the same code. But perhaps most of the code is not *needed*? Ours is in order, coarse
# first. We keep the first numbers, put 0 for the rest, and measure the error in decibels,
#
# $$ \mathrm{PSNR} = 10 \log_{10} \frac{2^2}{\mathrm{MSE}} , \tag{3.24} $$
#
# beside the best linear code of the same size: the first directions of a principal component analysis, here from the
# world's exact covariance.
#
# **Predict first.** Which is better with a quarter of the numbers: the flow or PCA?

# %%
centre = world.means_.mean(0)
spread_out = world.means_ - centre
directions = torch.linalg.eigh(spread_out.T @ spread_out / len(spread_out))[1].flip(1).float()
x = world.sample(200, seed=12).float()
with torch.no_grad():
    codes = single.encode(x.view(-1, 3, 16, 16))[0]


def psnr(a):
    """(3.24) against x."""
    return 10 * math.log10(4 / float((a.reshape(x.shape) - x).square().mean()))


def kept(m):
    """PSNR with the first m numbers of the flow's code, and of PCA's."""
    few = codes * (torch.arange(768) < m)
    linear = centre.float() + (x - centre.float()) @ directions[:, :m] @ directions[:, :m].T
    return psnr(single.decode(few).detach()), psnr(linear)

# %%
grain = torch.randn(x.shape, generator=data.rng("decibels"))
same("(3.24) for noise of 0.1, and 20 log10(2 / 0.1)", psnr(x + .1 * grain), 20 * math.log10(20),
     tol=.005)
sizes = [1, 3, 12, 48, 96, 192, 384, 576, 700, 740, 760]
curve = np.array([kept(m) for m in sizes])
painter = weights.load("vae-single").eval()
with torch.no_grad():
    vae_codes = painter.encode(x.view(-1, 3, 16, 16))
    by_vae = psnr(painter.decode(vae_codes))
expect("the flow's round trip, all numbers, in dB", kept(768)[0], 80)
expect("PCA above the flow at a quarter, in dB", curve[5, 1] - curve[5, 0], 4, 8)
expect("at one half", curve[6, 1] - curve[6, 0], 0, .6)

# %%
fig, ax = plt.subplots(figsize=(8.24, 3.4))
for name, values in zip(("flow", "PCA"), curve.T, strict=True):
    ax.plot(np.array(sizes) / 768, values, label=name)
ax.plot(vae_codes.shape[1] / 768, by_vae, "k*", ms=11, label=f"VAE, {vae_codes.shape[1]} numbers")
ax.set(xlabel="share of the code that is kept", ylabel="PSNR, dB",
       title="A flow's code does not come sorted by importance")
ax.legend()
plot.show(fig, alt="PSNR against the share kept: PCA's lies above the flow's nearly everywhere; a star "
                   "for the VAE at a tiny share, far above both.")

# %% [markdown]
# **The rule, before the run**, on the flows of the comparison, three seeds. The claim *holds* if with the whole code
# the largest error is at most 0.001 for each seed, and with three quarters of it the PSNR is below 40 dB (an error
# that one sees in the grain); it *holds partly* if only the first is so.

# %%
exact_back = max(max(of_bench(name, "inverse error")) for name in kinds)
three_quarters = [row["0.75"] for row in of_bench("affine", "PSNR")]
quarter = [row["0.25"] for row in of_bench("affine", "PSNR")]
claim("C11", said="A flow must be invertible, so the code is as large as the picture.",
      number=three_quarters, n=256,
      rule=Rule("PSNR in dB with three quarters of the code below 40, and the largest error with all "
                "of it at most 0.001 (holds); the latter only (partly)",
                lambda v: exact_back <= .001 and max(v) < 40, lambda v: exact_back <= .001),
      sentence=f"On pictures of the world the largest error is {exact_back:.0e} with all of the code "
               "(far from them 32 bits do not suffice); with three quarters "
               f"the PSNR is {np.mean(three_quarters):.1f} dB, with one {np.mean(quarter):.1f} dB, "
               f"PCA's with as many numbers {curve[5, 1]:.1f} dB.")

# %% [markdown]
# From one half on the two curves are one: the finer half of the flow's code is grain and almost nothing else. The
# coarser half holds the scene, in no useful order. (And the second half of the rule was decided by the grain: no
# linear code of three quarters of the numbers could pass 32 dB here.)
#
# Is that the flow's fault? Only in part. These pictures hold noise, and *noise has nothing to leave out*: a quarter
# of it alone, of variance $0.1^2$, left out, leaves at most $10 \log_{10} (4 / 0.0025) = 32$ dB. The VAE's star shows
# the other way: sixteen numbers for the scene, and not even a try to keep the noise ($26$ dB is all of it). A flow
# has no such choice. It must carry every grain through all of its layers; that is the price of an exact likelihood.
#
# What *do* the coarse and the fine numbers hold? We take real pictures and draw one part of their code anew.

# %%
with torch.no_grad():
    z, _ = glow.encode(ends)
fresh_z = data.noise((4, 3072), seed=21)
mixes = {"picture": z, "finest half new": torch.cat([z[:, :1536], fresh_z[:, 1536:]], 1),
         "finest 7/8 new": torch.cat([z[:, :384], fresh_z[:, 384:]], 1),
         "coarsest 1/8 new": torch.cat([fresh_z[:, :384], z[:, 384:]], 1)}
pictures_of = [glow.decode(code).detach() for code in mixes.values()]
plot.grid(torch.cat(pictures_of), columns=4, rows=list(mixes),
          title="The coarsest eighth holds the ground and roughly the place; the rest, shape and grain",
          alt="Four pictures; the same with new grain; the same grounds and places with shapes molten; "
              "other grounds with other blobs.")

# %% [markdown]
# ## 9 Likely is not the same as plausible
#
# A model with an exact likelihood should know what does not belong: strange pictures must be unlikely. Flows
# disappoint here, and famously so (Nalisnick et al. 2019): one trained on photographs of dogs, trucks and horses
# finds house numbers likelier. In our world we can check the flow's opinion against the truth.
#
# **Predict first.** Order these by the flow's likelihood: scenes like those it was trained on; *held-out* scenes (a
# red star); an *empty* ground, which the world does not have; and *clean* scenes, without the noise.

# %%
def noisy(clean, key):
    """Rows with the world's noise."""
    return clean.double() + .1 * torch.randn(clean.shape, generator=data.rng("strange", key)).double()


strange = scenes.render(scenes.single("held out"), 16).flatten(1)[::5]
grounds = torch.tensor(list(scenes.BACKGROUNDS.values())).repeat(36, 1)[:, :, None].expand(-1, 3, 256)
kinds_of = {"like in training": world.sample(144, seed=13), "held-out scenes": noisy(strange, "held"),
            "empty ground": noisy(2 * grounds.flatten(1) - 1, "empty"),
            "clean scenes": world.means_[::21].contiguous()}
with torch.no_grad():
    opinion = {name: (float(world.log_prob(rows).mean()), float(of_flow(rows).mean()))
               for name, rows in kinds_of.items()}

# %%
usual = opinion["like in training"]
gaps = {name: (exact - usual[0], model - usual[1]) for name, (exact, model) in opinion.items()}
for name, (exact, model) in gaps.items():
    print(f"{name:17} truth {round(exact, -1):+5.0f} nats, flow {round(model, -1):+5.0f} nats")
expect("empty grounds: the truth, in nats", gaps["empty ground"][0], -320, -240)
expect("the flow", gaps["empty ground"][1], 5, 60)
expect("held-out scenes: the truth, in nats", gaps["held-out scenes"][0], -340, -250)
expect("the flow", gaps["held-out scenes"][1], -60, -5)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.24, 2.6), sharey=True, sharex=True)
for ax, column, name in zip(axes, (0, 1), ("the truth", "the flow"), strict=True):
    ax.barh(list(gaps), [gap[column] for gap in gaps.values()], color=plot.COLOURS[column])
    ax.axvline(0, color="black", lw=1, ls="-")
    ax.set_title(f"log p by {name}", size=10)
    ax.set_xlabel("nats more than a usual picture")
axes[0].invert_yaxis()
fig.suptitle("Two kinds that the truth rejects by 300 nats the flow hardly notices")
plot.show(fig, alt="Two bar charts. Truth: held-out scenes and empty grounds lie hundreds of nats "
                   "below usual pictures, clean scenes 384 above. Flow: held-out scenes hardly below, "
                   "empty grounds and clean scenes above.")

# %% [markdown]
# Two different things happen.
#
# **Clean scenes** are far *likelier* than any that ever occurs, and the truth says so too. At the top of a lump the
# first term of (1.5) is 0; for a picture that occurs it is minus half a sum of $D$ squares of mean 1. Hence
#
# $$ \log p(\text{top}) - \mathrm E_p[\log p(x)] \approx \tfrac D2 = 384 \text{ nats.} \tag{3.25} $$
#
# The likeliest point is no likely event: there is next to no room around it. Pictures that occur lie in a shell
# around it, the **typical set**. (Part 1 warned us: a density is sand per area.) So "very likely" can mean "very
# strange".

# %% [markdown]
# **Empty grounds and held-out scenes** are the flow's own error. The truth gives them up: a pixel that is wrong by
# many $\sigma$, and again the next one. The flow has learned what neighbours tell of each other, and an empty ground
# is easy to tell: each pixel like the last. That there *must* be a shape, and which shapes go with which colours, is
# worth only a few tens of its nats.

# %%
top = float(world.log_prob(kinds_of["clean scenes"]).mean())
same("(3.25): the top above the mean, and 768 / 2", (top + H) / 384, 1, tol=.01)

# %% [markdown]
# This error has a kind side. Usual pictures differ by $\sqrt{D/2} \approx 20$ nats among themselves: the truth puts
# held-out scenes fifteen such widths away, the flow two at most. The flow was never shown a red star, and is hardly
# surprised by one. It *generalises*, and to a caption that asks for one this may be just right. But as an alarm for
# pictures that do not belong, the exact likelihood of a wrong model is no good. Exact is not the same as true.

# %% [markdown]
# ### What bad samples cost
#
# There is a second half to this. More than half of what `flow-single` draws cannot be read, and yet it is only 22
# nats from the truth. How dear are bad samples? Suppose that a model is perfect, except that a share $w$ of what it
# draws is rubbish. Where real pictures lie the rubbish has next to no density, so $\log p_\theta = \log p + \log(1 -
# w)$ there, and
#
# $$ \mathrm{KL}\big(p \,\|\, (1-w)\, p + w \cdot \text{rubbish}\big) = -\log(1-w) . \tag{3.26} $$
#
# **Predict first.** Nine samples of ten wasted: how many nats?

# %%
flat = 2 * torch.tensor(list(scenes.BACKGROUNDS.values()))[:, :, None].expand(-1, 3, 256).flatten(1) - 1
rubbish = GaussianMixture.of(torch.full((4,), .25), flat, torch.full((4,), .01), "spherical")
for w in (.5, .9):
    def blend(x, w=w):
        parts = math.log(1 - w) + world.log_prob(x), math.log(w) + rubbish.log_prob(x)
        return torch.logaddexp(*parts)
    same(f"{w:.0%} wasted: KL, and {-math.log(1 - w):.2f} nats", world.kl(blend, 500)[0],
         -math.log(1 - w), tol=.02)
legible = sum(scene is not None for scene in oracle.read(single.sample(400, seed=5).clamp(-1, 1)))
print(f"flow-single: {round(legible / 400, 1):.0%} of 400 samples can be read")
expect("what it could gain without its unreadable samples, in nats", -math.log(legible / 400), .7, 1.3)

# %% [markdown]
# Nine of ten wasted cost 2.3 nats, of the hundreds that are at stake. Maximum likelihood asks whether real pictures
# are likely. It hardly asks whether likely pictures are real (Theis et al. 2016). Chapter 4 will ask just that, and
# pay with the opposite fault.

# %% [markdown]
# ## 10 Break it
#
# A colleague works on digits in pure black and white. "Two levels, and noise as wide as the difference between them?
# That ruins them", she says, and trains her flow on the clean pictures.
#
# **Predict first.** With two levels, who knows nothing needs exactly 1 bit a pixel (we checked that below (3.21)). A
# good model needs less. How few bits can it be?

# %%
ink = (pictures[order] > 0).float() * 2 - 1                          # -1 and 1
ink_learn, ink_held = ink[:1200], ink[1200:]
ink_batches = data.batches(ink_learn, 128)


def ink_bits(model, x):
    """(3.21) for two levels."""
    with torch.no_grad():
        return float(flow.bits_per_dim(model.log_prob(x).mean(), 64, levels=2))


def black_and_white(batches, seed=0):
    """A small Glow, and its bits per pixel as it trains."""
    with train.seeded("ink", seed):
        model = Flow(FlowConfig(1, 8, levels=2, steps=3, width=32))
    history = train.fit(model, model.loss, batches, steps=steps(250), lr=2e-3, seed=seed, warmup=20)
    smooth = torch.tensor(history.smooth("loss", 10))
    return model, flow.bits_per_dim(-64 * smooth, 64, levels=2)

# %%
hers, falling = black_and_white(ink_batches)
expect("her bits per pixel, held out", ink_bits(hers, ink_held), -2, -.7)
plot.curves({"hers": (range(20, len(falling)), falling[20:]),
             "knows nothing": ((20, len(falling)), (1, 1)),
             "knows everything": ((20, len(falling)), (0, 0))},
            title="Her report: below zero bits a pixel, and falling", xlabel="training step",
            ylabel="bits per pixel",
            alt="A curve that falls from 0.6 through the line at 0 to about -1.5, still falling.")

# %%
plot.grid(hers.sample(20, seed=1).clamp(-1, 1), columns=10,
          title="Her samples: grey, and hardly a digit",
          alt="Twenty 8 by 8 digits, some of their pixels grey.")

# %% [markdown]
# **Symptoms.** The loss falls and falls. It falls on held-out digits too, so this is no overfitting. The number is a
# record; the samples are none.
#
# Only: a picture cannot be told in *fewer than no* bits. At $-1.5$ bits a pixel the "probability" of a picture is
# $2^{1.5 \cdot 64} = 2^{96}$. **Predict first.** What does her flow say of a digit whose pixels are moved by a few
# hundredths?

# %%
nudge = torch.randn(ink_held.shape, generator=data.rng("nudge"))
moved = {by: ink_bits(hers, ink_held + by * nudge) for by in (0, .02, .05, .1)}
for by, value in moved.items():
    size = "below 0" if value < 0 else "from 0 to 10" if value < 10 else "over 10"
    print(f"moved by {by:4}: {size} bits a pixel")
expect("moved by 0.1, in bits per pixel", moved[.1], 10)
with torch.no_grad():
    cubes = ink_held + (torch.rand(ink_held.shape, generator=data.rng("cubes")) * 2 - 1)
expect("in the cubes that the pictures stand for", ink_bits(hers, cubes), 100)

# %% [markdown]
# **Diagnosis.** All her numbers are exactly $-1$ or $1$. A density can be as high as it likes on points, if it is
# narrow enough. So her flow spends its training on sharper and sharper needles there, and each factor of two is a bit
# per pixel, for ever: the collapse of chapter 1's (1.14), in 64 dimensions at once. Held-out digits are corners of
# the same cube. The number that she reports bounds nothing; and what a needle is *about*, which pixels go together,
# is a small part of it.
#
# **The cure** is (3.18). With $n = 2$ levels each pixel gets noise of the width $\Delta = 2$; the cubes fill $[-2,
# 2]^{64}$ without overlap. It looks like ruin, but nothing is lost: the sign of a number tells the pixel.

# %%
def ink_cubes(step):
    """The same pictures, dequantised."""
    x = ink_batches(step)
    return flow.dequantise(x, torch.rand(x.shape, generator=data.rng("ink", step)), levels=2)


mended, honest = black_and_white(ink_cubes)
expect("honest bits per pixel, held out", ink_bits(mended, cubes), .66, .8)
drawn = torch.cat([model.sample(10, seed=1).sign() for model in (hers, mended)])
plot.grid(drawn, columns=10, rows=["hers", "mended"],
          title="Rounded to black and white, her record draws no better digits",
          alt="Two rows of ten black and white digits.")

# %% [markdown]
# The lesson is wider than flows: *a likelihood of continuous numbers on discrete data means nothing.* Whenever bits
# per dimension come out below zero, or implausibly good, ask for the noise first, and for the unit of (3.21) second.
#
# ## 11 Exercises
#
# Six of them, from a warm-up to an open one. `check` says what is right, or what fails and where; `hint()` helps in
# steps; `solution()` shows a way. You may leave any of them open: the notebook runs on.

# %%
from exercises import ch03 as ex

# %% [markdown]
# **Exercise 1: a stretched density.** Let $z$ be standard normal and $x = b + a \sinh z$ with $a > 0$. Write $\log
# p(x)$ for a tensor `x` `[n]` by (3.1). (`torch.asinh` undoes `torch.sinh`. What is its slope?)

# %%
def log_stretched(x, a, b):
    """log p(x) [n] of x = b + a sinh(z), z standard normal."""
    ...


ex.q1.check(log_stretched)

# %% [markdown]
# **Exercise 2: undo a coupling.** Write (3.7) with the bound (3.9): given `y` `[n, 2c]`, a network `net` that makes
# `[n, 2c]` out of `[n, c]` ($s'$ first, then $t$) and the bound `m`, return the pair (`x` `[n, 2c]`, log-determinant
# `[n]` of *this* direction).

# %%
def undo(y, net, m):
    """(x [n, 2c], log |det dx/dy| [n]) of a coupling that keeps its first half."""
    ...


ex.q2.check(undo)

# %% [markdown]
# **Exercise 3: mix the channels.** Write (3.15): for pictures `x` `[n, c, h, w]` and a matrix `w` `[c, c]`, return
# the pair (`z` of the same shape, log-determinant `[n]`). `w` may turn space inside out: its determinant may be
# negative.

# %%
def mix_channels(x, w):
    """(z [n, c, h, w], log |det dz/dx| [n]) of a 1x1 convolution."""
    ...


ex.q3.check(mix_channels)

# %% [markdown]
# **Exercise 4: bits.** A paper gives densities of pictures in $[0, 1]$, not in our $[-1, 1]$: levels at $0,
# \frac1{n-1}, \dots, 1$. Write its bits per dimension: `log_p` is the log-density in nats, a picture has `dims`
# numbers on `levels` even steps from 0 to 1. The check knows two anchors: what a uniform model needs, and a
# compressor.

# %%
def bits_from_unit(log_p, dims, levels):
    """Bits per dimension of pictures in [0, 1] that are told to `levels` steps."""
    ...


ex.q4.check(bits_from_unit)

# %% [markdown]
# **Exercise 5: several draws.** You have log-densities `log_p` `[k, n]` of `n` pictures, each dequantised `k` times,
# and the picture's `dims` and `levels`, in our $[-1, 1]$. Write the bound (3.19), `[n]`, in nats. It must survive
# log-densities of $\pm 10{,}000$.

# %%
def log_probability(log_p, dims, levels):
    """(3.19): [n] lower bounds of log P from k draws each."""
    ...


ex.q5.check(log_probability)

# %% [markdown]
# **Exercise 6: the perfect curve (open).** In one dimension *every* density can be made normal, with no training at
# all: push it through its distribution function $F$, which makes it uniform, then through $\Phi^{-1}$. Write $f(x) =
# \Phi^{-1}(F(x))$ for a mixture of normals on a line, and its log-slope, as a pair. (`torch.special.ndtr` is $\Phi$,
# `torch.special.ndtri` its inverse.)
#
# When it passes: let a network choose weights, means and widths from the other half of the numbers, and you have
# nearly the couplings of Flow++ (whose humps are logistic). Can you beat the splines in the plane? Undoing it takes a
# search; bisection will do.

# %%
def to_normal(x, weights, means, stds):
    """(f(x) [n], log f'(x) [n]) for x [n] of a mixture of normals; weights, means, stds [k]."""
    ...


ex.q6.check(to_normal)

# %% [markdown]
# ## 12 What to remember
#
# 1. Change of variables: $\log p(x) = \log \mathcal N(f(x)) + \log|\det J_f(x)|$. Exact, if $f$ can be undone.
# 2. A coupling moves one half by amounts that the other half chooses: undone at no cost, triangular Jacobian, sum of
#    log-slopes. Stack them, change places, bound the scale.
# 3. A flow may stretch, never tear: bridges stay between things that are apart. And it may lose nothing: its code is
#    as large as the picture.
# 4. Pictures are whole numbers: add uniform noise, mind the units, distrust bits below zero.
# 5. Likelihood is not quality, and not plausibility. KL to a known truth, samples and a reader say three things.
#
# **The lecture said, we measured**

# %%
claims_table()

# %% [markdown]
# ## Further reading
#
# - E. G. Tabak, E. Vanden-Eijnden, *Density Estimation by Dual Ascent of the Log-Likelihood*, Communications in
#   Mathematical Sciences, 2010. Where "normalising" maps were stacked.
# - L. Dinh, D. Krueger, Y. Bengio, *NICE: Non-linear Independent Components Estimation*, 2015, arXiv:1410.8516. The
#   coupling.
# - D. J. Rezende, S. Mohamed, *Variational Inference with Normalizing Flows*, 2015, arXiv:1505.05770. The name.
# - L. Dinh, J. Sohl-Dickstein, S. Bengio, *Density Estimation Using Real NVP*, 2017, arXiv:1605.08803.
# - D. P. Kingma, P. Dhariwal, *Glow: Generative Flow with Invertible 1×1 Convolutions*, 2018, arXiv:1807.03039.
# - C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, *Neural Spline Flows*, 2019, arXiv:1906.04032.
# - L. Theis, A. van den Oord, M. Bethge, *A Note on the Evaluation of Generative Models*, 2016, arXiv:1511.01844.
#   Dequantisation, and why likelihood and samples are different things.
# - J. Ho and others, *Flow++*, 2019, arXiv:1902.00275. Better noise than uniform.
# - E. Nalisnick and others, *Do Deep Generative Models Know What They Don't Know?*, 2019, arXiv:1810.09136.
# - J. Behrmann and others, *Understanding and Mitigating Exploding Inverses in Invertible Neural Networks*, 2021,
#   arXiv:2006.09347.
# - P. Kirichenko, P. Izmailov, A. G. Wilson, *Why Normalizing Flows Fail to Detect Out-of-Distribution Data*, 2020,
#   arXiv:2006.08545.
# - G. Papamakarios and others, *Normalizing Flows for Probabilistic Modeling and Inference*, 2021, arXiv:1912.02762.
#   A survey.
#
# **Next:** a network that gives up the likelihood altogether, and asks a critic instead. The GAN.
