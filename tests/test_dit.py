"""The transformer: adaLN-zero begins as nothing, every patch hears every patch and the time, places are told apart."""
import pytest
import torch
from torch.nn import functional as F

from minidiff import weights
from minidiff.data import rng
from minidiff.dit import AdaptiveBlock, DiT, DiTConfig, places
from minidiff.train import seeded

SMALL = DiTConfig(channels=2, side=8, patch=2, width=16, depth=2, heads=2)


def awake(config=SMALL):
    """A transformer whose zero layers have been given weights."""
    with seeded("awake"):
        net = DiT(config)
        for p in net.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=.2)
    return net.eval()


def normal(*shape, seed=0):
    return torch.randn(shape, generator=rng("dit", seed))


def test_a_new_block_hands_on_what_it_was_given():
    block, x = AdaptiveBlock(16, 2), normal(3, 5, 16)
    assert block(x, normal(3, 16)).equal(x)


def test_a_new_network_answers_nothing_and_learns_from_its_last_layer_on():
    with seeded("new"):
        net = DiT(SMALL)
    x = normal(3, 2, 8, 8)
    assert net(x, torch.rand(3, generator=rng("t"))).abs().max() == 0
    F.mse_loss(net(x, torch.full((3,), .5)), normal(3, 2, 8, 8, seed=1)).backward()
    moved = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {"pixels.weight", "pixels.bias"}


def test_a_block_is_its_formula():
    """Scale, shift and gate of attention, then of the MLP, from the time; norms without parameters of their own."""
    net, x, time = awake(), normal(3, 16, 16), normal(3, 16, seed=1)
    block = net.blocks[0]
    g1, a1, b1, g2, a2, b2 = (F.silu(time) @ block.told.weight.T + block.told.bias).reshape(3, 6, 1, 16).unbind(1)

    def norm(y):
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    y = x + g1 * block.attention(norm(x) * (1 + a1) + b1)
    y = y + g2 * block.mlp(norm(y) * (1 + a2) + b2)
    assert torch.allclose(block(x, time), y, atol=1e-5) and not torch.allclose(y, x, atol=.1)


def test_every_pixel_reaches_every_pixel_and_rows_do_not_mix():
    net, x, t = awake(), normal(2, 2, 8, 8).requires_grad_(), torch.tensor([.2, .9])
    (slope,) = torch.autograd.grad(net(x, t)[0, 0, 0, 0], x)
    assert (slope[0] != 0).all() and (slope[1] == 0).all()
    assert torch.allclose(net(x[1:], t[1:]), net(x, t)[1:], atol=1e-6)


def test_the_time_is_heard():
    net, x = awake(), normal(1, 2, 8, 8)
    assert not torch.allclose(net(x, torch.tensor([.5])), net(x, torch.tensor([.51])), atol=1e-3)


def test_without_places_patches_could_change_theirs():
    """Exchange two patches: the answer changes with the vectors of places, and only moves along without them."""
    net, x, t = awake(), normal(1, 2, 8, 8), torch.tensor([.4])
    moved = x.clone()
    moved[..., :2, :2], moved[..., 4:6, 6:] = x[..., 4:6, 6:], x[..., :2, :2]

    def back(y):
        z = y.clone()
        z[..., :2, :2], z[..., 4:6, 6:] = y[..., 4:6, 6:], y[..., :2, :2]
        return z
    assert not torch.allclose(back(net(moved, t)), net(x, t), atol=1e-2)
    net.place.zero_()
    assert torch.allclose(back(net(moved, t)), net(x, t), atol=1e-5)


def test_places_know_rows_from_columns():
    """All different; the first half tells the row alone, the second the column alone."""
    grid = places(5, 16).reshape(5, 5, 16)
    assert torch.pdist(grid.flatten(0, 1)).min() > .1
    assert (grid[..., :8] == grid[:, :1, :8]).all() and (grid[..., 8:] == grid[:1, :, 8:]).all()
    assert grid[..., :8].equal(grid[..., 8:].transpose(0, 1))


def test_pictures_are_cut_into_squares():
    """A change inside one square changes one token."""
    net, x = awake(), normal(1, 2, 8, 8)
    seen = []
    net.tokens.register_forward_hook(lambda m, i, o: seen.append(o))
    net(x, torch.tensor([.5]))
    other = x.clone()
    other[..., 2:4, 6:8] += 1
    net(other, torch.tensor([.5]))
    assert (seen[0] != seen[1]).any(-1).nonzero().tolist() == [[0, 1 * 4 + 3]]


def test_two_answers_and_a_file(tmp_path):
    net, x = awake(DiTConfig(channels=2, side=8, width=16, heads=2, answers=2)), normal(3, 2, 8, 8)
    assert net(x, torch.rand(3, generator=rng("t"))).shape == (3, 4, 8, 8)
    weights.save(tmp_path / "dit.safetensors", net)
    again = weights.load(tmp_path / "dit.safetensors")
    assert again(x, torch.full((3,), .3)).equal(net(x, torch.full((3,), .3)))


def test_what_cannot_work_is_refused():
    for wrong in ({"patch": 3}, {"heads": 3}, {"width": 18, "heads": 2}):
        with pytest.raises(ValueError, match="multiple"):
            DiTConfig(**wrong)
    for x, cond in ((normal(1, 2, 16, 16), None), (normal(1, 2, 8, 8), "a red circle")):
        with pytest.raises(ValueError, match="2 channels with side 8 and hears no cond"):
            awake()(x, torch.rand(1), cond)
