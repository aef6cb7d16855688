"""A diffusion model as one object: its times, its loss, its rows, its file."""
from functools import partial

import pytest
import torch

from minidiff import weights
from minidiff.data import noise, rng
from minidiff.ddpm import DDPM, DDPMConfig
from minidiff.dit import DiT, DiTConfig
from minidiff.samplers import ancestral_step, ddim_step, noise_like, sample
from minidiff.schedules import DiscreteSchedule, times
from minidiff.train import seeded
from minidiff.unet import UNet, UNetConfig
from minidiff.variances import LearnedVariance

TINY = UNetConfig(1, 4, (8, 8), d_time=8, d_text=0, heads=2)
PATCHES = DiTConfig(1, 4, width=8, depth=1, heads=2)


def made(net=TINY, target="v", schedule="cosine", T=20):
    with seeded("ddpm"):
        model = DDPM(DDPMConfig(net, target, schedule, T))
        for p in model.parameters():
            p.data += .1 * torch.randn(p.shape)
    return model.eval()


@pytest.mark.parametrize("schedule, table", [("linear", DiscreteSchedule.linear), ("cosine", DiscreteSchedule.cosine)])
@pytest.mark.parametrize("net, kind", [(TINY, UNet), (PATCHES, DiT)])
def test_a_config_says_all(schedule, table, net, kind):
    model = made(net, "x0", schedule, 30)
    assert model.schedule.alpha_bar.equal(table(30).alpha_bar) and isinstance(model.denoiser.net, kind)
    assert model.denoiser.target == "x0" and not isinstance(model.denoiser, LearnedVariance)
    with pytest.raises(ValueError, match="linear, cosine"):
        DDPMConfig(net, schedule="sigmoid")


def test_times_are_the_steps_of_the_table_alike_often():
    with seeded("draws"):
        k = made(T=5).draw(50_000) * 5
    assert (k - k.round()).abs().max() < 1e-5
    shares = k.round().long().bincount(minlength=6) / 50_000
    assert shares[0] == 0 and (shares[1:] - .2).abs().max() < .01


def test_the_loss_is_the_denoisers_at_drawn_times():
    model, x0 = made(), torch.randn(6, 1, 4, 4, generator=rng("x0"))
    with seeded("loss"):
        found = model.loss(x0)["loss"]
    with seeded("loss"):
        t = model.draw(6)
        wanted = model.denoiser.loss(x0, t)
    assert found == wanted


@pytest.mark.parametrize("net", [TINY, PATCHES])
def test_two_answers_learn_their_variance(net):
    model = made(type(net)(**{**vars(net), "answers": 2}))
    assert isinstance(model.denoiser, LearnedVariance)
    assert set(model.loss(torch.randn(6, 1, 4, 4, generator=rng("x0")))) == {"loss", "simple", "bound"}
    assert model.sample(2, seed=0, steps=3).shape == (2, 1, 4, 4)


def test_a_sample_is_the_samplers_and_depends_on_its_seed_and_row():
    model = made()
    with torch.no_grad():
        wanted = sample(model.denoiser, noise((3, 1, 4, 4), 7), times(5, 20), model.schedule, step=ddim_step)
    assert model.sample(3, seed=7, steps=5).equal(wanted)
    torch.testing.assert_close(model.sample(1, seed=7, first=2, steps=5), wanted[2:])
    assert not model.sample(3, seed=8, steps=5).allclose(wanted)
    step = partial(ancestral_step, randn_like=noise_like(0))
    assert not model.sample(3, seed=7, steps=5, step=step).allclose(wanted)
    assert len(list(model.path(2, seed=0, steps=4))) == 4


@pytest.mark.parametrize("net", [TINY, PATCHES])
def test_a_file_is_the_same_model(tmp_path, net):
    model = made(net)
    weights.save(tmp_path / "m.safetensors", model)
    again = weights.load(tmp_path / "m.safetensors")
    assert again.config == model.config and again.sample(2, seed=1, steps=3).equal(model.sample(2, seed=1, steps=3))
