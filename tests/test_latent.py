"""Latent diffusion: what the auto-encoder promises, what the loss is, and what a painting depends on."""
import math

import pytest
import torch

from minidiff import captions, data
from minidiff.captions import UnknownWord
from minidiff.latent import LatentAutoencoder, LatentConfig, TextToImage, TextToImageConfig, drop
from minidiff.text import TextConfig, TextEncoder
from minidiff.unet import UNetConfig


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return LatentAutoencoder(LatentConfig(encoder=(8, 8), decoder=(8, 8))).eval()


@pytest.fixture(scope="module")
def model(autoencoder):
    torch.manual_seed(0)
    unet = UNetConfig(widths=(8, 16), heads=2, d_time=8, d_text=16)
    model = TextToImage(TextToImageConfig(unet), autoencoder=autoencoder,
                        text_encoder=TextEncoder(TextConfig(d=16, layers=1, heads=2))).eval()
    torch.nn.init.normal_(model.denoiser.net.leave[-1].weight, std=.1)
    return model


def test_standardised_codes_have_zero_mean_and_unit_variance(autoencoder):
    x = data.pictures(256, seed=4)(0)
    autoencoder.standardise(x)
    with torch.no_grad():
        z = autoencoder.encode(x)
    assert z.mean((0, 2, 3)).abs().max() < 1e-4 and (z.var((0, 2, 3)) - 1).abs().max() < 1e-3


def test_decoding_undoes_the_standardisation(autoencoder):
    x = data.pictures(4, seed=5)(0)
    with torch.no_grad():
        assert torch.allclose(autoencoder.decode(autoencoder.encode(x)),
                              autoencoder.decoder(autoencoder.posterior(x)[0]), atol=1e-5)


def test_the_kl_term_is_the_divergence(autoencoder):
    """Against torch.distributions, a second road to the same number."""
    x = data.pictures(8, seed=6)(0)
    with torch.no_grad():
        mean, log_var = autoencoder.posterior(x)
        q = torch.distributions.Normal(mean, (log_var / 2).exp())
        wanted = torch.distributions.kl_divergence(q, torch.distributions.Normal(0., 1.)).mean()
        assert abs(float(autoencoder.loss(x)["kl"] - wanted)) < 1e-4


def test_the_loss_learns_v(model):
    """A U-Net that predicts nothing has the loss E[v^2] = E[(alpha eps - sigma z0)^2], here by Monte Carlo in numpy."""
    pairs = data.pairs(256, seed=2)(0)
    before = model.denoiser.net.leave[-1].weight.clone()
    with torch.no_grad():
        model.denoiser.net.leave[-1].weight.zero_()
        model.denoiser.net.leave[-1].bias.zero_()
        torch.manual_seed(1)
        loss = float(model.loss(pairs)["loss"])
        z = model.autoencoder.encode(pairs.pictures)
        model.denoiser.net.leave[-1].weight.copy_(before)
    wanted = .5 + .5 * float(z.square().mean())                    # E[cos^2] = E[sin^2] = 1/2 over uniform times
    assert abs(loss - wanted) < .05 * wanted


def test_dropping_captions():
    torch.manual_seed(0)
    cond, null = captions.encode(["a red circle"]).expand(4000, -1), captions.encode([""])
    share = (drop(cond, null, .1) == null).all(1).float().mean()
    assert abs(float(share) - .1) < 4 * math.sqrt(.09 / 4000)
    assert drop(cond, null, 0.).equal(cond)


def test_frozen_parts_stay_frozen(model):
    trainable = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    model.train()
    assert trainable == {"denoiser"} and not model.autoencoder.training and not model.text_encoder.training
    model.eval()


def test_a_picture_depends_on_its_caption_and_seed_and_not_on_the_batch(model):
    told = ["a red circle", "a blue square above a small ring"]
    both = model.paint(told, steps=3, seed=7)
    assert torch.allclose(model.paint(told[:1], steps=3, seed=7), both[:1], atol=1e-4)
    assert both.equal(model.paint(told, steps=3, seed=7))
    assert not torch.allclose(model.paint(told, steps=3, seed=8), both, atol=1e-2)


def test_guidance_is_the_extrapolation_of_two_guesses(model):
    told, z, t = ["a red circle"], torch.randn(1, 4, 8, 8), torch.tensor(.6)
    with torch.no_grad():
        with_it, without = (model.denoise([c], "", 1.)(z, t) for c in ("a red circle", ""))
        assert torch.allclose(model.denoise(told, "", 3.)(z, t), without + 3 * (with_it - without), atol=1e-4)
        away = model.denoise(["a blue square"], "", 1.)(z, t)
        assert torch.allclose(model.denoise(told, "a blue square", 2.)(z, t), 2 * with_it - away, atol=1e-4)


@pytest.mark.parametrize("told, error, says", [
    (["a red circel"], UnknownWord, "circle"), (["a crimson circle"], UnknownWord, "red"), ([], TypeError, "least one"),
    (["red " * 40], ValueError, "23 words"), ("a red circle", TypeError, "list")])
def test_what_cannot_be_painted_is_refused(model, told, error, says):
    with pytest.raises(error, match=says):
        model.paint(told, steps=2)
