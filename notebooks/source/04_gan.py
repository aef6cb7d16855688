# %% [markdown]
# # Generative adversarial networks
#
# *Chapter 4*
#
# Mixture, VAE and flow were trained with one question: *how surprised is the model by the data?* To answer it a model
# must know its density, or a bound of it. That ties its hands: sums of Gaussians, a blurring decoder, layers that can
# be undone.
#
# A GAN drops the question. A network turns noise into a picture, and that is all. Nobody knows its density, not even
# the network. Instead a *second* network looks at the pictures and says whether it believes them.

# %% [markdown]
# **The question of this chapter: can a judge replace the likelihood? And how good is a model that has no density?**
#
# We will find out what the judge measures, why the game is hard to win, and what is lost when it is won. The judge of
# the judge is our world: it knows every scene.
#
# **Predict first.** Of these sixteen pictures eight were drawn by the renderer, and eight by a network that you will
# meet in part 6. Write down which.

# %%
import inspect
import itertools
import json
import math
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import hypergeom
from torch.nn.functional import leaky_relu, logsigmoid

# %%
from minidiff import data, gan, oracle, plot, scenes, weights
from minidiff.autoencoder import shuffled, stretched
from minidiff.mixture import GaussianMixture
from minidiff.notebook import Rule, claim, claims_table, expect, progress, same, steps

plot.style()

# %%
shipped = weights.load("gan")
riddle = torch.cat([data.pictures(8, seed=4)(0), shipped.sample(8, seed=4)])
order = torch.randperm(16, generator=data.rng("which")).tolist()
plot.grid(riddle[order], [str(i) for i in range(1, 17)],
          title="Eight of these sixteen were drawn by a network. Which?",
          alt="Sixteen numbered pictures of coloured shapes on flat grounds; some have ragged edges.")

# %% [markdown]
# | | |
# |---|---|
# | **You need** | Chapter 0; the Kullback–Leibler divergence and mixtures (chapter 1); the decoder of chapter 2 |
# | **This chapter adds** | `gan`: generator, discriminator, the losses of four games, a loop for two players |
# | **Time** | about three minutes on one core |
#
# Letters and terms: [notation and glossary](notation.md). Logarithms are natural. One warning: in this chapter $D$ is
# a network, not a number of pixels.

# %% [markdown]
# ## 1 Could a judge tell them apart?
#
# A coin is thrown. Heads: you get a picture $x$ from the truth $p$. Tails: from the model $p_\theta$. You do not see
# the coin. Was it heads?
#
# A network that answers is called a **discriminator**, $D$. It gives the probability $D(x)$ that $x$ is real. It is a
# classifier like any other, trained by cross-entropy. Twice its mean surprise (twice, because each half of the coin
# has weight one half) is
#
# $$ L(D) = -\mathrm E_p[\log D(x)] - \mathrm E_{p_\theta}[\log (1 - D(x))] . \tag{4.1} $$

# %% [markdown]
# Which $D$ is best? Write both averages as one integral, of $-p \log D - p_\theta \log(1 - D)$. At each $x$ we may
# choose the value $D(x)$ as we like. The derivative in $D$ is $-p/D + p_\theta/(1-D)$, and it vanishes at
#
# $$ D^*(x) = \frac{p(x)}{p(x) + p_\theta(x)} . \tag{4.2} $$
#
# Bayes' rule would have said the same: it is the posterior of "heads".

# %%
pairs = torch.rand(200, 2, generator=data.rng("pairs")).double()     # of p and p_theta at a point
choices = torch.linspace(.0005, .9995, 1000).double()
integrand = -pairs[:, :1] * choices.log() - pairs[:, 1:] * (1 - choices).log()
same("(4.2) and the best of 1,000 values at each of 200 points",
     choices[integrand.argmin(1)], pairs[:, 0] / pairs.sum(1), tol=1e-3)

# %% [markdown]
# Networks do not give probabilities, they give **logits**: $D = \mathrm{sigmoid}(d)$. Solve (4.2) for $d$:
#
# $$ d^*(x) = \log p(x) - \log p_\theta(x) . \tag{4.3} $$
#
# Stop here for a moment. Neither density is known to the discriminator. It sees samples only. And yet it learns the
# *ratio* of the two densities: a likelihood model has to compute one of the two, a classifier gets the ratio from
# examples.
#
# Does it? We take two densities on a line, and train a small network on samples of both. In this chapter we will play
# many small games, so we play several at once: every weight has a first axis that tells the games apart.

# %%
def network(*sizes, games, key):
    """The weights and biases of several networks; the first axis tells them apart."""
    dice, net = data.rng("network", key), []
    for i, o in itertools.pairwise(sizes):
        w = (2 * torch.rand(games, i, o, generator=dice) - 1) * math.sqrt(3 / i)
        net += [w.requires_grad_(), torch.zeros(games, 1, o, requires_grad=True)]
    return net


def through(net, x):
    """x [games, n, i] through its game's network: linear maps, bent in between."""
    for i in range(0, len(net), 2):
        x = torch.baddbmm(net[i + 1], x, net[i])
        x = leaky_relu(x, .2) if i + 2 < len(net) else x
    return x

# %%
def logits(d, x):
    """What each game's discriminator says of each of its points."""
    return through(d, x)[..., 0]


def cross_entropy(real, fake):
    """(4.1) from logits, one number a game: log D = logsigmoid(d), log(1 - D) = logsigmoid(-d)."""
    return -logsigmoid(real).mean(-1) - logsigmoid(-fake).mean(-1)


def move(optimizer, net, loss):
    """One step down the sum of the games' losses, in the weights of `net` and no others."""
    optimizer.zero_grad()
    loss.sum().backward(inputs=net)
    optimizer.step()

# %%
line = torch.linspace(-6, 6, 1201, dtype=torch.float64)
dx = float(line[1] - line[0])
humps = GaussianMixture.of(torch.tensor([.7, .3]), torch.tensor([[-1.], [2.]]),
                           torch.tensor([.25, .25]), "spherical")
guess = GaussianMixture.of(torch.ones(1), torch.zeros(1, 1), torch.tensor([2.25]), "spherical")
log_p, log_q = (model.log_prob(line[:, None]) for model in (humps, guess))
x_p, x_q = (model.sample(40_000, seed=s).float() for s, model in enumerate((humps, guess)))
critic = network(1, 64, 64, 1, games=1, key="humps")
optimizer = torch.optim.Adam(critic, 3e-3)
for k in range(steps(800)):
    rows = torch.randint(40_000, (2, 1, 512), generator=data.rng("rows", k))
    move(optimizer, critic, cross_entropy(logits(critic, x_p[rows[0]]), logits(critic, x_q[rows[1]])))
learned = logits(critic, line[None, :, None].float())[0].detach().double()

# %%
fig, ax = plt.subplots(figsize=(8.24, 3.4))
ax.fill_between(line, log_p.exp(), color="#BFDDF0", label="p, the truth")
ax.fill_between(line, log_q.exp(), color="#F2C9A8", alpha=.6, label="p_θ, the model")
ax.plot(line, (log_p - log_q).sigmoid(), color="black", label="best D, (4.2)")
ax.plot(line, learned.sigmoid(), "--", color=plot.COLOURS[1], label="learned D")
ax.set(xlabel="x", ylabel="density, or D(x)",
       title="From samples alone the discriminator learns where the truth is denser")
fig.legend(loc="outside right upper")
plot.show(fig, alt="A truth with two humps, one broad model hump; the best discriminator is high on "
                   "the two humps, and the learned one follows it.")

# %%
m = (log_p.exp() + log_q.exp()) / 2
away = (learned.sigmoid() - (log_p - log_q).sigmoid()).abs()
expect("mean |D - D*| over both kinds of points", float((m * away).sum() * dx), 0, .08)
one = logits(critic, x_p[None, :100])[0], logits(critic, x_q[None, :100])[0]
same("our (4.1) and the library's", cross_entropy(*one), gan.cross_entropy(*one))
best = gan.optimal_discriminator(humps.log_prob, guess.log_prob)
same("(4.3) and the library's", log_p - log_q, best(line[:, None]))

# %% [markdown]
# ### What the loss measures
#
# Put the best $D$ into (4.1). With $m = \frac12(p + p_\theta)$, the distribution of what you see before you know the
# coin, $D^* = p / 2m$, so
#
# $$ L(D^*) = -\mathrm E_p\Big[\log \frac{p}{2m}\Big] - \mathrm E_{p_\theta}\Big[\log \frac{p_\theta}{2m}\Big]
#    = 2 \log 2 - \mathrm{KL}(p \,\|\, m) - \mathrm{KL}(p_\theta \,\|\, m) . \tag{4.4} $$
#
# The mean of the two divergences has a name, the **Jensen–Shannon divergence**:
#
# $$ \mathrm{JSD}(p, p_\theta) = \tfrac12 \mathrm{KL}(p \,\|\, m) + \tfrac12 \mathrm{KL}(p_\theta \,\|\, m), \qquad
#    L(D^*) = 2 \log 2 - 2\, \mathrm{JSD}(p, p_\theta) . \tag{4.5} $$
#
# Look at the sign. *Alike* makes the best discriminator's loss *large*: $2 \log 2 = 1.386$, that of a coin. *Far
# apart* makes it small.
#
# We check (4.5) for six pairs: the divergence by integration, the loss with samples.

# %%
def jsd(log_p, log_q, cell):
    """(4.5) on a grid."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return float((log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum() * cell / 2)


for mean, std in ((0., 1.5), (0., .5), (-1., .5), (2., 1.), (4., 1.), (-1., 3.)):
    q = GaussianMixture.of(torch.ones(1), torch.tensor([[mean]]), torch.tensor([std ** 2]), "spherical")
    best = gan.optimal_discriminator(humps.log_prob, q.log_prob)
    loss = cross_entropy(best(humps.sample(100_000, seed=3)), best(q.sample(100_000, seed=4)))
    wide = torch.linspace(-16, 16, 3201, dtype=torch.float64)[:, None]
    same(f"mean {mean:g}, std {std:g}: loss of the best D, and 2 log 2 - 2 JSD", loss,
         2 * math.log(2) - 2 * jsd(humps.log_prob(wide), q.log_prob(wide), .01), tol=.01)

# %% [markdown]
# There is a second way to see it. Before you see $x$, the coin is open: $\log 2$ nats, one bit. Afterwards, on
# average, half of $L(D^*)$ is open. So by (4.5)
#
# $$ \mathrm{JSD} = H(\text{coin}) - H(\text{coin} \mid x) , \tag{4.6} $$
#
# *what a picture tells about the coin*. And no picture can tell more than there is: $0 \le \mathrm{JSD} \le \log 2$.
# That is why it **saturates**. Once two distributions do not overlap, every picture gives the coin away; moving them
# further apart changes nothing.
#
# **Predict first.** Two Gaussians of width 1 stand $a$ apart. Sketch JSD against $a$. Where does it stop rising?

# %%
gaps = torch.tensor([0., .5, 1, 1.5, 2, 3, 4, 6, 8])
wide = torch.linspace(-12, 20, 6401, dtype=torch.float64)
log_0 = -wide ** 2 / 2 - math.log(2 * math.pi) / 2
exact = []
for a in gaps:
    log_a = -(wide - a) ** 2 / 2 - math.log(2 * math.pi) / 2
    heads = (log_0 - log_a).sigmoid()
    open_coin = -(heads * heads.log() + (1 - heads) * (1 - heads).clamp(min=1e-300).log())
    told = math.log(2) - float(((log_0.exp() + log_a.exp()) / 2 * open_coin.nan_to_num()).sum() * .005)
    exact.append(jsd(log_0, log_a, .005))
    same(f"a = {a:g}: (4.6) and (4.5)", told, exact[-1])

# %% [markdown]
# (At about four widths: from there on nearly every picture gives the coin away.)
#
# Now with discriminators that had to learn. For each of the nine gaps we train three, on samples; that is 27 games at
# once. Then we ask for their loss on fresh samples.
#
# ### The lecture said, twice
#
# "The loss of the discriminator stands for how similar $P$ and $P'$ are", says the lecture, for if it cannot tell
# them apart, they are near. A few lines later: "if the discriminator does badly, there is a large gap between $P'$
# and the truth". Both cannot be right.

# %% [markdown]
# **The rule, before the run.** A straight line is fitted to the loss of trained discriminators against the exact
# divergence, over the nine gaps. If its slope is between −2.2 and −1.8 for each of three seeds, then a large loss
# means *near*: the first sentence is right and the sources err in the second. (Between 1.8 and 2.2 it would be the
# other way round.)

# %%
shift = gaps.repeat(3)[:, None, None]                                # 27 games, three for each gap


def two_gaussians(n, dice):
    real, fake = torch.randn(2, len(shift), n, 1, generator=dice)
    return real, fake + shift


judges = network(1, 32, 32, 1, games=27, key="gaps")
optimizer = torch.optim.Adam(judges, 3e-3)
for k in range(steps(800)):
    real, fake = two_gaussians(256, data.rng("gaps", k))
    move(optimizer, judges, cross_entropy(logits(judges, real), logits(judges, fake)))
real, fake = two_gaussians(20_000, data.rng("fresh"))
losses = cross_entropy(logits(judges, real), logits(judges, fake)).detach().reshape(3, 9)
estimates = math.log(2) - losses.double() / 2                        # (4.5), solved for JSD
slope = [np.polyfit(exact, loss, 1)[0] for loss in losses]

# %%
plot.curves({"exact JSD": (gaps, exact),
             "from trained D": (gaps, estimates.mean(0), estimates.std(0)),
             "log 2": (gaps, [math.log(2)] * 9)},
            title="What D measures stops at log 2, however far apart they are",
            xlabel="distance of the two Gaussians, in widths", ylabel="nats",
            alt="Exact and learned divergence rise together from zero and level off at 0.69 beyond "
                "four widths.")

# %%
expect("largest error of an estimate", (estimates - torch.tensor(exact)).abs().max(), 0, .03)
claim("C13", said="The discriminator's loss stands for how similar P and P′ are; and: if it does "
      "badly, there is a large gap between them.", number=slope, n=9,
      rule=Rule("slope of the loss of trained D against the exact JSD over nine gaps: the lecture says "
                "both signs, so a slope within ±(1.8 to 2.2) for all seeds shows which sentence errs",
                lambda v: False, lambda v: False,
                lambda v: np.all(abs(np.abs(v) - 2) <= .2) and abs(np.sign(v).sum()) == 3),
      sentence=f"The slope is {np.mean(slope):.2f} (best possible D: −2): a large loss means near. "
               "The first sentence is right, the second has the sign wrong. And it measures no "
               "distance beyond overlap: the JSD ends at log 2.")

# %% [markdown]
# ### A lazy judge flatters
#
# On average over fresh pictures no $D$ can lose less than the best. (Our 20,000 samples leave a noise of some
# thousandths of a nat.) By how much? At a point $x$ the coin shows heads with probability $D^*$, and $D$ believes
# $D(x)$. The excess surprise is a divergence between two coins, so
#
# $$ L(D) - L(D^*) = 2\, \mathrm E_m\big[ \mathrm{KL}\big( D^*(x) \,\|\, D(x) \big) \big] \ge 0 . \tag{4.7} $$
#
# Remember this when you look at the loss curve of a GAN. A loss near 1.386 may mean that the pictures are perfect. It
# may also mean that the judge is bad. *The curve cannot tell*, and part 10 lives on it.

# %%
coin = torch.distributions.Bernoulli
sure, believes = (log_p - log_q).sigmoid(), learned.sigmoid()
excess = torch.distributions.kl_divergence(coin(sure), coin(believes))
loss_of_learned = -(log_p.exp() * logsigmoid(learned) + log_q.exp() * logsigmoid(-learned)).sum() * dx
expect("L(D) − L(D*) of the network above, in nats", 2 * float((m * excess).sum() * dx), 0, .03)
same("both sides of (4.7)", loss_of_learned - (2 * math.log(2) - 2 * jsd(log_p, log_q, dx)),
     2 * (m * excess).sum() * dx, tol=1e-4)

# %% [markdown]
# ## 2 What the generator follows
#
# Now the other player. The **generator** $G$ turns noise $z \sim \mathcal N(0, I)$ into a picture $G(z)$; $p_\theta$
# is whatever comes out. It wants the discriminator's loss to be *large*. Only the second term of (4.1) depends on
# $G$, so it minimises
#
# $$ L_{\text{sat}}(G) = \mathrm E_z\big[\log\big(1 - D(G(z))\big)\big] . \tag{4.8} $$
#
# That is the game as it was first written down (Goodfellow and others, 2014): one loss, two players, one minimises
# and one maximises it, **minimax**. If $D$ is always the best, $G$ minimises $2\,\mathrm{JSD}$, up to a constant.

# %% [markdown]
# Let us watch it where everything is exact. The truth is $\mathcal N(0, 1)$, and $G(z) = \theta + z$: a bump that can
# only be moved. By (4.3) the best logit is a line, $d^*(x) = \theta(\theta/2 - x)$, with slope $-\theta$. With
# $\frac{d}{dd} \log(1 - D) = -D$ and the chain rule, $D$ held fixed,
#
# $$ \frac{dL_{\text{sat}}}{d\theta} = \theta\; \mathrm E_{p_\theta}[D^*(x)] . \tag{4.9} $$

# %% [markdown]
# The direction is right: towards 0. But look at the factor. Far away, $D^*$ is nearly 0 on all that $G$ makes. The
# judge is *sure*, and a judge who is sure teaches nothing: the slope dies out when it is needed most. It is the flat
# end of the JSD curve.
#
# The trick of the same paper: let $G$ maximise $\log D$ instead of minimising $\log(1 - D)$,
#
# $$ L_{\text{ns}}(G) = -\mathrm E_z\big[\log D(G(z))\big], \qquad
#    \frac{dL_{\text{ns}}}{d\theta} = \theta\; \mathrm E_{p_\theta}[1 - D^*(x)] , \tag{4.10} $$
#
# by $\frac{d}{dd} \log D = 1 - D$. This **non-saturating** loss has the same sign, the same fixed point $\theta = 0$,
# and a slope that is largest where the judge is sure.
#
# We check both with autograd, the exact $D^*$ held fixed while $G$ is differentiated.

# %%
def caught(fake):
    """(4.8): E log(1 - D)."""
    return logsigmoid(-fake).mean(-1)


def believed(fake):
    """(4.10): -E log D."""
    return -logsigmoid(fake).mean(-1)


z = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + .5) / 100_000)   # N(0, 1), evenly
thetas = torch.tensor([.2, .5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8], dtype=torch.float64)
slopes = {"saturating": [], "non-saturating": []}
for at in thetas:
    for loss, found in zip((caught, believed), slopes.values(), strict=True):
        theta = at.clone().requires_grad_()
        d = at * (at / 2 - (theta + z))                              # D stays fixed at its best
        found.append(float(torch.autograd.grad(loss(d), theta)[0]))

# %%
D = [(at * (at / 2 - (at + z))).sigmoid().mean() for at in thetas]
same("(4.9)", slopes["saturating"], thetas * torch.stack(D))
same("(4.10)", slopes["non-saturating"], thetas * (1 - torch.stack(D)))
some = torch.randn(50, generator=data.rng("logits"))
same("ours and the library's losses", [caught(some), believed(some)],
     [gan.caught(some), gan.believed(some)])
expect("at 8 widths, the saturating slope", slopes["saturating"][-1], 0, .01)
plot.curves({name: (thetas, found) for name, found in slopes.items()},
            title="Where the fakes are worst, the saturating loss has nothing to say",
            xlabel="θ, how far the bump is from the truth, in widths", ylabel="slope towards the truth",
            alt="The saturating slope rises and falls back to zero beyond four widths; the "
                "non-saturating grows like the distance.")

# %% [markdown]
# ### But what does it minimise?
#
# The saturating gradient has a meaning: at the best $D$ it is the gradient of $2\,\mathrm{JSD}$. (When $\theta$
# moves, $D^*$ moves too, but at a minimum in $D$ a small move of $D$ changes nothing. That is the **envelope
# theorem**.) And the non-saturating one? Since $\log D = d + \log(1 - D)$,
#
# $$ -\log D^* = \log \frac{p_\theta}{p} - \log(1 - D^*) . \tag{4.11} $$

# %% [markdown]
# The first term, averaged over $p_\theta$, is $\mathrm{KL}(p_\theta \,\|\, p)$, *model first*. Its gradient with the
# logarithm held fixed is the gradient of the divergence, because what is left out, $\mathrm
# E_{p_\theta}[\nabla_\theta \log p_\theta] = \nabla_\theta \int p_\theta\, dx = \nabla_\theta 1$, is 0. The second
# term is $-L_{\text{sat}}$, and gives $-\nabla\, 2\,\mathrm{JSD}$. So, with $D$ at its best,
#
# $$ \nabla L_{\text{sat}} = \nabla\, 2\,\mathrm{JSD}, \qquad
#    \nabla L_{\text{ns}} = \nabla \big( \mathrm{KL}(p_\theta \,\|\, p) - 2\,\mathrm{JSD} \big) . \tag{4.12} $$
#
# (Arjovsky & Bottou, 2017.) We check it by finite differences of divergences that are integrated on a grid.

# %%
def divergences(theta):
    """2 JSD and KL(p_theta || p) for bumps at 0 and theta, on a grid."""
    log_q = -(wide - theta) ** 2 / 2 - math.log(2 * math.pi) / 2
    return 2 * jsd(log_0, log_q, .005), float((log_q.exp() * (log_q - log_0)).sum() * .005)


# %%
h = 1e-3
up, down = (np.array([divergences(float(at) + step) for at in thetas]) for step in (h, -h))
rise = (up - down) / (2 * h)
same("saturating: the slope of 2 JSD", slopes["saturating"], rise[:, 0], tol=1e-4)
same("non-saturating: the slope of KL(p_θ ∥ p) − 2 JSD", slopes["non-saturating"],
     rise[:, 1] - rise[:, 0], tol=1e-4)

# %% [markdown]
# (A bump that only moves has the same divergence in both directions. So we also let $G$ change the *width*, $G(z) = s
# z$, where the order matters.)

# %%
for s in (.5, .8, 2.):
    scale = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    x = scale * z
    d = math.log(s) + x ** 2 / (2 * s ** 2) - x ** 2 / 2             # (4.3) for N(0, 1) and N(0, s^2)
    slope, = torch.autograd.grad(believed(d), scale)
    sides = []
    for width in (s + h, s - h):
        log_s = -wide ** 2 / (2 * width ** 2) - math.log(width) - math.log(2 * math.pi) / 2
        sides.append(float((log_s.exp() * (log_s - log_0)).sum() * .005) - 2 * jsd(log_0, log_s, .005))
    same(f"width {s:g}: the non-saturating slope, and that of KL(p_θ ∥ p) − 2 JSD", slope.detach(),
         (sides[0] - sides[1]) / (2 * h), tol=1e-3)

# %% [markdown]
# Is that difference a divergence at all, never negative? With $m = \frac12 (p + p_\theta)$ the logarithms combine:
#
# $$ \mathrm{KL}(p_\theta \,\|\, p) - 2\,\mathrm{JSD}(p, p_\theta) = \int (p + p_\theta) \log \frac{m}{p}\, dx
#    = 2\, \mathrm{KL}(m \,\|\, p) . \tag{4.13} $$
#
# So the game that everyone plays does not minimise the Jensen–Shannon divergence. It walks down $2\,\mathrm{KL}(m
# \,\|\, p)$, *model first*, and *that* direction punishes what the model makes up, hardly what it forgets (the
# notation page has a line on it). Keep this in mind for the next part.

# %%
at_3 = -(wide - 3) ** 2 / 2 - math.log(2 * math.pi) / 2
log_m = torch.logaddexp(log_0, at_3) - math.log(2)
twice_jsd, kl = divergences(3.)
same("(4.13) for a bump 3 away", kl - twice_jsd,
     2 * float((log_m.exp() * (log_m - log_0)).sum() * .005), tol=1e-4)

# %% [markdown]
# ## 3 Another target, another answer
#
# "Diffusion is maximum likelihood", says a lecture, "a GAN minimises a divergence." Chapter 1 knows that maximum
# likelihood minimises one, too: $\mathrm{KL}(p \,\|\, p_\theta)$. If the model can be perfect, all divergences agree:
# zero is zero. The difference shows when it *cannot*.

# %% [markdown]
# So take a truth with two lumps in the plane, three quarters and one quarter, and a model that is too simple: *one*
# Gaussian, $G(z) = A z + b$. It has a density. We may measure with it; the game will not see it.
#
# **Predict first.** Where will the maximum likelihood Gaussian lie? Where would you put it, if a judge were to look
# at your samples one by one?

# %%
lumps = GaussianMixture.of(torch.tensor([.75, .25]), torch.tensor([[-2.5, 0.], [2.5, 1.]]),
                           torch.tensor([[[.5, .2], [.2, .4]], [[.4, -.1], [-.1, .5]]]))
side = torch.linspace(-7, 7, 85, dtype=torch.float64)
plane, cell = torch.cartesian_prod(side, side), float(side[1] - side[0]) ** 2
log_t = lumps.log_prob(plane)


def one_gaussian(A, b):
    """log p_theta on the grid, for G(z) = A z + b with A lower triangular."""
    return torch.distributions.MultivariateNormal(b, scale_tril=A).log_prob(plane)


def three(log_q):
    """KL(p || q), KL(q || p) and JSD(p, q), in nats, on the grid."""
    log_m = torch.logaddexp(log_t, log_q) - math.log(2)
    kl = lambda a, b: (a.exp() * (a - b)).sum() * cell                                  # noqa: E731
    return torch.stack([kl(log_t, log_q), kl(log_q, log_t), (kl(log_t, log_m) + kl(log_q, log_m)) / 2])

# %% [markdown]
# The first road needs no game: all three divergences can be computed on a grid, so we can walk down each of them.
# (For $\mathrm{KL}(p \,\|\, p_\theta)$ the answer is known, equation (1.6): mean and covariance of the truth.)

# %%
def triangle(r):
    """A [games, 2, 2], lower triangular with a positive diagonal, from r [games, 3]."""
    zero = torch.zeros_like(r[:, 0])
    return torch.stack([r[:, 0].exp(), zero, r[:, 1], r[:, 2].exp()], 1).reshape(-1, 2, 2)


def walked(which):
    """The Gaussian at the end of a walk down one of the three divergences, from N(0, I)."""
    r, b = torch.zeros(1, 3).double().requires_grad_(), torch.zeros(2).double().requires_grad_()
    optimizer = torch.optim.Adam([r, b], .05)
    for _ in range(steps(220)):
        move(optimizer, [r, b], three(one_gaussian(triangle(r)[0], b))[which])
    return triangle(r)[0].detach(), b.detach()


# %%
targets = {"KL(p ∥ p_θ)": walked(0), "KL(p_θ ∥ p)": walked(1), "JSD": walked(2)}
mean = (lumps.weights_[:, None] * lumps.means_).sum(0)
apart = lumps.means_ - mean
cov = torch.einsum("k,kij->ij", lumps.weights_, lumps.covariances_ + apart[:, :, None] * apart[:, None])
A, b = targets["KL(p ∥ p_θ)"]
same("the walk down KL(p ∥ p_θ) and (1.6): the mean", b, mean, tol=.02)
same("the covariance", A @ A.T, cov, tol=.02)

# %% [markdown]
# The second road is the game. Here is the whole of it, for this chapter's small cases. In each step $D$ moves
# `d_steps` times, then $G$ once; each move is on fresh noise, and changes one player only. Note `no_grad` where $D$
# moves, and `inputs=net` in `move`: $D$'s loss must not touch $G$, and $G$'s must not touch $D$. (The term with `r1`
# comes in part 4; here a little of it, 0.02, keeps $D$ calm.)
#
# **The rule, before the run.** "Another divergence" means that it can be smaller where the likelihood is worse. The
# claim's second half *holds* if in all ten games (five for each loss) the JSD is smaller than that of maximum
# likelihood, *holds partly* if in some. (For its first half, "diffusion is maximum likelihood", wait for chapter 5.)

# %%
def d_loss(d, real, fake, r1):
    """(4.1), plus r1/2 times the mean squared slope of d at real points."""
    real = real.requires_grad_()
    on_real = logits(d, real)
    slope, = torch.autograd.grad(on_real.sum(), real, create_graph=True)
    penalty = slope.square().sum(-1).mean(-1)
    return cross_entropy(on_real, logits(d, fake)) + r1 / 2 * penalty


def quick(d, real, fake, r1):
    """The same, without the slope where it is not asked for."""
    return d_loss(d, real, fake, r1) if r1 else cross_entropy(logits(d, real), logits(d, fake))

# %%
def duel(make, g, d, real, *, n=128, steps=1000, d_steps=1, r1=0., g_loss=believed, lr=1e-3,
         betas=(.5, .99), key="duel"):
    """All games in step; make(g, z) is what G makes of noise, real(games, n, dice) draws points."""
    dice, games = data.rng(key), len(d[0])
    of_g, of_d = torch.optim.Adam(g, lr, betas), torch.optim.Adam(d, lr, betas)
    noise = lambda: torch.randn(games, n, 2, generator=dice)                            # noqa: E731
    for k in range(steps):
        for _ in range(d_steps):
            with torch.no_grad():
                fake = make(g, noise())
            move(of_d, d, quick(d, real(games, n, dice), fake, r1))
        move(of_g, g, g_loss(logits(d, make(g, noise()))))
        yield k

# %%
pool = lumps.sample(50_000, seed=1).float()


def from_lumps(games, n, dice):
    return pool[torch.randint(len(pool), (games, n), generator=dice)]


def affine(g, z):
    """G(z) = A z + b, one for each game."""
    return z @ triangle(g[0]).mT + g[1]

# %%
played = {}
for name, loss, turns in (("saturating", caught, 1600), ("non-saturating", believed, 800)):
    g = [torch.zeros(5, 3, requires_grad=True), torch.zeros(5, 1, 2, requires_grad=True)]
    d = network(2, 32, 32, 1, games=5, key=name)
    for _ in duel(affine, g, d, from_lumps, steps=steps(turns), d_steps=3, r1=.02,
                  g_loss=loss, lr=5e-3):
        pass
    played[name] = [(A.detach().double(), b[0].detach().double())
                    for A, b in zip(triangle(g[0]), g[1], strict=True)]

# %%
def ellipse(ax, A, b, color, style="-", label=None):
    """Where a Gaussian's points lie two standard deviations out."""
    turn = torch.linspace(0, 2 * math.pi, 100).double()
    x = 2 * torch.stack([turn.cos(), turn.sin()], 1) @ A.T + b
    ax.plot(*x.T, color=color, linestyle=style, label=label)


# %%
fig, ax = plt.subplots(figsize=(8.24, 3.6))
ax.contourf(side, side, log_t.exp().reshape(85, 85).T, 10, cmap="Greys")
ellipse(ax, *targets["KL(p ∥ p_θ)"], plot.COLOURS[0], label="maximum likelihood")
ellipse(ax, *targets["JSD"], plot.COLOURS[2], "--", "smallest JSD, on a grid")
for i, (A, b) in enumerate(played["non-saturating"]):
    ellipse(ax, A, b, plot.COLOURS[1], ":", None if i else "five games")
ax.set(xlim=(-7, 7), ylim=(-3.2, 3.6), aspect="equal", xticks=[], yticks=[],
       title="Likelihood covers everything and the gap; the game takes one lump")
fig.legend(loc="outside right upper")
plot.show(fig, alt="Two grey lumps; a long ellipse of maximum likelihood over both; the ellipse of the "
                   "smallest divergence and those of five games round the larger lump only.")

# %%
fits = {name: [fit] for name, fit in targets.items()} | played
table = {name: torch.stack([three(one_gaussian(*fit)) for fit in group])
         for name, group in fits.items()}
for name, values in table.items():
    print(f"{name:>15}", *(f"{what} {value:5.2f}" for what, value in
                           zip(targets, values.mean(0), strict=True)), sep="    ")
by_game = torch.cat([table["saturating"], table["non-saturating"]])[:, 2]
gain = table["KL(p ∥ p_θ)"][0, 2] - by_game                          # of JSD, over maximum likelihood
expect("KL(p ∥ p_θ) of the worst fit by game, over that of maximum likelihood",
       max(table[name][:, 0].max() for name in played) / table["KL(p ∥ p_θ)"][0, 0], 5, 30)
expect("the games' JSD is within 0.02 of the smallest found on the grid",
       bool((by_game - table["JSD"][0, 2] < .02).all()))

# %% [markdown]
# Rows: how the Gaussian was found. Columns: how it is judged, in nats. Each road is best at what it walks down. In
# $\mathrm{KL}(p \,\|\, p_\theta)$ the games lose by a factor of ten, for they forget a quarter of the data. To a
# judge who sees one sample at a time they look much better: they make up nothing. (By (4.13) the non-saturating games
# have another target than the JSD; its minimum lies close by here.)

# %%
claim("C60", said="Diffusion is maximum likelihood; a GAN minimises a divergence.",
      number=gain.numpy(), n=1,
      rule=Rule("JSD of the maximum likelihood Gaussian less that of the Gaussian found by a game, in "
                "nats: above 0 in all ten games (holds), in some (partly)",
                lambda v: np.min(v) > 0, lambda v: np.max(v) > 0),
      sentence="A GAN minimises another divergence than maximum likelihood, which minimises one, too. "
               "One Gaussian for two lumps: likelihood covers both and the gap, the game takes the "
               "larger lump and has half of the JSD, at ten times the KL. (Diffusion: chapter 5.)")

# %% [markdown]
# ## 4 A game that does not come to rest
#
# One Gaussian cannot run far. A network can. Our next truth has eight small lumps on a ring, and $G$ is a network
# that could make them all.
#
# In the films of this part a panel is a game, and a bright spot is a place where $G$'s points fall. Top row: the
# optimiser as most people would take it, Adam with its defaults. Below: with two changes, which we will find in a
# moment. Four games each.
#
# **Predict first.** If a generator fails, will its points be spread over the plane, or all in one place? Will they
# stay there?

# %%
turn = torch.arange(8) * math.pi / 4
eight = 2 * torch.stack([turn.cos(), turn.sin()], 1)


def ring(games, n, dice):
    """Eight lumps of width 0.05 on a ring."""
    which = torch.randint(8, (games, n), generator=dice)
    return eight[which] + .05 * torch.randn(games, n, 2, generator=dice)


def heat(x, side=48, edge=3.):
    """Each game's points as a picture [games, 1, side, side]."""
    at = ((x.clamp(-edge, .999 * edge) / edge + 1) / 2 * side).long()
    count = torch.zeros(len(x), side * side).scatter_add_(
        1, at[..., 1] * side + at[..., 0], torch.ones(x.shape[:2]))
    return 2 * (count / 8).clamp(max=1).reshape(-1, 1, side, side) - 1

# %% tags=["nbval-ignore-output"]
def on_the_ring(settings, games=4, shots=()):
    """Play games on the ring; the last 2,000 points of each, and pictures after some of the steps."""
    g, d = (network(2, 64, 64, out, games=games, key=f"ring{out}") for out in (2, 1))
    z, film = torch.randn(games, 2000, 2, generator=data.rng("shown")), []
    for k in duel(through, g, d, ring, **({"steps": steps(1200)} | settings)):
        if k in shots:
            film.append(heat(through(g, z).detach()))
    return through(g, z).detach(), film


adam, calm = {"betas": (.9, .999)}, {"betas": (.5, .99), "r1": .2}
shots = [*range(0, 100, 20), *range(100, 1200, 100), 1199]
(by_adam, upper), (by_calm, lower) = (on_the_ring(settings, shots=shots) for settings in (adam, calm))
plot.film([torch.cat(frames) for frames in zip(upper, lower, strict=True)], columns=4, most=17, fps=4,
          alt="A film of eight games: in the upper four the points jump from lump to lump together, in "
              "the lower four they spread over all eight lumps.")

# %% [markdown]
# In the upper row all points go where the judge is weak, together. The judge learns it, and they move on. At every
# moment most of the eight lumps are missing: **mode collapse**. And nothing comes to rest. Is it just bad luck? We
# look at the smallest game that can show it.

# %% [markdown]
# ### Two numbers
#
# The truth is a single number, 0. $G$ makes a single number, $\theta$. $D$ is a line through 0 with slope $\psi$: it
# says $d(x) = \psi x$. (Mescheder and others, 2018, call it the Dirac-GAN.) In (4.1) and (4.10), $L(D) = \log 2 +
# \log(1 + e^{\psi\theta})$ and $L_{\text{ns}} = \log(1 + e^{-\psi\theta})$. Each player steps downhill:
#
# $$ \dot\psi = -\theta\, \mathrm{sigmoid}(\psi\theta) \approx -\tfrac12 \theta, \qquad
#    \dot\theta = \psi\, \mathrm{sigmoid}(-\psi\theta) \approx +\tfrac12 \psi . \tag{4.14} $$
#
# Those are the equations of a *rotation* around $(0, 0)$, the point where $G$ has won. $D$ points to where $\theta$
# is not, $\theta$ follows, overshoots, $D$ turns round. Neither does anything wrong.

# %% [markdown]
# A cure: charge $D$ for being steep where the real pictures are. This is the **R1 penalty**,
#
# $$ R_1 = \frac\gamma2\, \mathrm E_p\big[\, |\nabla_x d(x)|^2 \,\big] , \tag{4.15} $$
#
# which here is $\frac\gamma2 \psi^2$. It adds $-\gamma\psi$ to $\dot\psi$: friction. Around $(0, 0)$ the motion is
# now a matrix, and its eigenvalues tell what will happen:
#
# $$ \begin{pmatrix} \dot\psi \\ \dot\theta \end{pmatrix} =
#    \begin{pmatrix} -\gamma & -\frac12 \\ \frac12 & 0 \end{pmatrix}
#    \begin{pmatrix} \psi \\ \theta \end{pmatrix}, \qquad
#    \lambda = \frac{-\gamma \pm \sqrt{\gamma^2 - 1}}{2} . \tag{4.16} $$
#
# Without friction $\lambda = \pm \frac{i}{2}$: round and round, as far as the linear part tells. (The next order
# creeps inwards, ever more slowly.) With $\gamma > 0$ the real parts are negative: inwards.
#
# First we check that the motion really is the gradient of the losses that we use, with autograd and the library.

# %%
def velocity(state, gamma):
    """(4.14) with R1, for the pair (psi, theta)."""
    psi, theta = state
    return torch.stack([-theta * torch.sigmoid(psi * theta) - gamma * psi,
                        psi * torch.sigmoid(-psi * theta)])


psi, theta = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (.7, -1.2))
judge = lambda x: psi * x[:, 0]                                                         # noqa: E731
real, fake = torch.zeros(1, 1).double(), theta.reshape(1, 1)
of_d = gan.cross_entropy(judge(real), judge(fake)) + .3 / 2 * gan.r1(judge, real)
down = [-torch.autograd.grad(of_d, psi, retain_graph=True)[0],
        -torch.autograd.grad(gan.believed(judge(fake)), theta)[0]]
same("(4.14) with R1, and the gradients of the library's losses", down,
     velocity(torch.stack([psi, theta]).detach(), .3))

# %%
for gamma in (0., .3, 2.):
    J = torch.func.jacrev(lambda state, c=gamma: velocity(state, c))(torch.zeros(2).double())
    root = np.sqrt(complex(gamma ** 2 - 1))
    by_formula = np.sort_complex([(-gamma - root) / 2, (-gamma + root) / 2])
    found = np.sort_complex(torch.linalg.eigvals(J).numpy())
    same(f"gamma = {gamma:g}: (4.16) and the eigenvalues of the Jacobian",
         [by_formula.real, by_formula.imag], [found.real, found.imag])

# %% [markdown]
# Real players take steps, in turns, and their optimiser has **momentum**: it follows a mean of the last gradients. In
# an ordinary valley that helps. In a rotation, where the motion is at a right angle to the radius, a gradient from a
# while ago is turned back, and so has a part that points *outwards*.

# %%
def path(momentum, gamma, step=.3, turns=150):
    """D moves, then G, as Adam would without its division: along a running mean of the gradients."""
    state, mean, seen = torch.tensor([.01, .3]), torch.zeros(2), []
    for _ in range(turns):
        seen.append(state)
        for player in (0, 1):
            moved = torch.arange(2) == player
            smooth = momentum * mean + (1 - momentum) * velocity(state, gamma)
            mean = torch.where(moved, smooth, mean)
            state = torch.where(moved, state + step * mean, state)
    return torch.stack(seen)


cases = {"no momentum": (0., 0.), "momentum 0.9": (.9, 0.), "R1": (0., .3), "momentum, R1": (.9, .3)}
paths = {name: path(*case) for name, case in cases.items()}

# %%
fig, axes = plt.subplots(1, 4, figsize=(8.24, 2.7), sharey=True)
for ax, (name, seen) in zip(axes, paths.items(), strict=True):
    ax.plot(*seen.T, "-", lw=1, color=plot.COLOURS[0])
    ax.plot(*seen[0], "o", color=plot.COLOURS[1], ms=5)
    ax.set(xlabel="ψ", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
    ax.set_title(name, size=10)
axes[0].set_ylabel("θ")
fig.suptitle("The game turns; momentum drives outwards, R1 inwards")
plot.show(fig, alt="Four paths in the plane of the two numbers: a nearly closed circle, a growing "
                   "spiral that leaves the frame, a shrinking one, and, with momentum and R1, one that "
                   "leaves it more slowly.")
for name, seen in paths.items():
    r = seen.norm(dim=1)
    print(f"{name:>12}: distance from the goal after 150 turns, over that at the start: "
          f"{r[-20:].mean() / r[:20].mean():.1f}")

# %% [markdown]
# So two changes suggest themselves, less momentum and R1. People also let $D$ move more often, and take larger
# batches. Which of them mends the ring? We change one thing at a time, at about equal cost (five moves of $D$ and
# batches of 512 get a third of the steps), four games each, and count: a lump is *found* if at least 1 in 80 points
# falls within five widths of it (a tenth of what is due), and a point is *good* if it is that near to any lump.
#
# **Predict first.** Order them: Adam's defaults; momentum 0.5; R1; five moves of $D$; batches of 512; and the lower
# row of the film, momentum 0.5 with R1.

# %%
def found(x):
    """How many of the eight lumps each game has found, and the share of its good points."""
    far, which = torch.cdist(x, eight.expand(len(x), -1, -1)).min(2)
    hits = torch.nn.functional.one_hot(which, 8) * (far < .25)[..., None]
    return (hits.float().mean(1) >= 1 / 80).sum(1), (far < .25).float().mean(1)


x = ring(3, 2000, data.rng("real ring"))
same("real points: lumps found", found(x)[0], [8] * 3)
expect("real points: share of good ones, the worst of three", found(x)[1].min(), .999)
menders = {"momentum 0.5 instead of 0.9": {"betas": (.5, .999)}, "R1": {"r1": .2},
           "five moves of D": {"d_steps": 5, "steps": steps(400)},
           "batches of 512": {"n": 512, "steps": steps(400)}}
ends = {"Adam's defaults": by_adam} | {
    name: on_the_ring(adam | change)[0] for name, change in menders.items()}
ends["momentum 0.5 and R1"] = by_calm
results = {name: found(x) for name, x in ends.items()}

# %% tags=["nbval-ignore-output"]
for name, (lumps_found, good) in results.items():
    print(f"{name:>28}: lumps found {lumps_found.tolist()}, good points "
          f"{', '.join(f'{share:.0%}' for share in good.sort()[0])}")

# %% [markdown]
# At equal cost less momentum helps most. R1 alone does not mend it, as it did not in the spiral with both; on top of
# less momentum it doubles the good points of the worst game. (In that row $\beta_2$ is 0.99, too.) Five moves of $D$
# help, larger batches least. (So `gan.play` has no first momentum at all, unless you ask.)
#
# Why are not all points good? $G$ is continuous. It has *one* lump of noise to spread over eight, so it must leave
# threads between them.
#
# One more mender is worth a name. Let $D$ see whether a *batch* is all alike: give it the standard deviation over the
# batch as one more feature (Karras and others, 2018; `gan.variety`). Part 7 tries it on pictures.

# %% [markdown]
# ## 5 A distance that does not saturate
#
# The JSD of two lumps says "different" and no more, however far apart they are. What would a better distance be?
# Think of $p_\theta$ as a heap of sand and of $p$ as a hole. How much work is it to fill the hole: how much sand,
# times how far? A **coupling** $\pi(x, y)$ is a plan, how much goes from $y$ to $x$ (summed over $y$ it gives $p$,
# over $x$ it gives $p_\theta$); the least work over all plans is the **Wasserstein distance**,
#
# $$ W(p, p_\theta) = \min_\pi\; \mathrm E_{(x, y) \sim \pi}\, |x - y| . \tag{4.17} $$

# %% [markdown]
# On a line the best plan is simple: no two grains need to cross. The leftmost goes to the leftmost, and so on. With
# samples sorted,
#
# $$ W = \frac1n \sum_i |x_{(i)} - y_{(i)}| = \int \big| F_p(t) - F_{p_\theta}(t) \big|\, dt , \tag{4.18} $$
#
# where $F(t)$ is the share of sand to the left of $t$: through the point $t$ must be carried exactly what is missing
# on one side. We check both against the best plan of all, found by an assignment solver that knows nothing of order.

# %%
def wasserstein(x, y):
    """(4.18) for as many real as made numbers."""
    return (x.sort()[0] - y.sort()[0]).abs().mean()


x, y = humps.sample(300, seed=5)[:, 0], guess.sample(300, seed=6)[:, 0]
cost = (x[:, None] - y).abs().numpy()
same("(4.17) by an assignment solver, and (4.18)", cost[linear_sum_assignment(cost)].mean(),
     wasserstein(x, y))
mesh = torch.linspace(-8, 8, 16_001, dtype=torch.float64)
left_of = lambda s: (s[:, None] <= mesh).double().mean(0)                               # noqa: E731
same("and the area between the two shares", (left_of(x) - left_of(y)).abs().sum() * .001,
     wasserstein(x, y), tol=1e-3)
same("moved by 100, it is 100", wasserstein(x, x + 100), 100)

# %% [markdown]
# How can a network measure it, from samples, in many dimensions? Take a function $f$ that is nowhere steeper than 1
# (its **Lipschitz constant** is 1): $f(x) - f(y) \le |x - y|$. For *any* plan, therefore, $\mathrm E_p[f] - \mathrm
# E_{p_\theta}[f] = \mathrm E_\pi[f(x) - f(y)] \le \mathrm E_\pi |x - y|$. It is never more than $W$. And the best
# such $f$ reaches it (Kantorovich's **duality**),
#
# $$ W(p, p_\theta) = \max_{|f'| \le 1}\; \mathrm E_p[f(x)] - \mathrm E_{p_\theta}[f(x)] . \tag{4.19} $$
#
# On a line we can even write it down. By parts, $\mathrm E_p[f] - \mathrm E_{p_\theta}[f] = \int f'(t)\,
# (F_{p_\theta}(t) - F_p(t))\, dt$. If $|f'| \le 1$, the best choice is $f' = \pm 1$, the sign of the bracket; and the
# integral becomes (4.18).

# %%
F_p, F_q = log_p.exp().cumsum(0) * dx, log_q.exp().cumsum(0) * dx
f = ((F_q - F_p).sign() * dx).cumsum(0)                              # the best f: slope +1 or -1
attained = ((log_p.exp() - log_q.exp()) * f).sum() * dx
same("(4.19) with that f, and (4.18) by shares", attained, (F_p - F_q).abs().sum() * dx, tol=.01)
others = torch.randn(500, 25, generator=data.rng("others")).double().repeat_interleave(49, 1)[:, :1201]
tries = ((log_p.exp() - log_q.exp()) * (others.clamp(-1, 1) * dx).cumsum(1)).sum(1) * dx
expect("of 500 other functions of slope at most 1, the best, as a share of W",
       float(tries.max() / attained), .3, 1)

# %% [markdown]
# So a $D$ in the place of $f$ is no classifier. It gives *marks* to pictures, and is called a **critic**. The game
# (Arjovsky and others, 2017):
#
# $$ L(D) = \mathrm E_{p_\theta}[d] - \mathrm E_p[d], \qquad L(G) = -\mathrm E_{p_\theta}[d] , \tag{4.20} $$
#
# under the condition that $d$ is nowhere steeper than 1. Who sees to that? One way is a fine. Where the best plan
# carries sand from $y$ to $x$, $d(x) - d(y) = |x - y|$ must be reached, so the best $d$ rises with slope 1 all along
# the way. The best plan is unknown; one takes random pairs of a real and a made point, and asks for slope 1 between
# them (Gulrajani and others, 2017): the **gradient penalty**
#
# $$ \lambda\, \mathrm E\big[ ( |\nabla d(\hat x)| - 1 )^2 \big], \qquad \hat x = u\,x + (1 - u)\,y, \quad
#    u \sim \mathrm U(0, 1) . \tag{4.21} $$
#
# We train critics for the nine gaps of part 1. (Now and then one of the 27 gets stuck: with slope $-1$ it pays no
# fine, and to turn round it would have to pass through slope 0, which costs $\lambda$. So we take the median of each
# three.)

# %%
def gradient_penalty(d, real, fake, u):
    """(4.21) without lambda, one number a game; u like real, constant over a point's numbers."""
    x = (u * real + (1 - u) * fake).detach().requires_grad_()
    slope, = torch.autograd.grad(logits(d, x).sum(), x, create_graph=True)
    return (slope.norm(dim=-1) - 1).square().mean(-1)


# %%
critics = network(1, 32, 32, 1, games=27, key="critics")
optimizer = torch.optim.Adam(critics, 3e-3)
for k in range(steps(500)):
    dice = data.rng("critics", k)
    real, fake = two_gaussians(256, dice)
    of_d = logits(critics, fake).mean(1) - logits(critics, real).mean(1)
    u = torch.rand(27, 256, 1, generator=dice)
    move(optimizer, critics, of_d + 10 * gradient_penalty(critics, real, fake, u))
real, fake = two_gaussians(20_000, data.rng("fresh"))
marks = (logits(critics, real).mean(1) - logits(critics, fake).mean(1)).detach().reshape(3, 9)
middle = marks.median(0).values

# %%
plot.curves({"Wasserstein, exact": (gaps, gaps),
             "marks of critics": (gaps, middle),
             "predicted with the fine": (gaps, gaps * (1 + gaps / 20)), "JSD, exact": (gaps, exact)},
            title="The critic counts on where the classifier has stopped",
            xlabel="distance of the two Gaussians, in widths", ylabel="distance, or nats",
            alt="The Wasserstein distance is a straight line, the marks of the critics bend above it "
                "as predicted; the Jensen–Shannon divergence is flat beyond four widths.")

# %% [markdown]
# The critics do not stop at log 2, but they overshoot. A fine is not a law. Here the best $d$ is nearly a straight
# line of some slope $s$. It earns $s\,W$ and costs $\lambda (s - 1)^2$, so it pays to be a little too steep:
#
# $$ s = 1 + \frac{W}{2\lambda} . \tag{4.22} $$
#
# With $\lambda = 10$ that is the curve in the figure. Nobody minds: a common factor in $\nabla d$ is a matter of the
# learning rate. But do not quote a critic's loss as a distance.

# %%
expect("largest error of the marks against W (1 + W/20), over max(1, W)",
       ((middle - gaps * (1 + gaps / 20)).abs() / gaps.clamp(min=1)).max(), 0, .2)
one = [t[20] for t in (real, fake)]                                  # game 20: third seed, gap 1.5
judge = lambda x: logits([w[20:21] for w in critics], x[None])[0]                        # noqa: E731
u = torch.rand(20_000, generator=data.rng("u"))
same("our (4.21) and the library's", gan.gradient_penalty(judge, *one, u), gradient_penalty(
    [w[20:21] for w in critics], one[0][None], one[1][None], u[None, :, None])[0])
same("our (4.20) and the library's", gan.distance(judge(one[0]), judge(one[1])).detach(), -marks[2, 2])

# %% [markdown]
# ### Not by a fine: by construction
#
# The other way is to build a $D$ that *cannot* be steep. A linear map $W$ stretches no vector by more than its
# largest singular value $\sigma(W)$. A leaky ReLU stretches nothing. So a network of layers $W_1, \dots, W_k$ has
#
# $$ |d(x) - d(y)| \;\le\; \sigma(W_1)\, \sigma(W_2) \cdots \sigma(W_k)\; |x - y| . \tag{4.23} $$
#
# **Spectral normalisation** (Miyato and others, 2018) divides every $W$ by its $\sigma(W)$ and makes the bound 1. The
# largest singular value comes cheaply, by **power iteration**: send any vector forth and back, through $W$ and
# $W^\top$, and what is stretched most will win.

# %%
def largest_stretch(w, turns=50):
    """sigma(W) by power iteration."""
    v = torch.randn(w.shape[1], generator=data.rng("power"))
    for _ in range(turns):
        v = w.T @ (w @ v)
        v = v / v.norm()
    return (w @ v).norm()


w = torch.randn(40, 30, generator=data.rng("w")) * torch.linspace(.1, 3, 30)
same("power iteration and the singular values", largest_stretch(w), torch.linalg.svdvals(w)[0],
     tol=1e-4)

# %%
torch.manual_seed(0)
plain, calmed = (gan.Discriminator(gan.DiscriminatorConfig((2,), (64, 64), spectral=on))
                 for on in (False, True))
x, y = 3 * torch.randn(2, 5000, 2, generator=data.rng("steep"))
for name, d in (("plain", plain), ("spectral", calmed)):
    d.train()(x)                                                     # power iteration, in training
    bound = math.prod(float(torch.linalg.svdvals(layer.weight.detach())[0]) for layer in d.modules()
                      if isinstance(layer, torch.nn.Linear))
    steepest = float(((d(x) - d(y)).abs() / (x - y).norm(dim=1)).max().detach())
    expect(f"{name}: steepest of 5,000 pairs, as a share of the bound (4.23)", steepest / bound, 0, 1)
    print(f"   the bound is {bound:.1f}")

# %% [markdown]
# A warning from the arithmetic. For a convolution, Miyato's recipe takes the kernel as a matrix; that is *not* the
# singular value of the convolution, whose patches overlap. And a product of bounds is loose. What is sure is that the
# marks no longer run away.

# %% [markdown]
# ### Hinge
#
# A last loss, which goes well with spectral normalisation (Lim & Ye, 2017): $D$ wants real pictures above 1 and made
# ones below −1, and does not care how far,
#
# $$ L(D) = \mathrm E_p[\max(0, 1 - d)] + \mathrm E_{p_\theta}[\max(0, 1 + d)], \qquad
#    L(G) = -\mathrm E_{p_\theta}[d] . \tag{4.24} $$
#
# Pointwise again: for $-1 \le d \le 1$ the integrand $p\,(1 - d) + p_\theta (1 + d)$ is a straight line in $d$;
# outside, one term is 0 and the other grows. So the best $d$ is at an end: $1$ where $p > p_\theta$, else $-1$. There
# it is $2 \min(p, p_\theta) = p + p_\theta - |p - p_\theta|$, hence
#
# $$ L(D^*) = 2 \int \min(p, p_\theta)\, dx = 2 - \int |p - p_\theta|\, dx , \tag{4.25} $$
#
# twice the *overlap*. Another game, another divergence; this one saturates, too.

# %%
def margins(real, fake):
    """(4.24) for D."""
    return (1 - real).clamp(min=0).mean(-1) + (1 + fake).clamp(min=0).mean(-1)


values = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
integrand = log_p.exp() * (1 - values).clamp(min=0) + log_q.exp() * (1 + values).clamp(min=0)
least, at = integrand.min(0)
same("(4.25), the best of 601 values at each point, integrated", least.sum() * dx,
     2 - (log_p.exp() - log_q.exp()).abs().sum() * dx, tol=1e-3)
clear = (log_p - log_q).abs() > .01
same("the best d is the sign of p - p_θ", values[at, 0][clear], (log_p - log_q).sign()[clear])
same("ours and the library's", margins(*some.reshape(2, 25)), gan.margins(*some.reshape(2, 25)))

# %% [markdown]
# ## 6 Pictures
#
# The generator for pictures is the *decoder* of chapter 2: a linear map from noise to a small grid, then blocks that
# double its side, and a tanh, which keeps the numbers within $[-1, 1]$. The discriminator halves the side again and
# again and ends in one number. That is the plan of DCGAN (Radford and others, 2016).
#
# One thing has to change. Chapter 2's decoder doubles the side by *shuffling*: a convolution makes four numbers at
# each place, and they become a square of 2 × 2. Nothing says that the four agree. An encoder beside it soon teaches
# them; a game may leave a checkerboard for good. The other way is *stretching*: repeat each number four times, then
# convolve (Odena and others, 2016). Here is what both make of a flat grid before any training.

# %%
doubled = []
for i, double in itertools.product(range(8), (shuffled, stretched)):
    torch.manual_seed(i)
    wide = torch.nn.Sequential(*double(8, 8, 3), torch.nn.SiLU(), *double(8, 3, 3))
    doubled.append(wide(torch.ones(1, 8, 6, 6)).detach()[:, :, 4:-4, 4:-4])
flat = torch.cat(doubled[0::2] + doubled[1::2])
expect("stretched: variation within a patch", float(flat[8:].std((2, 3)).max()), 0, 1e-6)
plot.grid(flat / flat.abs().max(), columns=8, rows=["shuffled", "stretched"],
          title="Doubling by shuffling begins with a checkerboard, by stretching with none",
          alt="Eight patches with a regular pattern of 4 by 4 pixels; below, eight of one colour each.")

# %% [markdown]
# So `gan.Generator` stretches. Of the library we need the loop as well. What it minimises reads:

# %%
generator = gan.Generator(gan.GeneratorConfig((3, 16, 16), d=32, widths=(32, 24)))
discriminator = gan.Discriminator(gan.DiscriminatorConfig((3, 16, 16), (24, 48)))
for name, player in (("generator", generator), ("discriminator", discriminator)):
    print(f"{name}: {sum(p.numel() for p in player.parameters()):,} numbers")
print(inspect.getsource(gan.telling_apart))

# %% [markdown]
# `make(real)` gives as many made pictures as there are real ones. It is our `d_loss`, and around it stands our
# `duel`, with a progress bar and the rest of `train.fit`. We check on one batch that both losses say the same as
# ours, and that $D$'s gradient does not reach $G$.

# %%
every = scenes.render(scenes.single(), 16)                           # 3,024 pictures
rules = gan.rules(generator, discriminator, r1_weight=.3)
torch.manual_seed(1)
said = rules["d"](every[:32])
torch.manual_seed(1)
made = generator(torch.randn(32, 32))
x = every[:32].clone().requires_grad_()
slope, = torch.autograd.grad(discriminator(x).sum(), x)
by_hand = cross_entropy(discriminator(every[:32]), discriminator(made)) + .15 * (slope ** 2).sum() / 32
same("D's loss on pictures, ours and the library's", by_hand.detach(), said["loss"])
torch.manual_seed(1)
by_hand = believed(discriminator(generator(torch.randn(32, 32))))
torch.manual_seed(1)
same("G's loss", by_hand.detach(), rules["g"](every[:32])["loss"])
said["loss"].backward()
expect("D's loss leaves no gradient in G", all(p.grad is None for p in generator.parameters()))

# %% [markdown]
# Now play, half a minute. The 3,024 pictures of world `single` come without noise: a GAN needs no density, so there
# is no need to give it one. Beside the generator we keep its **EMA**, the running mean of its weights (`ema` in
# `train.fit`). A player who is always on the move is never where it should be; its mean position may be (Yazıcı and
# others, 2019).

# %%
torch.manual_seed(0)
generator = gan.Generator(generator.config)
discriminator = gan.Discriminator(discriminator.config)
game = gan.Duel(torch.nn.ModuleDict({"g": generator, "d": discriminator}),
                gan.rules(generator, discriminator, r1_weight=.3), data.batches(every, 32),
                steps=steps(1200), lr=2e-3, lr_d=2e-3, betas=(0., .99), warmup=0,
                lr_schedule=lambda u: 1., ema=.99, grad_clip=math.inf)
frames, shares = [], []
for log in progress(game, total=game.steps):
    if log.step % 80 == 79 or log.step in (0, 20, 40):
        frames.append(game.averaged.sample(16, seed=1))
    if log.step % 240 == 239 or log.step + 1 == game.steps:
        shares.append(np.mean([s is not None for s in oracle.read(game.averaged.sample(200, seed=2))]))
history = game.history()

# %% tags=["nbval-ignore-output"]
plot.film(frames, columns=8, most=18, fps=4,
          alt="A film: sixteen grey squares get a background, then coloured spots, then shapes.")

# %% tags=["nbval-ignore-output"]
log_4 = np.full(len(history.steps), math.log(4))
plot.curves({"D's loss (4.1)": (history.steps[25:], history.smooth("d_game")[25:]),
             "G's loss (4.10)": (history.steps[25:], history.smooth("g_loss")[25:]),
             "log 4": (history.steps, log_4)},
            title="D's loss falls, then stays: taken at its word, nothing gets better",
            xlabel="step", ylabel="loss, mean of 50 steps",
            alt="D's loss begins near log 4, falls to 1.1 and stays there; G's rises and joins it.")

# %% tags=["nbval-ignore-output"]
quarter = len(history.steps) // 4
second, last = (history.losses["d_game"][part].mean() for part in
                (slice(quarter, 2 * quarter), slice(3 * quarter, None)))
expect("D's loss: the last quarter of the game less the second quarter", last - second, -.2, .08)
print("legal of 200, after each fifth of the game:", *(f"{share:.0%}" for share in shares))
expect("legal pictures: the last fifth less the second", shares[-1] - shares[1], .1, .6)
pairs = {"the last weights": generator, "their mean (EMA)": history.ema}
rows = {name: g.sample(24, seed=5) for name, g in pairs.items()}
plot.grid(torch.cat(list(rows.values())), columns=12, rows=["last", "", "EMA", ""],
          title="The mean of the weights draws better than the last weights",
          alt="Two rows of grainy, spoiled pictures from the last weights, two of cleaner ones from "
              "their mean.")

# %% tags=["nbval-ignore-output"]
legal = {name: np.mean([s is not None for s in oracle.read(g.sample(400, seed=6))])
         for name, g in pairs.items()}
print({name: f"{share:.0%}" for name, share in legal.items()})
expect("the EMA draws more legal pictures", legal["their mean (EMA)"] > legal["the last weights"])

# %% [markdown]
# Two things to remember for life.
#
# *The loss does not tell.* $D$'s loss begins as that of a coin, falls, and then stays. Taken at its word, equation
# (4.5), the fakes get worse, and then no better. Yet the share of legal ones rises from nothing to a third. The way
# out is (4.7). The 3,024 pictures are single points, which a $G$ without steps practically never hits exactly; so the
# true JSD is $\log 2$ throughout, a perfect $D$ would lose nothing, and all of $D$'s loss is laziness. It learns to
# look. The loss says how the players stand to each other, and both improve.
#
# *Average the generator.* The EMA costs nothing and draws clearly more legal pictures than the weights it is made of.

# %% [markdown]
# ### With more time
#
# Half a minute is not much. The shipped network `gan` played the same game on world `full`, at 32 × 32, for half an
# hour on one core (recipe `gan` of `minidiff.recipes`). It also drew half of the riddle at the beginning. Here is the
# answer.

# %%
answer = ["network" if i >= 8 else "renderer" for i in order]
plot.grid(riddle[order], answer, marks=[None if i >= 8 else True for i in order],
          title="The answer: the ticks mark what the renderer drew",
          alt="The sixteen pictures of the riddle, each with its origin below it.")

# %%
pictures = shipped.sample(200, seed=7)
legal = [scene is not None for scene in oracle.read(pictures)]
refused = [i for i, good in enumerate(legal) if not good][:8]
accepted = [i for i, good in enumerate(legal) if good][:8]
plot.grid(pictures[accepted + refused], ["read"] * len(accepted) + ["refused"] * len(refused),
          marks=[True] * len(accepted) + [False] * len(refused),
          title="Eight that the oracle reads, and eight that it refuses",
          alt="Two rows: legal scenes, and pictures that the oracle refuses: torn shapes and blots.")

# %% [markdown]
# A straight walk through the noise, from one $z$ to another. (Strictly, through the *sphere* on which normal noise
# lies: the angle between the two changes, the length hardly.) What lies between two scenes? In a world of facts there
# is no half-way. In $G$ there must be: a network is continuous. A tick marks what the oracle reads.

# %%
def between(a, b, u):
    """On the arc from a to b, at share u of the angle."""
    angle = torch.acos((a * b).sum() / (a.norm() * b.norm()))
    return (torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle)


ends_of = torch.randn(3, 2, shipped.config.d, generator=data.rng("walk"))
walk = torch.stack([between(a, b, u) for a, b in ends_of for u in torch.linspace(0, 1, 10)])
with torch.no_grad():
    on_the_way = shipped(walk)
plot.grid(on_the_way, [""] * 30, marks=[s is not None for s in oracle.read(on_the_way)], columns=10,
          title="A walk in z: shapes melt into others, colours change in passing",
          alt="Three rows of ten pictures, each changing step by step from one scene into another.")

# %% [markdown]
# Are they copies? The training pictures were drawn fresh for every step, so there is nothing to learn by heart.
# Still, the distance to the nearest of 5,000 such pictures should be that of a fresh real picture, not smaller.

# %%
some_real = torch.cat([data.pictures(500, seed=0)(k) for k in range(10)])
flat = some_real.flatten(1)
dist = torch.cdist(pictures[accepted].flatten(1), flat)
plot.pair(pictures[accepted], some_real[dist.argmin(1)], names=("generated", "nearest of 5,000"),
          title="The nearest real pictures are near, not equal",
          alt="Eight generated pictures above the nearest of 5,000 real ones: similar, not equal.")

# %%
fresh = data.pictures(200, seed=1)(0)
gap = [torch.cdist(x.flatten(1), flat).amin(1).median() for x in (pictures, fresh)]
print(f"median distance to the nearest of 5,000, generated over real: {gap[0] / gap[1]:.2f}")
told = {name: weights.describe(name)["quality"] for name in ("gaussian-mixture", "vae", "glow", "gan")}
cooler = next(name for name in told["glow"] if name.startswith("temperature"))
judged = {"mixture (16 × 16)": told["gaussian-mixture"]["without grain"],
          "VAE": told["vae"]["N(0, I)"], "VAE, fitted codes": told["vae"]["fitted prior"],
          "flow": told["glow"]["samples"], f"flow, {cooler}": told["glow"][cooler], "GAN": told["gan"]}
for name, quality in judged.items():
    print(f"{name:>22}: legal {quality['legal']:>30}, "
          f"short waves {quality['short waves']:.2f} of the data's")

# %% [markdown]
# (Ten thousand pictures each, by the oracle; *short waves*, equation (1.17), tell blur, below 1, from grain, above.
# The numbers travel with the weights.) Of those that draw 32 × 32, none comes near the GAN in what a single picture
# is worth. The mixture's pictures are smaller, and nearly all show one small thing.
#
# ## 7 How many are missing?
#
# A likelihood model that forgets a scene pays dearly for it. A GAN pays little: in the JSD about $\frac12 p_s \log 2$
# for a scene of probability $p_s$. And where it draws nothing, no gradient comes back: a picture that is never drawn
# is never judged. "High fidelity, low diversity", says the lecture.
#
# **Predict first.** Scroll back to the riddle, and to the pictures after it. Something that the world has is missing
# in all that `gan` drew. What?

# %%
def ground_of(x):
    """Which of the four grounds is nearest to the colour of the upper left corner, for each picture."""
    grounds = 2 * torch.tensor(list(scenes.BACKGROUNDS.values())) - 1
    return torch.cdist(x[:, :, :3, :3].mean((2, 3)), grounds).argmin(1)


shares = {name: 100 * torch.bincount(ground_of(x), minlength=4) / len(x) for name, x in
          (("world", data.pictures(2000, seed=3)(0)), ("GAN", shipped.sample(2000, seed=8)))}
expect("grey, of 100 pictures by the GAN", float(shares["GAN"][1]), 0, 3)
plot.bars({f"{ground}, {name}": float(shares[name][i]) for i, ground in enumerate(scenes.BACKGROUNDS)
           for name in shares}, title="The GAN has forgotten that there are grey grounds",
          xlabel="of 100 pictures", unit=" %",
          alt="Bars of the four grounds, a quarter each in the world; of the GAN's pictures next to "
              "none is grey.")

# %% [markdown]
# A quarter of the world is gone, and nothing in the loss said so.
#
# In the real world nobody can count what is missing. Here we can. World `single` has 3,024 scenes, equally likely.
# Draw $n$ pictures and count the *different* scenes. Even perfect draws repeat themselves, so what should we expect?
# A scene of probability $p_s$ is missed by all $n$ draws with probability $(1 - p_s)^n$. Expectations add up, so
#
# $$ \mathrm E[\text{different scenes}] = \sum_s \big( 1 - (1 - p_s)^n \big) . \tag{4.26} $$

# %%
def expected(p, n):
    """(4.26)."""
    return float((1 - (1 - p) ** n).sum())


even = torch.full((3024,), 1 / 3024, dtype=torch.float64)
uneven = 1 / torch.arange(1, 3025).double()
uneven = uneven / uneven.sum()
for name, p in (("even", even), ("uneven", uneven)):
    draws = torch.multinomial(p, 50 * 4000, replacement=True, generator=data.rng(name)).reshape(50, -1)
    counted = np.mean([len(row.unique()) for row in draws])
    same(f"{name}: 4,000 draws, counted in 50 trials, and (4.26)", counted, expected(p, 4000), tol=.005)
print(f"20,000 draws of the world should show {expected(even, 20_000):,.0f} of 3,024 scenes")

# %% [markdown]
# A model whose pictures are often spoiled shows fewer scenes for that reason alone, and whoever draws less repeats
# himself less. So we compare at *equal numbers*. Of $N$ pictures that show the world's scenes, $c_s$ show scene $s$.
# A random choice of $n$ of them has
#
# $$ \sum_s \Big( 1 - \binom{N - c_s}{n} \Big/ \binom{N}{n} \Big) \tag{4.27} $$
#
# different scenes on average: the binomials count the choices without $s$ (ecologists compare species so, Hurlbert
# 1971). Divided by (4.26) for an even world, that is the **coverage** at $n$.

# %%
def among(counts, n):
    """(4.27), from how often each scene was drawn."""
    counts = np.asarray(counts)
    return float((1 - hypergeom.pmf(0, counts.sum(), counts, n)).sum())


draws = torch.multinomial(uneven, 3000, replacement=True, generator=data.rng("choice"))
picks = torch.stack([torch.randperm(3000, generator=data.rng("pick", i))[:500] for i in range(400)])
same("500 of 3,000 draws: different scenes in 400 choices, and (4.27)",
     np.mean([len(draws[pick].unique()) for pick in picks]), among(torch.bincount(draws), 500),
     tol=.005)

# %% [markdown]
# In this part and the next, *legal* means: shows one of the 3,024. Two models are at hand, the shipped `gan-single`
# and chapter 2's `vae-single`.

# %%
def scene_of(scene):
    """A scene of world single in words; None for all else."""
    if scene is None or len(scene.things) != 1:
        return None
    t = scene.things[0]
    off = max(abs(c - round(4 * c) / 4) for c in (t.x, t.y))
    return (scene.background, t.shape, t.colour, t.size, t.place) if off < 1.5 / 32 else None


in_world, held_out = ({scene_of(s) for s in scenes.single(split)} for split in ("train", "held out"))


def read_off(x):
    """How often each scene of the world was drawn, and how many pictures show held-out pairs."""
    seen = Counter(scene_of(scene) for scene in oracle.read(x.clamp(-1, 1)))
    return [seen[s] for s in in_world if seen[s]], sum(seen[s] for s in held_out)

# %%
single_gan, single_vae = weights.load("gan-single"), weights.load("vae-single")
drawn = {"the world": every[torch.randint(3024, (4000,), generator=data.rng("true"))],
         "GAN": single_gan.sample(4000, seed=3), "VAE": single_vae.sample(4000, seed=3)}
counted = {name: read_off(x) for name, x in drawn.items()}
n = min(sum(counts) for counts, _ in counted.values())
for name, (counts, new) in counted.items():
    print(f"{name:>10}: legal {sum(counts) / 4000:4.0%}, coverage at {n} "
          f"{among(counts, n) / expected(even, n):4.0%}, held-out pairs in {new / 4000:4.1%}")
plot.grid(torch.cat([drawn["GAN"][:12], drawn["VAE"][:12]]), columns=12, rows=["GAN", "VAE"],
          title="Pictures of world single, by both",
          alt="Twelve pictures by the GAN and twelve by the VAE.")

# %% [markdown]
# *Held-out pairs* are red stars, orange rings and four more, which no training picture shows. Is a red star an error,
# or an idea? The likelihood would call it an error. Chapter 6 will be glad of it.

# %% [markdown]
# ### The lecture said: high fidelity, low diversity
#
# For the verdict, many games and seeds. The recipe `gans` of `minidiff.recipes` plays six games on world `single`,
# each for equal minutes and three seeds: the plain one, with R1, hinge with spectral normalisation, Wasserstein with
# gradient penalty, and two (“minibatch”) that show $D$ the variety of the batch, `gan.variety`. Beside them it trains
# VAEs, for as long. From each 20,000 pictures are read. All were tuned alike, by three learning rates on a seed of
# its own.
#
# **The rule, before the run.** In each seed every game makes two statements: *more legal pictures than the VAE*, and
# *less coverage*. The claim *holds* if all twelve statements are true in every seed, *holds partly* if at least half
# are in every seed. (Pilots had been seen by then. Diffusion's row is added in chapter 5.)

# %%
bench = json.loads((weights.TRAINED / "gans.json").read_text())["rows"]
seeds = sorted({row["seed"] for row in bench})
games = ["plain", "R1", "hinge, spectral norm", "WGAN-GP", "minibatch", "R1, minibatch"]


def times_drawn(row):
    """How often each of a row's scenes was drawn."""
    return np.repeat([int(k) for k in row["repeats"]], list(row["repeats"].values()))

# %%
def of(model, what, among_models=("VAE", *games)):
    """A stored number, one a seed; coverage is that of as many pictures as the poorest model has."""
    rows = sorted((row for row in bench if row["model"] == model), key=lambda row: row["seed"])
    if what == "legal":
        return np.array([row["of the world"] / row["n"] for row in rows])
    if what != "coverage":
        return np.array([row[what] for row in rows])
    least = [min(row["of the world"] for row in bench
                 if row["seed"] == seed and row["model"] in among_models) for seed in seeds]
    return np.array([among(times_drawn(row), n) / expected(even, n)
                     for row, n in zip(rows, least, strict=True)])

# %%
print(f"{len(seeds)} seeds" + " " * 21 + "legal        coverage   short waves   CPU minutes")
for name in ["true draws", *games, "VAE"]:
    legal, coverage, waves = (of(name, what) for what in ("legal", "coverage", "short waves"))
    minutes = "" if name == "true draws" else f"{of(name, 'CPU minutes').mean():10.1f}"
    print(f"{name:>22}  {legal.mean():5.0%} ± {legal.std(ddof=1):3.0%}  {coverage.mean():5.0%} ± "
          f"{coverage.std(ddof=1):3.0%}   {waves.mean():8.2f}  {minutes}")

# %%
fig, ax = plt.subplots(figsize=(8.24, 3.8))
for i, name in enumerate(["true draws", "VAE", *games]):
    ax.plot(of(name, "legal"), of(name, "coverage"), "osv^DPX*"[i], ms=7, label=name)
ax.set(xlabel="fidelity: share of legal pictures", ylabel="coverage", xlim=(-.03, 1.03), ylim=(0, 1.05),
       title="Every game leaves out more of the world than the VAE")
fig.legend(loc="outside right upper")
plot.show(fig, alt="Points of fidelity and coverage, three seeds each, for true draws, the VAE and six "
                   "games.")

# %%
more = np.stack([of(name, "legal") > of("VAE", "legal") for name in games])
less = np.stack([of(name, "coverage") < of("VAE", "coverage") for name in games])
true = np.concatenate([more, less]).mean(0)                          # one value a seed
claim("C15", said="GANs: high fidelity, low diversity; VAEs and diffusion are more diverse.",
      number=true, n=20_000, smallest=1 / 12,
      rule=Rule("share of twelve statements that are true, for six games: more legal pictures than a "
                "VAE of equal minutes; less coverage: all in every seed (holds), half (partly)",
                lambda v: np.min(v) == 1, lambda v: np.min(v) >= .5),
      sentence=f"More legal pictures than the VAE in {more.mean():.0%} of the games, less coverage in "
               f"{less.mean():.0%}. At equal minutes and 16 × 16 pixels. (Diffusion: chapter 5.)")

# %% [markdown]
# ## 8 A discriminator behind any decoder
#
# A discriminator asks nothing of the generator but pictures that pass a gradient. "You can always put one behind your
# decoder", says the lecture, and names hybrids. The recipe builds two after their papers (with R1, which is ours).
#
# **VAE + GAN** (Larsen and others, 2016). Squared error punishes a shifted edge more than a smeared one, hence the
# blur. So the reconstruction is compared not pixel by pixel but in the *features* of an inner layer of $D$; and
# decoded codes must pass for real.

# %% [markdown]
# **Flow + GAN** (Grover and others, 2018). A flow is a generator that knows its likelihood. The loss is $-\log
# p_\theta(x)$ plus a weight times (4.10) on its samples.
#
# **The rule, before the run.** For each of the two, with and without $D$ at equal minutes: are more pictures legal
# with $D$? The claim *holds* if so for both in every seed, *partly* if in some. What it costs is in the table.

# %%
bases = ("VAE", "Flow")
four = [base + plus for base in bases for plus in ("", "+GAN")]
for name in four:
    legal, coverage, waves = (of(name, what, four) for what in ("legal", "coverage", "short waves"))
    print(f"{name:>9}: legal {legal.mean():6.1%} ± {legal.std(ddof=1):5.1%}, "
          f"coverage {coverage.mean():4.0%}, short waves {waves.mean():.2f}"
          + (f", bits a number {of(name, 'bits a number').mean():.2f}" if "Flow" in name else ""))
plot.bars({name: (100 * of(name, "legal").mean(), 100 * of(name, "legal").std(ddof=1))
           for name in four},
          title="Legal pictures with and without a discriminator", unit=" %",
          xlabel="legal of 100 pictures",
          alt="Bars of the share of legal pictures for VAE, VAE+GAN, Flow and Flow+GAN.")

# %%
gains = np.stack([of(b + "+GAN", "legal") - of(b, "legal") for b in bases])
cost = (of("Flow+GAN", "bits a number") - of("Flow", "bits a number")).mean()
claim("C14", said="A discriminator can be added behind any decoder: VAE+GAN, Flow+GAN, Diffusion+GAN.",
      number=(gains > 0).mean(0), n=20_000, smallest=.5,
      rule=Rule("share of the two decoders, VAE and flow, with more legal pictures when D is added, at "
                "equal minutes: both in every seed (holds), some (partly)",
                lambda v: np.min(v) == 1, lambda v: np.max(v) > 0),
      sentence=f"With D the share of legal pictures changes by {100 * gains[0].mean():+.1f} points for "
               f"the VAE, {100 * gains[1].mean():+.1f} for the flow, whose likelihood pays {cost:+.2f} "
               "bits a number, in part for want of steps. (Diffusion: chapter 5.)")

# %% [markdown]
# Both are sharper with $D$ or at least grainier, and both leave out more: here a discriminator behind a decoder buys
# the first at the price of the second. It also takes more than half of the minutes. Larsen's pictures were faces, of
# which nobody could count what was missing.
#
# ## 9 Handwriting
#
# Real data have no oracle. The 1,797 digits of 8 × 8, a small GAN, ten seconds:

# %%
digits, labels = data.digits()
mixed = torch.randperm(len(digits), generator=data.rng("digits"))
train_x, held_x, train_y, held_y = (t[part] for t in (digits, labels)
                                    for part in (mixed[:1200], mixed[1200:]))
torch.manual_seed(0)
pen = gan.Generator(gan.GeneratorConfig((1, 8, 8), d=16, widths=(32, 24)))
reader = gan.Discriminator(gan.DiscriminatorConfig((1, 8, 8), (32, 64)))
of_digits = gan.play(pen, reader, data.batches(train_x, 64), steps=steps(500), r1_weight=.3,
                     lr_g=2e-3, lr_d=2e-3, ema=.99)

# %% tags=["nbval-ignore-output"]
penned = of_digits.ema.sample(600, seed=3)
near = torch.cdist(penned.flatten(1), train_x.flatten(1))
plot.grid(torch.cat([penned[:12], train_x[near.argmin(1)[:12]], held_x[:12]]), columns=12,
          rows=["GAN", "nearest of 1,200", "real, held out"],
          title="Digits by a GAN, and the training digits nearest to them",
          alt="Twelve generated digits, below them the nearest training digits, alike but not equal, "
              "and twelve real ones.")

# %% tags=["nbval-ignore-output"]
def shares_of(x):
    """How often each digit is drawn, by the label of the nearest training picture."""
    label = train_y[torch.cdist(x.flatten(1), train_x.flatten(1)).argmin(1)]
    return torch.bincount(label, minlength=10) / len(x)


nearest = [torch.cdist(x.flatten(1), train_x.flatten(1)).amin(1).median() for x in (penned, held_x)]
print("distance to the nearest training picture, over that of real digits: "
      f"{nearest[0] / nearest[1]:.2f}")
truth = torch.bincount(train_y, minlength=10) / len(train_y)
off = [float((shares_of(x) - truth).abs().sum() / 2) for x in (penned, held_x)]
print(f"total variation of the ten shares: GAN {off[0]:.2f}, held-out digits {off[1]:.2f}")

# %% [markdown]
# All that we can say without an oracle: they are about as far from the training pictures as real digits are, and some
# digits come more often than they should. Whether they are *good* we judge by eye. Chapter 8 is about doing better.
#
# ## 10 Break it
#
# A colleague writes the loop for the ring. He begins with the game as it was first published, (4.8). He likes order:
# after every step the gradients are swept away, so that nothing is left lying about.

# %%
def his_duel(g, d, g_loss, turns, *, n=128, r1=.2):
    """Two players in turns. There is a mistake in it."""
    dice, seen = data.rng("his"), []
    of_g, of_d = (torch.optim.Adam(net, 1e-3, (.5, .99)) for net in (g, d))
    for _ in range(turns):
        fake = through(g, torch.randn(len(g[0]), n, 2, generator=dice)).detach()
        real = ring(len(g[0]), n, dice)
        d_loss(d, real, fake, r1).sum().backward()
        of_d.step()
        of_d.zero_grad()
        g_loss(logits(d, through(g, torch.randn(len(g[0]), n, 2, generator=dice)))).sum().backward()
        of_g.step()
        of_g.zero_grad()
        seen.append(cross_entropy(logits(d, real), logits(d, fake)).detach())
    return torch.stack(seen)

# %% tags=["nbval-ignore-output"]
def his_game(g_loss):
    """His four games on the ring: 2,000 points of each, and D's losses."""
    g, d = (network(2, 64, 64, out, games=4, key=f"ring{out}") for out in (2, 1))
    seen = his_duel(g, d, g_loss, steps(1200))
    return through(g, torch.randn(4, 2000, 2, generator=data.rng("shown"))).detach(), seen


first, _ = his_game(caught)
ours, _ = on_the_ring(calm | {"g_loss": caught})
print("his games:  lumps found", found(first)[0].tolist())
print("our duel:   lumps found", found(ours)[0].tolist())
expect("his points: mean distance from the middle, the nearest of four games",
       first.norm(dim=2).mean(1).min(), 3.5)
expect("ours, the farthest of four games", ours.norm(dim=2).mean(1).max(), 1, 3)

# %% [markdown]
# **Symptoms, first act.** His points have left the ring far behind. Ours, with the same loss, have not. "The minimax
# loss saturates, as the book says", he concludes, and takes the other one, (4.10).

# %% tags=["nbval-ignore-output"]
his, his_losses = his_game(believed)
late = his_losses[-200:].mean(0)
plot.grid(torch.cat([heat(his), heat(by_calm)]), columns=4, rows=["his", "ours"],
          title="With the other loss his games work",
          alt="Four panels of his games and four of ours: all show a ring with eight bright knots.")

# %% tags=["nbval-ignore-output"]
print("good points:", *(f"{share:.0%}" for share in found(his)[1]), "by him,",
      *(f"{share:.0%}" for share in found(by_calm)[1]), "by us")
print("his D's loss, mean of the last 200 steps:", *(f"{v:.2f}" for v in late))
expect("lumps found by him, in the worst of four games", found(his)[0].min(), 6)

# %% [markdown]
# **Second act.** No error, no `nan`, nearly all lumps, not much behind ours. He ships it. Is anything wrong at all?
#
# **Predict first.** Read the last line again, and part 1. What does a $D$ lose that knows nothing and always says
# $\frac12$? Can a trained one lose more?

# %% [markdown]
# **Diagnosis.** $2 \log 2 = 1.386$. His $D$ does *worse than a coin*. It must be taught something wrong.
#
# $G$'s loss is computed through $D$, and `backward()` leaves gradients in *all* weights on the way. `of_g.step()`
# uses $G$'s, `of_g.zero_grad()` sweeps away $G$'s. Those in $D$ stay, and the next `backward()` adds to them. With
# (4.8) they are $\nabla \log(1 - D)$ on fakes, which cancels what $D$ should learn about fakes. Only "what is real is
# real" is left; on fakes $D$ is arbitrary, and $G$ follows it far out.

# %% [markdown]
# With (4.10) the leftovers are $-\nabla \log D$. In one step $D$ is told to catch the fakes and to take them for
# real:
#
# $$ -\mathrm E_p[\log D] - \mathrm E_{p_\theta}[\log(1 - D)] - \mathrm E_{p_\theta}[\log D],
#    \quad \text{best at} \quad D = \frac{p + p_\theta}{p + 2\, p_\theta} . \tag{4.28} $$
#
# At $p = p_\theta$ that is $\frac23$, and (4.1) is $-\log \frac23 - \log \frac13 = \log \frac92 = 1.504$. In logits,
#
# $$ d = \log\Big(1 + \frac{p}{p_\theta}\Big) = \log\big(1 + e^{d^*}\big), \qquad
#    \nabla d = D^*\, \nabla d^* . \tag{4.29} $$
#
# It can still rank, so the game still works. But the slope that $G$ follows is multiplied by $D^*$, tiny where fakes
# are easily caught: the saturation of part 2 is back. Adam, which rescales every slope, helps him over it.

# %%
his_critic = network(1, 64, 64, 1, games=1, key="humps")
optimizer = torch.optim.Adam(his_critic, 3e-3)
for k in range(steps(800)):
    rows = torch.randint(40_000, (2, 1, 512), generator=data.rng("rows", k))
    on_real, on_fake = logits(his_critic, x_p[rows[0]]), logits(his_critic, x_q[rows[1]])
    move(optimizer, his_critic, cross_entropy(on_real, on_fake) + believed(on_fake))
says = logits(his_critic, line[None, :, None].float())[0].detach().double().sigmoid()
both = log_p.exp() + log_q.exp()
away = (says - both / (both + log_q.exp())).abs()
expect("mean |D − (4.28)| over both kinds of points", float((m * away).sum() * dx), 0, .03)

# %%
d_star = (log_p - log_q).clone().requires_grad_()
d = torch.log1p(d_star.exp())
slope, = torch.autograd.grad(d.sum(), d_star)
same("(4.29): the slope against d*, and D*", slope, d_star.detach().sigmoid())
same("(4.29) and (4.28)", d.detach().sigmoid(), both / (both + log_q.exp()))
expect("his D's loss on the ring, the smallest of four", late.min(), 1.387, 1.51)

# %% [markdown]
# The cure is one line in another place: sweep *before* `backward()`, for the player who is about to move. Or do not
# litter at all, `backward(inputs=...)`, as `move` and the library do.
#
# And the lesson: many bugs in a GAN do not stop it. A change that makes the trouble go away has not explained it.
# Know what each number should be when all is well; 1.386 is one of the few that this game has.

# %% [markdown]
# ## 11 Exercises
#
# Six of them, from a warm-up to an open one. `check` says what is right, or what fails and where; `hint()` helps in
# steps; `solution()` shows a way. You may leave any of them open: the notebook runs on.

# %%
from exercises import ch04 as ex

# %% [markdown]
# **Exercise 1: an uneven coin.** In (4.1) half of the pictures shown are real. What is the best $D(x)$ if a `share`
# of them is real, say one in four? You get the logarithms of both densities at $n$ points; for pictures they may be
# −2,000. Return the probability.

# %%
def best_judge(log_p, log_q, share):
    """The best D(x), [n], if a share of all pictures is real; log densities [n] of real and made."""
    ...


ex.q1.check(best_judge)

# %% [markdown]
# **Exercise 2: what a picture tells.** Write (4.5) for two tensors of probabilities, `[k]`. A probability may be 0,
# in one list or in both; the answer is never `nan`, and at most $\log 2$.

# %%
def told(p, q):
    """JSD in nats of two lists of probabilities [k]; a probability may be 0."""
    ...


ex.q2.check(told)

# %% [markdown]
# **Exercise 3: a fine for pictures.** Write the gradient penalty (4.21) without $\lambda$ for pictures `[b, c, h,
# w]`, with a `u` for each, `[b]`; `d` gives `[b]`. Two things to think of: what is the length of a picture's
# gradient? And $D$ has to learn from the fine.

# %%
def fine(d, real, fake, u):
    """E (|grad d| - 1)^2 at u real + (1 - u) fake; pictures [b, c, h, w], u [b], d gives [b]."""
    ...


ex.q3.check(fine)

# %% [markdown]
# **Exercise 4: sand.** Our `wasserstein` wants as many numbers on both sides. Write it for two tensors of different
# lengths, `x` with $n$ numbers and `y` with $m$: each grain of the one weighs $1/n$, of the other $1/m$.

# %%
def work(x, y):
    """The Wasserstein distance of two tensors of numbers, [n] and [m]."""
    ...


ex.q4.check(work)

# %% [markdown]
# **Exercise 5: two players.** You get a generator, a discriminator (both `nn.Module`, $d$ gives logits `[n]`), real
# points and noise. Return two lists, in the order of `parameters()`: the gradients of (4.1) in $D$'s parameters, and
# those of (4.10) in $G$'s, both with the same `z` and before anyone has moved. Leave nothing behind: no `.grad`
# anywhere, no weight moved, nothing frozen. (Part 10 knows why.)

# %%
def two_gradients(g, d, real, z):
    """(gradients of (4.1) in d's parameters, gradients of (4.10) in g's), as lists."""
    ...


ex.q5.check(two_gradients)

# %% [markdown]
# **Exercise 6: birthdays (open).** How many different pictures can a generator draw, if nobody has the list? Draw
# $n$, and look for *pairs* that show the same. If there are $K$ equally likely ones, how many of the $\frac12 n(n-1)$
# pairs should be equal? Turn it round. (With 23 people, a pair with the same birthday is as likely as not. Arora &
# Zhang (2017) counted faces that way.) `draws` holds a number for each picture; no equal pair at all means
# `math.inf`.
#
# When it passes, apply it to what `gan-single` and `vae-single` draw: leave out the `None` of `scene_of`, and number
# the different scenes. What does the number say when the scenes are not equally likely? Which of the two models has
# favourites?

# %%
def how_many(draws):
    """How many pictures a generator seems to have, from draws [n], the number of each picture."""
    ...


ex.q6.check(how_many)

# %% [markdown]
# ## 12 What to remember
#
# 1. A classifier between real and made pictures learns $\log p - \log p_\theta$ from samples alone. Its best loss is
#    $2\log 2 - 2\,\mathrm{JSD}$: large means near. It saturates at $\log 2$, what a coin holds.
# 2. $G$ should maximise $\log D$: where the judge is sure, the other loss is silent. With it, $G$ follows
#    $\mathrm{KL}(p_\theta \,\|\, p) - 2\,\mathrm{JSD}$; which punishes what is made up, and hardly what is forgotten.
# 3. Two players turn around the goal. Less momentum, R1 and an averaged generator bring them home.
# 4. A critic of slope at most 1 measures the Wasserstein distance, which does not saturate.
# 5. No density, no likelihood: look at samples, count what is there and what is missing. The loss does not tell.
#
# **The lecture said, we measured**

# %%
claims_table()

# %% [markdown]
# ## Further reading
#
# - I. Goodfellow and others, *Generative Adversarial Nets*, NeurIPS 2014, arXiv:1406.2661. Nine pages, still the best
#   start.
# - A. Radford, L. Metz, S. Chintala, *Unsupervised Representation Learning with Deep Convolutional Generative
#   Adversarial Networks*, ICLR 2016, arXiv:1511.06434; A. Odena, V. Dumoulin, C. Olah, *Deconvolution and
#   Checkerboard Artifacts*, Distill 2016.
# - M. Arjovsky, L. Bottou, *Towards Principled Methods for Training Generative Adversarial Networks*, ICLR 2017,
#   arXiv:1701.04862. Why the gradients vanish; our (4.12).
# - M. Arjovsky, S. Chintala, L. Bottou, *Wasserstein GAN*, ICML 2017, arXiv:1701.07875; I. Gulrajani and others,
#   *Improved Training of Wasserstein GANs*, NeurIPS 2017, arXiv:1704.00028.
# - L. Mescheder, A. Geiger, S. Nowozin, *Which Training Methods for GANs do actually Converge?*, ICML 2018,
#   arXiv:1801.04406. The game of two numbers, R1.
# - T. Miyato and others, *Spectral Normalization for Generative Adversarial Networks*, ICLR 2018, arXiv:1802.05957;
#   J. H. Lim, J. C. Ye, *Geometric GAN*, 2017, arXiv:1705.02894.

# %% [markdown]
# - T. Karras and others, *Progressive Growing of GANs*, ICLR 2018, arXiv:1710.10196; Y. Yazıcı and others, *The
#   Unusual Effectiveness of Averaging in GAN Training*, ICLR 2019, arXiv:1806.04498.
# - S. Arora, Y. Zhang, *Do GANs Actually Learn the Distribution? An Empirical Study*, 2017, arXiv:1706.08224.
#   Birthdays.
# - A. B. L. Larsen and others, *Autoencoding beyond Pixels using a Learned Similarity Metric*, ICML 2016,
#   arXiv:1512.09300; A. Grover, M. Dhar, S. Ermon, *Flow-GAN*, AAAI 2018, arXiv:1705.08868. The hybrids.
#
# **Next:** the game is replaced by a thousand small regressions, each of which is easy and none of which can be lost.
# Diffusion.
