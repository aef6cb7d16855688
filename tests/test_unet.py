"""The U-Net: every input reaches every output, skips join twins, the text enters by attention, the time everywhere."""
import dataclasses

import pytest
import torch

from minidiff import weights
from minidiff.data import rng
from minidiff.text import Text
from minidiff.unet import Block, SpatialTransformer, UNet, UNetConfig

SMALL = UNetConfig(channels=2, side=8, widths=(16, 24, 32), blocks=2, heads=2, d_time=16, d_text=12,
                   attend=(False, True, True))


def awake(config=SMALL):
    """A U-Net whose zero-initialised layers have been given weights, so that nothing is hidden."""
    torch.manual_seed(0)
    net = UNet(config)
    for name, p in net.named_parameters():
        if name.endswith("weight") and not p.any():
            torch.nn.init.normal_(p, std=.1)
    return net.eval()


def text(b=2, words=5):
    return Text(torch.randn(b, words, 12), torch.randn(b, 12), torch.ones(b, words, dtype=torch.bool))


def test_every_place_of_the_input_reaches_every_place_of_the_output():
    net, x = awake(), torch.randn(1, 2, 8, 8, requires_grad=True)
    y = net(x, torch.tensor([.5]), text(1))
    (gradient,) = torch.autograd.grad(y[0, 0, 0, 0], x)
    assert (gradient.abs().sum(1) > 0).all()


def test_rows_of_a_batch_do_not_mix():
    net, x, t, cond = awake(), torch.randn(2, 2, 8, 8), torch.tensor([.2, .9]), text()
    alone = net(x[1:], t[1:], Text(*(part[1:] for part in cond)))
    assert torch.allclose(net(x, t, cond)[1:], alone, atol=1e-5)


def test_time_words_and_their_mask_are_heard():
    net, x, t = awake(), torch.randn(1, 2, 8, 8), torch.tensor([.5])
    cond = text(1)
    y = net(x, t, cond)
    assert not torch.allclose(y, net(x, torch.tensor([.6]), cond), atol=1e-4)
    assert not torch.allclose(y, net(x, t, text(1)), atol=1e-4)
    mask = torch.tensor([[True, True, True, False, False]])
    other = cond.tokens.clone()
    other[:, 3:] = 7.
    assert net(x, t, Text(cond.tokens, cond.pooled, mask)).equal(net(x, t, Text(other, cond.pooled, mask)))


def test_without_text_there_is_nothing_to_hear_it_with():
    net = UNet(UNetConfig(channels=1, side=8, widths=(16, 16), d_text=0))
    transformers = [m for m in net.modules() if isinstance(m, SpatialTransformer)]
    assert net.pooled is None and transformers and all(m.cross_attention is None for m in transformers)
    assert net(torch.randn(3, 1, 8, 8), torch.rand(3)).shape == (3, 1, 8, 8)


def test_each_way_up_meets_its_twin_of_the_way_down():
    """A skip of the wrong level would not even fit: give all levels one width and count what each block takes in."""
    net = UNet(UNetConfig(widths=(16, 16, 16), blocks=2, attend=(True, True, True)))
    down, up = ([p for p in side if isinstance(p, Block)] for side in (net.down, net.up))
    seen = []
    for kind, blocks in (("down", down), ("up", up)):
        for block in blocks:
            block.register_forward_hook(lambda m, i, o, kind=kind: seen.append((kind, o.shape[-1])))
    net(torch.randn(1, 4, 8, 8), torch.rand(1), Text(torch.randn(1, 3, 128), torch.randn(1, 128), None))
    sides = {kind: [s for k, s in seen if k == kind] for kind in ("down", "up")}
    assert sides["down"] == [8, 8, 4, 4, 2, 2] and sides["up"] == sides["down"][::-1]


def test_a_new_network_predicts_one_number_a_channel():
    """The last layer's weights start at zero, so the first loss is about the variance of the target."""
    y = UNet(SMALL)(torch.randn(2, 2, 8, 8), torch.rand(2), text())
    assert (y - y[:1, :, :1, :1]).abs().max() == 0 and y.abs().max() < .1


@pytest.mark.parametrize("widths", [(16,), (16, 24)])
def test_any_number_of_levels(widths):
    net = UNet(UNetConfig(channels=3, side=8, widths=widths, attend=(True,) * len(widths), d_text=0))
    assert net(torch.randn(1, 3, 8, 8), torch.rand(1)).shape == (1, 3, 8, 8)


def test_a_second_answer_stands_behind_the_first():
    config = UNetConfig(channels=2, side=8, widths=(16, 24), d_time=16, d_text=0)
    two, one = awake(dataclasses.replace(config, answers=2)), awake(config)
    one.load_state_dict({name: tensor[:2] if name.startswith("conv_out.2") else tensor
                         for name, tensor in two.state_dict().items()})
    x, t = torch.randn(3, 2, 8, 8, generator=rng("answers")), torch.tensor([.2, .5, .9])
    assert two(x, t).shape == (3, 4, 8, 8) and torch.allclose(two(x, t)[:, :2], one(x, t), atol=1e-6)


def test_the_shipped_file_from_before_there_were_two_answers_is_as_it_was():
    told = weights.describe("text-to-image")
    assert "answers" not in told["config"]["unet"] and weights.load("text-to-image").config.unet.answers == 1


@pytest.mark.parametrize("change, says", [({"attend": (True,)}, "3 widths"), ({"side": 6}, "multiple of 4")])
def test_a_config_that_cannot_work_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(SMALL, **change)


def test_what_the_network_was_not_built_for_is_refused():
    net, x, t = awake(), torch.randn(1, 2, 8, 8), torch.rand(1)
    with pytest.raises(ValueError, match="pass cond"):
        net(x, t)
    with pytest.raises(ValueError, match="side 8"):
        net(torch.randn(1, 2, 16, 16), t, text(1))
