"""Independent pixels against the definition: every picture of a tiny world is listed, with its probability."""
import itertools
import math

import pytest
import torch

from minidiff import scenes
from minidiff.autoregressive import colour_codes, cost_of_independence, independent_pixels, rounded
from minidiff.data import rng


def product(codes: torch.Tensor, row: tuple[int, ...]) -> float:
    """The probability of a picture under independent pixels, by counting."""
    return math.prod(sum(int(c) == v for c in column) / len(codes) for column, v in zip(codes.T, row, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_cost_is_the_divergence_by_its_definition(seed):
    codes = torch.randint(3, (7, 4), generator=rng("codes", seed))                # 7 pictures of 4 pixels, 3 colours
    kl = 0.
    for row in itertools.product(range(3), repeat=4):
        p = sum(tuple(r) == row for r in codes.tolist()) / len(codes)
        kl += p * math.log2(p / product(codes, row)) if p else 0.
    assert cost_of_independence(codes) == pytest.approx(kl, abs=1e-12)


def test_two_pictures_cost_one_bit_for_each_pixel_that_differs_less_one():
    codes = torch.tensor([[0, 1, 2, 3, 4], [0, 5, 6, 7, 4]])
    assert cost_of_independence(codes) == pytest.approx(3 - 1)


def test_samples_follow_the_product_of_the_marginals():
    """All pictures of 4 pixels: their frequencies against the product, by chi-square."""
    codes = torch.randint(3, (7, 4), generator=rng("codes", 1))
    drawn = independent_pixels(codes.float().reshape(7, 1, 2, 2), 40_000, rng("drawn")).long().flatten(1)
    seen = dict.fromkeys(itertools.product(range(3), repeat=4), 0)
    for row in drawn.tolist():
        seen[tuple(row)] += 1
    expected = {row: product(codes, row) * len(drawn) for row in seen}
    assert all(not seen[row] for row in seen if not expected[row])
    chi = sum((seen[row] - e) ** 2 / e for row, e in expected.items() if e)
    cells = sum(e > 0 for e in expected.values())
    assert cells > 20 and abs(chi - (cells - 1)) < 4 * math.sqrt(2 * (cells - 1))


def test_channels_of_a_pixel_stay_together():
    pictures = torch.stack([torch.full((3, 4, 4), v) for v in (-1., 0., 1.)])
    drawn = independent_pixels(pictures, 20, rng("together"))
    assert drawn.std(dim=1).max() == 0 and drawn.unique().numel() == 3


def test_codes_are_equal_where_the_colours_are():
    pictures = rounded(scenes.render(scenes.single("all")[::97], 8), 5)
    codes, flat = colour_codes(pictures), pictures.flatten(2).movedim(1, 2).reshape(-1, 3)
    for code in codes.unique():
        assert len(flat[codes.flatten() == code].unique(dim=0)) == 1
    assert len(codes.unique()) == len(flat.unique(dim=0))


def test_rounding_moves_a_channel_by_half_a_step_at_most():
    x = torch.rand(10, 3, 5, 5, generator=rng("levels")) * 2 - 1
    y = rounded(x, 9)
    assert (x - y).abs().max() <= 1 / 8 + 1e-6 and len(y.unique()) == 9 and rounded(y, 9).equal(y)


def test_one_level_is_refused():
    with pytest.raises(ValueError, match="at least 2 levels"):
        rounded(torch.zeros(1, 3, 2, 2), 1)
