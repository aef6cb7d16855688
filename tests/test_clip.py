"""CLIP's loss against its definition row by row, and the text encoder's promises."""
import math

import pytest
import torch

from minidiff import captions, data
from minidiff.clip import Clip, ClipConfig, PatchEncoder
from minidiff.text import TextConfig, TextEncoder

SMALL = TextConfig(d=16, layers=1, heads=2)


@pytest.fixture
def clip():
    torch.manual_seed(0)
    return Clip(ClipConfig(widths=(8, 8, 8), d=8), text=TextEncoder(SMALL)).eval()


def test_loss_is_its_definition(clip):
    batch = data.contrasts(6, seed=3)(0)
    with torch.no_grad():
        p, q = clip.encode_pictures(batch.pictures), clip.encode_text(batch.captions)
        wrong = clip.encode_text(batch.wrong.flatten(0, 1))
        scale = float(clip.log_scale.exp())
        loss = float(clip.loss(batch)["loss"])
    counted = wrong[batch.counts.flatten()]
    total = 0.
    for i in range(6):
        others = [math.exp(scale * float(p[i] @ v)) for v in [*q, *counted]]
        backward = [math.exp(scale * float(p[j] @ q[i])) for j in range(6)]
        right = math.exp(scale * float(p[i] @ q[i]))
        total -= (math.log(right / sum(others)) + math.log(right / sum(backward))) / 12
    assert abs(loss - total) < 1e-4


def test_chance_level_of_an_ignorant_model(clip):
    """If all vectors are one, each row's loss is the logarithm of the number of choices."""
    batch = data.contrasts(8, seed=1)(0)
    torch.nn.init.zeros_(clip.project.weight)
    choices = 8 + int(batch.counts.sum())
    assert abs(float(clip.loss(batch)["loss"].detach()) - (math.log(choices) + math.log(8)) / 2) < 1e-4


def test_padding_says_nothing():
    torch.manual_seed(0)
    encoder = TextEncoder(SMALL).eval()
    for n in (3, 22, 23):                                      # 23 words fill all the places there are
        told = ["a red circle", " ".join(["red"] * n)]
        together = encoder(captions.encode(told)).pooled
        for i in (0, 1):
            assert torch.allclose(encoder(captions.encode(told[i:i + 1])).pooled, together[i:i + 1], atol=1e-5)


def test_the_order_of_words_matters():
    torch.manual_seed(0)
    encoder = TextEncoder(SMALL).eval()
    one, other = captions.encode(["a red circle above a blue square", "a blue circle above a red square"]).split(1)
    assert (encoder(one).pooled - encoder(other).pooled).abs().max() > 1e-3


def test_the_empty_caption_has_a_vector():
    text = TextEncoder(SMALL)(captions.encode([""]))
    assert text.mask.sum() == 1 and torch.isfinite(text.pooled).all()


# --- a vision transformer ---------------------------------------------------------------------------------------------

def test_patches_are_cut_and_placed():
    """Which patch a change is in reaches the patch's own token alone before the blocks, and the whole after them."""
    torch.manual_seed(0)
    config = ClipConfig(size=16, patch=4, d=8)
    net = PatchEncoder(config, d=16, layers=1)
    x = torch.randn(1, 3, 16, 16)
    y = x.clone()
    y[0, :, 4:8, 8:12] += 1
    tokens = [net.cut(v).flatten(2).transpose(1, 2) for v in (x, y)]
    changed = (tokens[0] != tokens[1]).any(-1)[0].nonzero().flatten().tolist()
    assert tokens[0].shape[1] == 16 and changed == [1 * 4 + 2]
    by_hand = torch.einsum("dchw,chw->d", net.cut.weight, x[0, :, 4:8, 8:12]) + net.cut.bias
    torch.testing.assert_close(tokens[0][0, 6], by_hand)
    assert not torch.allclose(net(x), net(y)) and net(x).shape == (1, 8)
    moved = x.roll(4, 3)                                          # the same patches at other places
    assert not torch.allclose(net(x), net(moved), atol=1e-4)


def test_a_clip_may_read_pictures_as_patches():
    torch.manual_seed(0)
    clip = Clip(ClipConfig(patch=8, d=8), text=TextEncoder(SMALL)).eval()
    said = clip.loss(data.contrasts(4, seed=3, split="one")(0))
    said["loss"].backward()
    assert clip.picture.position.grad.abs().sum() > 0
    assert clip.encode_pictures(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
    with pytest.raises(ValueError, match="whole patches"):
        ClipConfig(patch=5)


def test_contrasts_of_single_things():
    batch = data.contrasts(20, seed=0, split="one")(0)
    with_two = data.contrasts(20, seed=0)(0)
    pad = captions.VOCABULARY.index("<pad>")
    assert (batch.captions != pad).sum(1).max() < (with_two.captions != pad).sum(1).max()
