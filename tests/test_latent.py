"""Latent diffusion: what the auto-encoder promises, what the loss is, and what a painting depends on."""
import dataclasses
import inspect
import math

import pytest
import torch

from minidiff import captions, data
from minidiff.captions import UnknownWord
from minidiff.latent import LatentAutoencoder, LatentConfig, TextToImage, TextToImageConfig, drop
from minidiff.text import TextConfig, TextEncoder
from minidiff.unet import UNetConfig


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    model = LatentAutoencoder(LatentConfig(encoder=(8, 8), decoder=(8, 8))).eval()
    model.standardise(data.pictures(64, seed=3)(0))
    return model


@pytest.fixture
def model(autoencoder):
    torch.manual_seed(0)
    unet = UNetConfig(widths=(8, 16), heads=2, d_time=8, d_text=16)
    model = TextToImage(TextToImageConfig(unet), autoencoder=autoencoder,
                        text_encoder=TextEncoder(TextConfig(d=16, layers=1, heads=2))).eval()
    torch.nn.init.normal_(model.denoiser.net.conv_out[-1].weight, std=.1)
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


def test_the_loss_learns_v(model, monkeypatch):
    """At a known t and eps, only a network that says v = alpha eps - sigma z0 has no loss."""
    pairs = data.pairs(4, seed=2)(0)
    z0 = model.autoencoder.encode(pairs.pictures).detach()
    eps, t = torch.randn_like(z0), torch.full((4,), .3)
    monkeypatch.setattr(torch, "randn_like", lambda x: eps)
    alpha, sigma = math.cos(.15 * math.pi), math.sin(.15 * math.pi)
    answers = {"v": alpha * eps - sigma * z0, "-v": sigma * z0 - alpha * eps, "eps": eps, "x0": z0,
               "wrong sign": alpha * eps + sigma * z0}
    losses = {}
    for name, answer in answers.items():
        monkeypatch.setattr(model.denoiser, "predict", lambda x, t, cond, answer=answer: answer)
        losses[name] = float(model.loss(pairs, p=0., draw=lambda n: t)["loss"])
    assert losses.pop("v") < 1e-10 and min(losses.values()) > 1e-2


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
    assert torch.allclose(model.paint(told[1:], steps=3, seed=7, first=1), both[1:], atol=1e-4)
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
    with pytest.raises(error, match=says):                         # without the type checker of the tests
        next(inspect.unwrap(TextToImage.path)(model, told, steps=2))


@pytest.mark.parametrize("change", [{"channels": 3}, {"d_text": 8}])
def test_parts_that_do_not_fit_together_are_refused(model, change):
    unet = dataclasses.replace(model.config.unet, **change)
    with pytest.raises(ValueError, match="the U-Net is for codes"):
        TextToImage(TextToImageConfig(unet), autoencoder=model.autoencoder, text_encoder=model.text_encoder)


def test_bfloat16_and_float32_agree_on_the_loss(model):
    """As it is trained: the loss under autocast is that of float32 within two per cent."""
    pairs, losses = data.pairs(16, seed=8)(0), []
    for low in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            losses.append(float(model.loss(pairs)["loss"].detach()))
    assert losses[0] != losses[1] and abs(losses[1] / losses[0] - 1) < .02
