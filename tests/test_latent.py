"""Latent diffusion: what the auto-encoder promises, what the loss is, and what a painting depends on."""
import dataclasses
import inspect
import math

import pytest
import torch

from minidiff import captions, data, weights
from minidiff.captions import UnknownWord
from minidiff.latent import LatentAutoencoder, LatentConfig, TextToImage, TextToImageConfig, drop, slerp
from minidiff.scenes import full, render
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


def test_a_larger_decoder_reads_the_mean_of_squares():
    """One width more: pictures of twice the side, halved by averaging, have the codes of the smaller ones."""
    torch.manual_seed(0)
    small = LatentAutoencoder(LatentConfig(encoder=(8, 8), decoder=(8, 8)))
    large = LatentAutoencoder(LatentConfig(encoder=(8, 8), decoder=(8, 8, 8)))
    large.encoder.load_state_dict(small.encoder.state_dict())
    x = render(full(3, data.rng("larger")), 64)
    halved = x.reshape(3, 3, 32, 2, 32, 2).mean((3, 5))
    torch.testing.assert_close(large.encode(x), small.encode(halved))
    assert large.decode(large.encode(x)).shape == x.shape
    with pytest.raises(ValueError, match="divisible by 8"):
        large.encode(torch.zeros(1, 3, 36, 36))
    with pytest.raises(ValueError, match="at least as many widths"):
        LatentConfig(encoder=(8, 8, 8), decoder=(8, 8))


def test_a_painter_with_a_larger_decoder_paints_the_same_codes_larger(model):
    small = model.paint(["a circle"], steps=2)
    config = dataclasses.replace(model.autoencoder.config, decoder=(*model.autoencoder.config.decoder, 8))
    kept, model.autoencoder = model.autoencoder, LatentAutoencoder(config).eval()
    try:
        assert model.side == 2 * small.shape[-1]
        assert model.paint(["a circle"], steps=2).shape == (1, 3, model.side, model.side)
        with pytest.raises(ValueError, match=str(model.side)):
            model.edit(small, ["a circle"], .5)
    finally:
        model.autoencoder = kept


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
    (["red " * 40], ValueError, "23 words"), ("a red circle", TypeError, "put a single one into brackets")])
def test_what_cannot_be_painted_is_refused(model, told, error, says):
    with pytest.raises(error, match=says):                         # without the type checker of the tests
        next(inspect.unwrap(TextToImage.path)(model, told, steps=2))


def test_the_noise_to_begin_with_can_be_given(model):
    told, z = ["a red circle", "something blue"], data.noise((2, 4, 8, 8), 7)
    assert model.paint(told, steps=3, start=z).equal(model.paint(told, steps=3, seed=7))
    with pytest.raises(ValueError, match=r"start is noise for each caption, \[2, 4, 8, 8\], not \[1, 4, 8, 8\]"):
        model.paint(told, steps=3, start=z[:1])


# ---- image to image


PICTURES = data.pictures(2, seed=5)(0)
TOLD = ["a red circle", ""]


def test_editing_at_full_strength_is_painting(model):
    for steps in (1, 2, 5):
        assert torch.allclose(model.edit(PICTURES, TOLD, 1., steps=steps, seed=7, negative="a ring"),
                              model.paint(TOLD, steps=steps, seed=7, negative="a ring"), atol=1e-5)


def test_editing_at_no_strength_is_the_reconstruction(model):
    with torch.no_grad():
        wanted = model.autoencoder.decode(model.autoencoder.encode(PICTURES)).clamp(-1, 1)
    assert model.edit(PICTURES, TOLD, 0.).equal(wanted)
    assert torch.allclose(model.edit(PICTURES, TOLD, 1e-3), wanted, atol=.05)          # and there is no jump to it


@pytest.mark.parametrize("strength, steps, walked", [(.6, 25, 15), (.3, 10, 3), (.01, 25, 2), (.5, 1, 1)])
def test_editing_begins_at_the_noised_code(model, monkeypatch, strength, steps, walked):
    """The denoiser is first asked about cos(pi t/2) z0 + sin(pi t/2) eps at t = strength, then down to the end."""
    asked = []
    monkeypatch.setattr(TextToImage, "denoise", lambda *_: lambda z, t: asked.append((z, float(t))) or z)
    model.edit(PICTURES, TOLD, strength, steps=steps, seed=3, first=4)
    with torch.no_grad():
        z0, eps = model.autoencoder.encode(PICTURES), data.noise((2, 4, 8, 8), 3, first=4)
    wanted = math.cos(math.pi / 2 * strength) * z0 + math.sin(math.pi / 2 * strength) * eps
    assert torch.allclose(asked[0][0], wanted, atol=1e-5)
    assert [t for _, t in asked] == pytest.approx([strength * (1 - i / walked) for i in range(walked)])


def test_an_edited_picture_does_not_depend_on_the_batch(model):
    both = model.edit(PICTURES, TOLD, .7, steps=4, seed=3)
    assert torch.allclose(model.edit(PICTURES[1:], TOLD[1:], .7, steps=4, seed=3, first=1), both[1:], atol=1e-4)
    assert not torch.allclose(model.edit(PICTURES, TOLD, .7, steps=4, seed=4), both, atol=1e-2)


def test_inversion_follows_the_flow_of_a_gaussian(model, monkeypatch):
    """For codes ~ N(0, s^2) the flow is known: z_t / std(z_t) does not change, so z_1 = z_0 / s."""
    s = .5

    def exact(z, t):
        alpha, sigma = math.cos(math.pi / 2 * float(t)), math.sin(math.pi / 2 * float(t))
        return alpha * s ** 2 / (alpha ** 2 * s ** 2 + sigma ** 2) * z

    monkeypatch.setattr(TextToImage, "denoise", lambda *_: exact)
    with torch.no_grad():
        z0 = s * model.autoencoder.encode(PICTURES)
    monkeypatch.setattr(LatentAutoencoder, "encode", lambda *_: z0)
    errors = [float((model.invert(PICTURES, TOLD, steps=n) * s - z0).abs().max()) for n in (10, 50, 200)]
    assert errors[0] < .05 and max(errors[1:]) < 2e-3


def psnr(x, y):
    return 10 * torch.log10(4 / (x - y).square().mean((1, 2, 3)))


def test_there_and_back_with_the_shipped_model():
    """Eight pictures to noise and back: hardly worse than their reconstructions, and other noise paints others."""
    shipped, scenes = weights.load("text-to-image"), full(8, data.rng("there and back"))
    x, told = render(scenes, 32), captions.write(scenes, data.rng("told"), complete=True)
    with torch.no_grad():
        ceiling = psnr(shipped.autoencoder.decode(shipped.autoencoder.encode(x)), x)
    trip = psnr(shipped.paint(told, scale=1., start=shipped.invert(x, told, steps=25)), x)
    assert trip.mean() > 37 and (ceiling - trip).mean() < 3 and trip.min() > 28
    assert psnr(shipped.paint(told, scale=1., seed=0), x).max() < 25


# ---- from caption to caption


def test_the_ends_of_an_interpolation_are_paintings(model):
    a, b = "a red circle", "a blue square above a small ring"
    row = model.interpolate(a, b, 4, steps=3, seed=7, negative="a star")
    assert torch.allclose(row[:1], model.paint([a], steps=3, seed=7, negative="a star"), atol=1e-4)
    assert torch.allclose(row[-1:], model.paint([b], steps=3, seed=8, negative="a star"), atol=1e-4)


def test_between_two_captions_is_the_mean_of_their_guesses(model, monkeypatch):
    """Where each caption's guess is always the same code, the picture is the decoded mean of both."""
    guess = dict(zip("ab", data.noise((2, 4, 8, 8), 1), strict=True))
    monkeypatch.setattr(TextToImage, "denoise", lambda _, told, *__: lambda z, t: guess[told[0]].expand_as(z))
    with torch.no_grad():
        for k, picture in enumerate(model.interpolate("a", "b", 5, steps=3)):
            code = (1 - k / 4) * guess["a"] + k / 4 * guess["b"]
            assert torch.allclose(picture, model.autoencoder.decode(code[None])[0].clamp(-1, 1), atol=1e-4)


def test_between_two_seeds_the_noise_is_on_the_great_circle(model):
    row = model.interpolate("a red circle", "a red circle", 3, steps=3, seed=7)
    middle = slerp(data.noise((1, 4, 8, 8), 7), data.noise((1, 4, 8, 8), 8), torch.tensor(.5))
    assert torch.allclose(row[1:2], model.paint(["a red circle"], steps=3, start=middle), atol=1e-4)


def test_slerp_turns_evenly_and_keeps_the_length():
    """In the plane of x and y the angle from x is u theta, at every length; the ends are exact."""
    torch.manual_seed(0)
    x, y = torch.nn.functional.normalize(torch.randn(2, 50, 12).double(), dim=2)
    theta = torch.acos((x * y).sum(1))
    for u in (0., .1, .5, .9, 1.):
        z = slerp(3 * x, 3 * y, torch.tensor(u))
        assert torch.allclose(z.norm(dim=1), torch.full((50,), 3.).double())
        for end, angle in ((x, u * theta), (y, (1 - u) * theta)):
            assert torch.allclose((z * end).sum(1), 3 * torch.cos(angle), atol=1e-9)
    each = torch.linspace(0, 1, 50)
    assert torch.allclose(slerp(x, y, each)[7:8], slerp(x[7:8], y[7:8], each[7]))
    assert slerp(x, y, each)[0].equal(x[0]) and slerp(x, y, each)[-1].equal(y[-1])
    assert torch.allclose(slerp(x, 2 * x, torch.tensor(.25)), 1.25 * x)                # no angle: the straight line
    with pytest.raises(ValueError, match="many great circles"):
        slerp(x, -x, torch.tensor(.5))


# ---- what is refused


@pytest.mark.parametrize("change, error, says", [
    ({"pictures": PICTURES[0]}, ValueError, r"pictures are \[b, 3, 32, 32\], not \[3, 32, 32\]"),
    ({"pictures": PICTURES[:, :1]}, ValueError, r"not \[2, 1, 32, 32\]"),
    ({"pictures": PICTURES[:, :, ::2, ::2]}, ValueError, r"not \[2, 3, 16, 16\]"),
    ({"pictures": 127.5 * (PICTURES + 1)}, ValueError, r"from -1 to 1, .*levels 0..255 become x / 127.5 - 1"),
    ({"pictures": (127.5 * (PICTURES + 1)).byte()}, ValueError, r"not torch.uint8 .*become x / 127"),
    ({"pictures": PICTURES.sign().long()}, ValueError, "not torch.int64 from -1 to 1$"),
    ({"pictures": PICTURES * 1.2}, ValueError, "pictures are floats from -1 to 1, not .*1.2$"),
    ({"pictures": PICTURES * math.nan}, ValueError, "from -1 to 1, not .*nan"),
    ({"captions": TOLD[:1]}, ValueError, "2 pictures and 1 captions"),
    ({"captions": []}, TypeError, "at least one"),
    ({"captions": "a red circle"}, TypeError, "put a single one into brackets"),
    ({"captions": ["a red circel", ""]}, UnknownWord, "circle"),
    ({"captions": ["red " * 40, ""]}, ValueError, "23 words"),
    ({"strength": 1.2}, ValueError, "from 0 .* to 1 .*is not 1.2"), ({"strength": -.1}, ValueError, "is not -0.1"),
    ({"strength": math.nan}, ValueError, "is not nan"), ({"steps": 0}, ValueError, "at least 1")])
def test_what_cannot_be_edited_or_inverted_is_refused(model, change, error, says):
    asked = {"pictures": PICTURES, "captions": TOLD, "strength": .5, "steps": 2} | change
    with pytest.raises(error, match=says):                         # without the type checker of the tests
        inspect.unwrap(TextToImage.edit)(model, **asked)
    asked.pop("strength")
    if "strength" not in change:
        with pytest.raises(error, match=says):
            inspect.unwrap(TextToImage.invert)(model, **asked)


def test_pictures_a_hair_outside_are_welcome(model):
    assert model.edit(PICTURES * 1.0005, TOLD, .5, steps=2).abs().max() <= 1


@pytest.mark.parametrize("asked, error, says", [
    (("a ring", "a star", 1), ValueError, "at least 2 pictures, not 1"), (("a ring", "a stra", 3), UnknownWord, "star"),
    (("a ring", "red " * 40, 3), ValueError, "23 words")])
def test_what_cannot_be_interpolated_is_refused(model, asked, error, says):
    with pytest.raises(error, match=says):
        inspect.unwrap(TextToImage.interpolate)(model, *asked)


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
