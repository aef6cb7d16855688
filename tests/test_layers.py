"""The blocks: attention against its formula in float64, masks and causality by perturbation."""
import math

import pytest
import torch

from minidiff.layers import Attention, GroupNorm, ResidualBlock, TimeEmbedding, TransformerBlock, attend, sinusoids


def formula(q, k, v, allowed):
    """softmax(q k^T / sqrt(d)) v, word by word, in Python's own loops."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64)
    for b, h, i in ((b, h, i) for b in range(q.shape[0]) for h in range(q.shape[1]) for i in range(q.shape[2])):
        weights = [math.exp(float(q[b, h, i] @ k[b, h, j]) / math.sqrt(q.shape[-1])) * bool(allowed[b, i, j])
                   for j in range(k.shape[2])]
        out[b, h, i] = sum(w * v[b, h, j] for j, w in enumerate(weights)) / sum(weights)
    return out


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_attention_is_its_formula(dtype, tolerance):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64).to(dtype) for n in (5, 6, 6))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1]], dtype=torch.bool)
    wanted = formula(q.double(), k.double(), v.double(), mask[:, None].expand(-1, 5, -1))
    assert (attend(q, k, v, mask=mask[:, None, None]).double() - wanted).abs().max() < tolerance


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_causal_attention_is_its_formula(dtype, tolerance):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 6, 4, dtype=torch.float64).to(dtype) for _ in range(3))
    before = torch.tensor([[j <= i for j in range(6)] for i in range(6)])
    wanted = formula(q.double(), k.double(), v.double(), before.expand(2, 6, 6))
    assert (attend(q, k, v, causal=True).double() - wanted).abs().max() < tolerance


def test_a_cache_gives_what_reading_all_at_once_gives():
    torch.manual_seed(0)
    block, x, past = TransformerBlock(8, 2).double(), torch.randn(2, 7, 8, dtype=torch.float64), []
    parts = [block(x[:, :3], causal=True, past=past)] + [block(x[:, i:i + 1], causal=True, past=past)
                                                         for i in range(3, 7)]
    assert (torch.cat(parts, 1) - block(x, causal=True)).abs().max() < 1e-12
    with pytest.raises(ValueError, match="one at a time, not 2"):
        block(x[:, :2], causal=True, past=past)


def test_causal_attention_does_not_see_the_future():
    torch.manual_seed(0)
    block, x = TransformerBlock(8, 2), torch.randn(1, 6, 8)
    changed = x.clone()
    changed[0, 3] = torch.randn(8)
    difference = (block(x, causal=True) - block(changed, causal=True)).abs().sum(-1)[0]
    assert (difference[:3] == 0).all() and (difference[3:] > 0).all()


def test_a_masked_word_is_not_read():
    torch.manual_seed(0)
    layer, x, context = Attention(8, 2, 4), torch.randn(1, 5, 8), torch.randn(1, 3, 4)
    mask, other = torch.tensor([[True, True, False]]), context.clone()
    other[0, 2] = 100.
    assert layer(x, context, mask=mask).equal(layer(x, other, mask=mask))
    assert not layer(x, context).equal(layer(x, other))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple of the heads"):
        Attention(10, 4)


def test_sinusoids_turn_at_their_frequencies():
    """A shift in t is a rotation of each (cos, sin) pair by shift * w: the property they were chosen for."""
    t, d = torch.tensor([3.], dtype=torch.float64), 16
    w = torch.tensor([1e4 ** (-i / (d // 2)) for i in range(d // 2)], dtype=torch.float64)
    now, later = sinusoids(t, d)[0].double(), sinusoids(t + 2, d)[0].double()
    turned = torch.complex(now[:8], now[8:]) * torch.exp(1j * 2 * w)
    assert (torch.complex(later[:8], later[8:]) - turned).abs().max() < 1e-5


def test_times_a_thousandth_apart_are_told_apart():
    torch.manual_seed(0)
    embed = TimeEmbedding(64, 32)
    x = embed(torch.arange(0, 1001) / 1000)
    assert (x[1:] - x[:-1]).norm(dim=1).min() > 1e-3


def test_group_norm_against_numpy():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 3, 3) * 5 + 2
    y = GroupNorm(16)(x).detach().numpy().reshape(2, 8, -1)
    assert abs(y.mean(-1)).max() < 1e-5 and abs(y.std(-1) - 1).max() < 1e-3


def test_residual_block_starts_as_its_skip_and_hears_its_condition():
    torch.manual_seed(0)
    block, x, cond = ResidualBlock(8, 8, 4), torch.randn(2, 8, 5, 5), torch.randn(2, 4)
    assert torch.allclose(block(x, cond), x, atol=.2)
    torch.nn.init.normal_(block.conv2.weight)
    assert not torch.allclose(block(x, cond), block(x, cond + 1))
