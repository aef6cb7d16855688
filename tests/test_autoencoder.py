"""Auto-encoders against principal components and least squares; the bounds of a VAE against models solved exactly."""
import copy
import math

import pytest
import torch
from torch import distributions as D
from torch.nn import functional as F

from minidiff import weights
from minidiff.autoencoder import (
    HIDDEN,
    VAE,
    Autoencoder,
    AutoencoderConfig,
    Decoder,
    Encoder,
    hidden,
    kl_to_normal,
    log_normal,
    noised,
    shuffled,
    stretched,
)
from minidiff.data import noise, rng
from minidiff.recipes.about import made
from minidiff.train import Training, seeded

LINEAR = AutoencoderConfig(d=3, channels=2, side=2, encoder=(), decoder=(), std=.6)       # pictures of 8 numbers
CURVED = AutoencoderConfig(d=2, channels=1, side=4, encoder=(8,), decoder=(8,), neck=2, std=.8)


def normal(*shape, key="x"):
    return torch.randn(shape, generator=rng("autoencoder", key))


def dice(*key):
    """A `draw` of its own for each test: normal numbers from one stream."""
    generator = rng("autoencoder dice", *key)
    return lambda x: torch.randn(x.shape, generator=generator)


def linear():
    """A linear VAE whose q(z | x) is not the posterior, though not far off; its W [8 3] and b [8] in float64."""
    model = made(lambda: VAE(LINEAR))
    with torch.no_grad():
        model.decoder[0].weight.copy_(normal(8, 3, key="w"))
        model.decoder[0].bias.copy_(normal(8, key="b"))
    w, b = model.decoder[0].weight.detach().double(), model.decoder[0].bias.detach().double()
    precision = torch.eye(3).double() + w.T @ w / .36
    gain, std = torch.linalg.solve(precision, w.T) / .36, precision.diagonal().rsqrt()
    with torch.no_grad():
        model.encoder[1].weight.zero_()[:3] = .8 * gain
        model.encoder[1].bias[:3], model.encoder[1].bias[3:] = .1 - gain @ b, (1.2 * std).log()
    return model, w, b


def exactly(w, b, x, s2=.36):
    """log p(x) of x ~ N(b, W W^T + s2 I), and the posterior of z, by torch's own multivariate Gaussians."""
    marginal = D.MultivariateNormal(b, w @ w.T + s2 * torch.eye(len(b)).double())
    precision = torch.eye(w.shape[1]).double() + w.T @ w / s2
    mean = torch.linalg.solve(precision, w.T @ (x.flatten(1).double() - b).T / s2).T
    return marginal.log_prob(x.flatten(1).double()), D.MultivariateNormal(mean, precision_matrix=precision)


def fitted(model, loss, x, steps=1000):
    """The model after full-batch training."""
    for _ in Training(model, loss, lambda step: x, steps=steps, lr=.02, warmup=0, grad_clip=math.inf):
        pass
    return model


# --- formulas of Gaussians --------------------------------------------------------------------------------------------

def test_log_normal_is_the_product_of_densities():
    x, mean, std = normal(5, 4), normal(5, 4, key="mean"), normal(5, 4, key="std").exp()
    for m, s in ((mean, std), (mean[0], std[0]), (torch.tensor(.3), torch.tensor(2.)), (mean, torch.tensor(.1))):
        product = D.Normal(m.expand(5, 4), s.expand(5, 4)).log_prob(x).sum(1)
        assert torch.allclose(log_normal(x, m, s), product, rtol=1e-5)


def test_kl_to_normal_is_the_mean_of_log_q_minus_log_p():
    mean, std = normal(6, 3, key="mean"), normal(6, 3, key="std").exp()
    q, p = D.Normal(mean, std), D.Normal(torch.zeros(6, 3), torch.ones(6, 3))
    assert torch.allclose(kl_to_normal(mean, std), D.kl_divergence(q, p).sum(1), rtol=1e-5)
    z = mean + std * normal(40_000, 6, 3, key="z")
    ratios = (q.log_prob(z) - p.log_prob(z)).sum(2)
    assert ((ratios.mean(0) - kl_to_normal(mean, std)).abs() < 4 * ratios.std(0) / 200).all()
    assert kl_to_normal(torch.zeros(1, 3), torch.ones(1, 3)) == 0


# --- a linear VAE: everything is known --------------------------------------------------------------------------------

def test_with_the_true_posterior_every_draw_is_log_p():
    """p(x, z) / p(z | x) = p(x) whatever z: the sampled bound and IWAE have no spread and no gap."""
    model, w, b = linear()
    axes, stretch, _ = torch.linalg.svd(w, full_matrices=False)           # orthogonal columns: the posterior has axes
    w = axes * stretch
    std = (1 + stretch.square() / .36).rsqrt()
    with torch.no_grad():
        model.decoder[0].weight.copy_(w)
        gain = std.square()[:, None] * w.T / .36
        model.encoder[1].weight[:3], model.encoder[1].bias[:3] = gain, -gain @ b
        model.encoder[1].bias[3:] = std.log()
    x = normal(50, 2, 2, 2)
    log_p, posterior = exactly(w, b, x)
    assert torch.allclose(model.posterior(x)[1].double(), posterior.stddev.expand(50, 3), rtol=1e-5)
    for k in (1, 3):
        assert torch.allclose(model.iwae(x, k, dice("posterior")).double(), log_p, atol=1e-4)
    sampled = torch.stack([model.elbo(x, closed=False, draw=dice("sampled", i)) for i in range(5)]).double()
    assert (sampled - log_p).abs().max() < 1e-4
    closed = torch.stack([model.elbo(x, draw=dice("closed", i)) for i in range(400)])
    assert (closed.mean(0) - log_p).abs().max() < 5 * closed.std(0).max() / 20 and closed.std(0).min() > .1


@torch.no_grad()
@pytest.mark.parametrize("closed", [True, False])
def test_the_gap_of_the_elbo_is_the_divergence_from_the_posterior(closed):
    model, w, b = linear()
    x = normal(4, 2, 2, 2)
    log_p, posterior = exactly(w, b, x)
    mean, std = (part.double() for part in model.posterior(x))
    q = D.MultivariateNormal(mean, scale_tril=torch.diag_embed(std))
    n = 20_000
    draws = model.elbo(x.repeat(n, 1, 1, 1), closed=closed, draw=dice("gap")).unflatten(0, (n, 4)).double()
    gap, error = log_p - draws.mean(0), draws.std(0) / n ** .5
    assert ((gap - D.kl_divergence(q, posterior)).abs() < 4 * error).all() and (gap > 10 * error).all()


@torch.no_grad()
def test_iwae_rises_with_k_to_log_p():
    model, w, b = linear()
    x, n = normal(2, 2, 2, 2), 4000
    log_p = exactly(w, b, x)[0]
    many = x.repeat(n, 1, 1, 1)
    bounds = torch.stack([model.iwae(many, k, dice("iwae", k)).unflatten(0, (n, 2)).mean(0) for k in (1, 2, 5, 40)])
    elbo = model.elbo(many, draw=dice("elbo")).unflatten(0, (n, 2)).mean(0)
    assert (bounds[0] - elbo).abs().max() < .1                            # k = 1 is the ELBO
    assert (bounds.diff(dim=0) > .02).all() and (bounds < log_p + .02).all()
    assert (log_p - bounds[-1]).max() < .1 < (log_p - bounds[0]).min()


def test_the_gradient_through_the_draw_is_that_of_the_expectation():
    """E_q log p(x | z) and the divergence are known for linear maps; their gradient is autograd's, not by draws."""
    model, w, b = linear()
    x, n = normal(3, 2, 2, 2), 30_000
    expected = copy.deepcopy(model)
    mean, std = expected.posterior(x)
    seen = log_normal(x.flatten(1), mean @ w.float().T + b.float(), expected.log_std.exp())
    missed = (std.square() * w.float().square().sum(0)).sum(1) / (2 * .36)
    (seen - missed - kl_to_normal(mean, std)).mean().backward()
    model.elbo(x.repeat(n, 1, 1, 1), draw=dice("gradient")).mean().backward()
    for ours, exact in zip(model.encoder.parameters(), expected.encoder.parameters(), strict=True):
        assert (ours.grad - exact.grad).abs().max() < .02 * exact.grad.abs().max()


def test_trained_linear_vae_is_probabilistic_principal_components():
    """The best std^2 is the mean of the variances left out, and the bound reaches the likelihood of the data.

    Source of the second road: Tipping & Bishop 1999, equations 3.7 and 3.8; that ELBO has no worse optimum: Lucas et
    al. 2019 (arXiv 1911.02469).
    """
    x = (normal(400, 4) * torch.tensor([2., 1.2, .5, .3])) @ torch.linalg.qr(normal(4, 4, key="turn"))[0]
    x = x.reshape(400, 1, 2, 2)
    model = made(lambda: VAE(AutoencoderConfig(d=2, channels=1, side=2, encoder=(), decoder=(), std=1.)))
    model = fitted(model, model.loss, x)
    rows = x.flatten(1).double() - x.flatten(1).double().mean(0)
    spread, turn = torch.linalg.eigh(rows.T @ rows / 400)
    left = spread[:2].mean()
    assert model.log_std.exp().item() == pytest.approx(left.sqrt().item(), rel=.03)
    best = D.MultivariateNormal(torch.zeros(4).double(), turn[:, 2:] @ (turn[:, 2:] * (spread[2:] - left)).T
                                + left * torch.eye(4).double()).log_prob(rows).mean()
    with torch.no_grad():
        bound = model.elbo(x.repeat(50, 1, 1, 1), draw=dice("trained")).mean()
    assert best - .02 < bound < best + .005


# --- a curved VAE with a code of two numbers: integrals on a grid -----------------------------------------------------

def curved():
    """A VAE whose decoder bends the plane of codes, and rows of codes that cover it."""
    model = made(lambda: VAE(CURVED)).eval()
    with torch.no_grad():
        for p in (model.decoder[0].weight, model.encoder[-1].weight, model.decoder[-1].net[-2].weight):
            p.mul_(3)
    line = torch.linspace(-6, 6, 241)
    return model, torch.cartesian_prod(line, line), float(line[1] - line[0]) ** 2


@torch.no_grad()
def test_iwae_agrees_with_an_integral_over_all_codes():
    model, grid, cell = curved()
    x = model.decode(normal(3, 2, key="codes")) + .8 * normal(3, 1, 4, 4)
    joint = torch.stack([model.log_likelihood(one.expand(len(grid), -1, -1, -1), grid) for one in x])
    log_p = (joint + D.Normal(0., 1.).log_prob(grid).sum(1)).logsumexp(1) + math.log(cell)
    assert (log_p - joint[:, len(grid) // 2]).abs().min() > .5            # the pictures do depend on the code
    model.posterior = lambda x: (torch.zeros(len(x), 2), torch.full((len(x), 2), 1.3))   # no weight is very large
    n, k = 50, 400
    found = model.iwae(x.repeat(n, 1, 1, 1), k, dice("grid")).unflatten(0, (n, 3))
    assert ((found.mean(0) - log_p).abs() < 4 * found.std(0) / n ** .5 + .02).all() and found.std(0).max() < .2
    elbo = model.elbo(x.repeat(4000, 1, 1, 1), draw=dice("grid elbo")).unflatten(0, (4000, 3)).mean(0)
    assert (log_p - elbo > .05).all()


def test_the_gradient_through_the_draw_is_that_of_the_density():
    """Second road: the integral of f(z) grad q(z) over all codes, the score-function form."""
    model, grid, cell = curved()
    x, n = .5 * normal(1, 1, 4, 4, key="one"), 40_000
    mean, std = (part.detach().requires_grad_() for part in model.posterior(x))
    with torch.no_grad():
        f = model.log_likelihood(x.expand(len(grid), -1, -1, -1), grid)
    (log_normal(grid, mean, std).exp() * f).sum().mul(cell).backward()
    m, s = (part.detach().requires_grad_() for part in (mean, std))
    model.posterior = lambda x: (m.expand(len(x), -1), s.expand(len(x), -1))
    z, _, _ = model.drawn(x.expand(n, -1, -1, -1), dice("density"))
    model.log_likelihood(x.expand(n, -1, -1, -1), z).mean().backward()
    for ours, exact in ((m.grad, mean.grad), (s.grad, std.grad)):
        assert (ours - exact).abs().max() < .06 * exact.abs().max() and exact.abs().max() > .1


# --- the loss, the learned std, sampling ------------------------------------------------------------------------------

def test_loss_is_minus_the_bound_a_number():
    model, _, _ = curved()
    x, told = normal(7, 1, 4, 4), {}
    for beta in (0, 1, 3):
        with seeded("loss"):
            told[beta] = model.loss(x, beta)
        with seeded("loss"):
            assert torch.allclose(told[beta]["loss"], -model.elbo(x, beta=beta).mean() / 16)
    assert torch.allclose(told[3]["loss"] - told[0]["loss"], 3 * kl_to_normal(*model.posterior(x)).mean() / 16)
    assert torch.allclose(told[0]["loss"], -told[1]["log p(x|z)"] / 16)
    assert torch.allclose(told[1]["kl"], kl_to_normal(*model.posterior(x)).mean())


def test_the_best_std_is_the_root_mean_square_of_the_error():
    model, _, _ = curved()
    x, z = normal(9, 1, 4, 4), normal(9, 2, key="z")
    with torch.no_grad():
        model.log_std.copy_((x - model.decode(z)).square().mean().sqrt().log())
    slope = torch.autograd.grad(model.log_likelihood(x, z).mean(), model.log_std)[0]
    assert abs(slope) < 1e-4
    away = copy.deepcopy(model)
    with torch.no_grad():
        away.log_std += .1
    assert away.log_likelihood(x, z).mean() < model.log_likelihood(x, z).mean()


def test_a_sample_depends_on_its_seed_and_row():
    model, _, _ = curved()
    x, grained = model.sample(5, seed=3), model.sample(5, seed=3, grain=True)
    assert torch.equal(x, model.decode(noise((5, 2), 3)))
    for grain, whole in ((False, x), (True, grained)):
        assert torch.allclose(model.sample(2, seed=3, first=3, grain=grain), whole[3:], atol=1e-6)
        assert not torch.allclose(model.sample(5, seed=4, grain=grain), whole, atol=.01)
    grain = (model.sample(2000, seed=1, grain=True) - model.sample(2000, seed=1)).flatten(1)
    assert float(grain.std()) == pytest.approx(.8, rel=.02) and abs(grain.mean()) < .01
    wide = made(lambda: VAE(AutoencoderConfig(d=16, channels=1, side=4, encoder=(), decoder=(), std=1.)))
    grain = (wide.sample(500, seed=1, grain=True) - wide.sample(500, seed=1)).flatten(1)
    assert (grain.T @ noise((500, 16), 1) / 500).abs().max() < .3         # and not the code's own numbers again


def test_samples_with_grain_have_the_likelihood_that_the_model_says():
    """E_p[log p(x)] of its own samples is minus the entropy of the Gaussian that a linear VAE is."""
    model, w, b = linear()
    x = model.sample(4000, seed=0, grain=True)
    log_p = exactly(w, b, x)[0]
    entropy = D.MultivariateNormal(b, w @ w.T + .36 * torch.eye(8).double()).entropy()
    assert float(log_p.mean()) == pytest.approx(-float(entropy), abs=4 * float(log_p.std()) / 4000 ** .5)


def test_a_wild_encoder_stays_finite():
    model, _, _ = linear()
    with torch.no_grad():
        model.encoder[1].bias[3:] = torch.tensor([1e4, -1e4, 0.])
    std = model.posterior(normal(2, 2, 2, 2))[1]
    assert torch.allclose(std[0], torch.tensor([math.exp(3), math.exp(-8), 1.]))


# --- plain, denoising and masked auto-encoders ------------------------------------------------------------------------

def test_linear_autoencoder_finds_the_principal_components():
    x = (normal(300, 4) * torch.tensor([2., 1.2, .5, .3]) + 1).reshape(300, 1, 2, 2)
    model = made(lambda: Autoencoder(AutoencoderConfig(d=2, channels=1, side=2, encoder=(), decoder=())))
    model = fitted(model, model.loss, x, 800)
    left = torch.linalg.eigvalsh(torch.cov(x.flatten(1).T, correction=0))[:2].sum() / 4
    with torch.no_grad():
        assert float(model.loss(x)["loss"]) == pytest.approx(float(left), rel=.02)


def test_denoising_autoencoder_learns_to_shrink():
    """Without a bottleneck, linear: the best map is C (C + s^2 I)^-1, Wiener's filter."""
    x = (normal(4000, 4) * torch.tensor([2., 1., .5, .2])).reshape(4000, 1, 2, 2)
    model = made(lambda: Autoencoder(AutoencoderConfig(d=4, channels=1, side=2, encoder=(), decoder=())))
    model = fitted(model, lambda x: model.loss(x, lambda x: noised(x, .7)), x, 600)
    c = torch.cov(x.flatten(1).T)
    with torch.no_grad():
        shrunk = (model(torch.eye(4).reshape(4, 1, 2, 2)) - model(torch.zeros(1, 1, 2, 2))).flatten(1).T
    assert (shrunk - c @ torch.linalg.inv(c + .49 * torch.eye(4))).abs().max() < .06


def test_the_error_counts_what_was_spoilt_against_the_clean_picture():
    model = made(lambda: Autoencoder(CURVED)).eval()
    x, other = normal(3, 1, 4, 4), normal(3, 1, 4, 4, key="other")
    assert torch.allclose(model.loss(x, lambda y: 0 * y + other)["loss"], F.mse_loss(model(other), x))
    assert torch.allclose(model.loss(x)["loss"], (model.decode(model.encode(x)) - x).square().mean())


def test_noised_adds_noise_of_its_std():
    x = normal(2000, 1, 2, 2)
    assert torch.equal(noised(x, 0), x) and torch.equal(noised(x, .5, torch.ones_like), x + .5)
    assert float((noised(x, .3, dice("noised")) - x).std()) == pytest.approx(.3, rel=.03)


def test_hidden_takes_whole_squares_and_about_the_share():
    x, generator = normal(400, 3, 16, 8), rng("hidden")
    y = hidden(x, .3, 4, lambda *shape, device: torch.rand(shape, generator=generator, device=device))
    gone = y == HIDDEN
    assert torch.equal(y[~gone], x[~gone]) and not (x == HIDDEN).any()
    cells = gone.unflatten(3, (2, 4)).unflatten(2, (4, 4)).float().mean((1, 3, 5))       # [b 4 2] share of each square
    assert set(cells.unique().tolist()) == {0., 1.}
    assert float(cells.mean()) == pytest.approx(.3, abs=4 * (.21 / cells.numel()) ** .5)
    assert ((cells.mean(0) - .3).abs() < .1).all()                        # each square as often as any other
    assert torch.equal(hidden(x, 0), x) and (hidden(x, 1) == HIDDEN).all()
    assert (hidden(x, .5, 2, lambda *shape, device: torch.full(shape, .6)) == x).all()
    assert x.abs().max() > 1 < HIDDEN                                     # hidden(x) leaves x alone


# --- the networks, files and sentences --------------------------------------------------------------------------------

def test_a_picture_s_code_does_not_depend_on_its_company():
    model = made(lambda: VAE(AutoencoderConfig())).eval()
    x = normal(3, 3, 16, 16)
    with torch.no_grad():
        whole = model.decode(model.encode(x))
        for i in range(3):
            assert torch.allclose(model.decode(model.encode(x[i:i + 1])), whole[i:i + 1], atol=1e-5)
        z = model.encode(x).reshape(3, 1, 32)
        assert torch.allclose(model.decode(z), whole[:, None], atol=1e-5) and model.decode(z[0, 0]).shape == (3, 16, 16)


def test_encoder_and_decoder_halve_and_double_the_side():
    encoder, decoder = made(lambda: Encoder(3, 5, (8, 8, 8))), made(lambda: Decoder(5, 3, (8, 8, 8)))
    z = encoder(normal(2, 3, 32, 16))
    assert z.shape == (2, 5, 4, 2) and decoder(z).shape == (2, 3, 32, 16)


def test_doubling_by_stretching_leaves_no_checkerboard_and_by_shuffling_does():
    """A flat grid stays flat away from its border; a 1 x 1 convolution's answer stands four times at each place."""
    flat, rough = torch.ones(1, 4, 6, 6), normal(2, 4, 3, 5)
    for double, alike in ((stretched, True), (shuffled, False)):
        wide = made(lambda double=double: torch.nn.Sequential(*double(4, 3, 3)))
        inner = wide(flat).detach()[:, :, 2:-2, 2:-2]
        assert inner.shape == (1, 3, 8, 8) and (float(inner.std((2, 3)).max()) < 1e-6) == alike
    narrow = torch.nn.Sequential(*stretched(4, 3, 1))
    weight, bias = (p.detach() for p in narrow.parameters())
    by_hand = torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], rough) + bias[:, None, None]
    assert torch.allclose(narrow(rough).detach(), by_hand.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-6)


def test_codes_and_pictures_are_float32_under_autocast():
    model, x = made(lambda: VAE(AutoencoderConfig())), normal(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        mean, std = model.posterior(x)
        kinds = {t.dtype for t in (mean, std, model.decode(mean), model.elbo(x), model.loss(x)["loss"])}
    assert kinds == {torch.float32}


@pytest.mark.parametrize("kind, config", [(Autoencoder, CURVED), (VAE, CURVED), (VAE, LINEAR)])
def test_files_give_the_model_back(kind, config, tmp_path):
    model = made(lambda: kind(config)).eval()
    weights.save(tmp_path / "model.safetensors", model)
    again, x = weights.load(tmp_path / "model.safetensors"), normal(2, config.channels, config.side, config.side)
    assert type(again) is kind and again.config == config
    with torch.no_grad():
        assert torch.allclose(again(x), model(x), atol=1e-6)
        if kind is VAE:
            old, new = (each.sample(2, seed=0, grain=True) for each in (model, again))
            assert torch.allclose(new, old, atol=1e-6)


def test_bad_input_is_refused_in_a_sentence():
    model = VAE(CURVED)
    for wrong in (normal(2, 1, 4, 8), normal(2, 3, 4, 4)):
        with pytest.raises(ValueError, match=r"this model reads pictures \[b, 1, 4, 4\], not \[2,"):
            model.encode(wrong)
    with pytest.raises(ValueError, match="codes have 2 numbers, not 3"):
        model.decode(normal(5, 3))
    with pytest.raises(ValueError, match="needs k >= 1, not 0"):
        model.iwae(normal(1, 1, 4, 4), 0)
    for share, patch in ((1.2, 4), (-.1, 4), (.5, 3)):
        with pytest.raises(ValueError, match="share is between 0 and 1, and patch divides the sides"):
            hidden(normal(1, 3, 8, 8), share, patch)
    with pytest.raises(ValueError, match="it must be a multiple of 8"):
        AutoencoderConfig(side=12, decoder=(8, 8, 8))
    for wrong in ({"d": 0}, {"neck": 0}, {"channels": 0}, {"std": 0.}, {"std": math.nan}):
        with pytest.raises(ValueError, match="at least 1, and std positive"):
            AutoencoderConfig(**wrong)
