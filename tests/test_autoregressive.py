"""Pixels each on its own and one after the other: every picture of a tiny world is listed, with its probability."""
import itertools
import math

import pytest
import torch

from minidiff import autoregressive as ar
from minidiff import captions, scenes
from minidiff.autoregressive import (
    CausalConvolution,
    PixelGPT,
    PixelGPTConfig,
    colour_codes,
    cost_of_independence,
    independent_pixels,
    rounded,
)
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


# --- palettes ---------------------------------------------------------------------------------------------------------

def colourful():
    return scenes.render(scenes.single("train")[::37], 16)


def test_each_colour_of_a_palette_is_the_mean_of_its_pixels():
    """What makes k-means stop: neither step can lower the squared error any more."""
    x = colourful()
    found = ar.palette(x, 12, rounds=200)
    pixels, codes = x.movedim(1, -1).reshape(-1, 3), ar.to_codes(x, found).flatten()
    for k in codes.unique():
        assert (pixels[codes == k].double().mean(0) - found[k]).abs().max() < 1e-4


def test_a_palette_is_as_good_as_scipys():
    from scipy.cluster.vq import kmeans2
    x = colourful()[::4]
    pixels = x.movedim(1, -1).reshape(-1, 3).double().numpy()
    centres, codes = kmeans2(pixels, 32, minit="++", seed=0, iter=40)
    theirs = ((pixels - centres[codes]) ** 2).mean()
    found = ar.palette(x, 32)
    ours = (x - ar.to_pictures(ar.to_codes(x, found), found)).square().mean()
    assert ours < 1.25 * theirs


def test_codes_are_the_nearest_colours_in_raster_order():
    x, colours = torch.rand(2, 3, 4, 4, generator=rng("x")) * 2 - 1, torch.rand(5, 3, generator=rng("p")) * 2 - 1
    codes = ar.to_codes(x, colours)
    for b, i, j in itertools.product(range(2), range(4), range(4)):
        distances = [sum((float(x[b, c, i, j]) - float(p[c])) ** 2 for c in range(3)) for p in colours]
        assert codes[b, 4 * i + j] == distances.index(min(distances))
    assert ar.to_codes(ar.to_pictures(codes, colours), colours).equal(codes)


def test_palettes_refuse_what_they_cannot_do():
    for colours in (0, 2):
        with pytest.raises(ValueError, match="have 1 different colours"):
            ar.palette(torch.zeros(2, 3, 4, 4), colours)
    with pytest.raises(ValueError, match="7 pixels do not fill a square"):
        ar.to_pictures(torch.zeros(1, 7, dtype=torch.long), torch.zeros(2, 3))


# --- a short past -----------------------------------------------------------------------------------------------------

def test_the_past_of_a_place_is_what_stands_before_it():
    x = torch.tensor([[1., 2., 3., 4.]])
    assert ar.past(x, 2)[0].tolist() == [[0, 0], [0, 1], [1, 2], [2, 3]]


def test_a_linear_model_finds_the_process_that_made_its_data():
    a, std = torch.tensor([-.7, 1.5, .1]), .3
    x = ar.linear_draw(a, std, torch.randn(200, 500, generator=rng("series")))
    found, found_std = ar.linear_ar(x, 2)
    assert (found - a).abs().max() < .01 and abs(found_std / std - 1) < .01


def test_drawn_series_have_the_variance_of_their_process():
    """x_i = a x_(i-1) + std e  has in the long run the variance  std^2 / (1 - a^2)."""
    x = ar.linear_draw(torch.tensor([.8, 0.]), .5, torch.randn(20_000, 40, generator=rng("ar1")))
    assert abs(float(x[:, -1].var()) - .25 / (1 - .64)) < .02


def test_linear_probabilities_of_all_sequences_add_up_to_one():
    levels, a = torch.tensor([-1., -.2, .5, 1.]), torch.tensor([.3, -.6, .2])
    every = levels[torch.cartesian_prod(*[torch.arange(4)] * 3)]
    assert float((2 ** -ar.linear_bits(every, levels, a, .7)).sum()) == pytest.approx(1, abs=1e-6)


def test_linear_probabilities_are_those_of_drawing_and_rounding():
    """Monte Carlo: the last of three values is drawn and goes to its nearest level."""
    levels, a, std = torch.tensor([-1., -.2, .5, 1.]), torch.tensor([.3, -.6, .2]), .7
    x = torch.tensor([[.5, -.2]])
    mean = a[0] * x[0, 0] + a[1] * x[0, 1] + a[2]
    drawn = mean + std * torch.randn(100_000, generator=rng("levels"))
    share = torch.bincount((drawn[:, None] - levels).abs().argmin(1), minlength=4) / 1e5
    both = torch.cat([x.expand(4, -1), levels[:, None]], 1)
    p = 2 ** -(ar.linear_bits(both, levels, a, std) - ar.linear_bits(x, levels, a, std))
    assert (p - share).abs().max() < .006


def test_linear_probabilities_far_out_are_scipys():
    """Forty standard deviations away a probability is tiny and not zero: its logarithm against SciPy's tails."""
    from scipy.stats import norm
    levels, std = torch.tensor([-1., 0., 1.]), .05
    for a, sign in ((-1., 1), (1., -1)):                                           # the mean is at one end
        far = float(ar.linear_bits(torch.tensor([[float(sign)]]), levels, torch.tensor([0., a]), std))
        assert far == pytest.approx(-norm.logsf(1.5 / .05) / math.log(2), rel=1e-6) and far > 600
    middle = float(ar.linear_bits(torch.tensor([[0.]]), levels, torch.tensor([0., -1.]), std))
    p = norm.logsf(.5 / .05) + math.log1p(-math.exp(norm.logsf(1.5 / .05) - norm.logsf(.5 / .05)))
    assert middle == pytest.approx(-p / math.log(2), rel=1e-6)


# --- networks ---------------------------------------------------------------------------------------------------------

def tiny(**changed):
    """An untrained pixel GPT of pictures of 4 pixels in 3 colours; its numbers are large enough to matter."""
    torch.manual_seed(0)
    model = PixelGPT(PixelGPTConfig(**{"colours": 3, "side": 2, "d": 16, "layers": 2, "heads": 2} | changed))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * .3)
    return model.eval()


MODELS = {"pixel gpt": tiny, "convolution": lambda: (torch.manual_seed(0), CausalConvolution(3, p=3, d=8))[1].eval()}
EVERY = torch.cartesian_prod(*[torch.arange(3)] * 4)                              # all 81 pictures of 4 pixels


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_of_all_pictures_add_up_to_one(name):
    """The chain rule makes a distribution of any conditionals, if and only if no pixel looks ahead."""
    asked = captions.encode(["a red circle"] * 81)
    with torch.no_grad():
        assert float((2 ** -MODELS[name]().bits(asked, EVERY)).sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_pictures_are_drawn_as_often_as_their_probability_says(name):
    model, n = MODELS[name](), 6000
    *_, codes = model.path(["a red circle"] * n, torch.rand(n, 4, generator=rng("dice")))
    seen = torch.bincount(codes @ torch.tensor([27, 9, 3, 1]), minlength=81)
    with torch.no_grad():
        expected = n * 2 ** -model.bits(captions.encode(["a red circle"] * 81), EVERY).double()
    rare = expected < 5
    observed = torch.cat([seen[~rare], seen[rare].sum()[None]])
    wanted = torch.cat([expected[~rare], expected[rare].sum().clamp(min=1e-9)[None]])
    chi, cells = float(((observed - wanted) ** 2 / wanted.clamp(min=1)).sum()), len(wanted)
    assert cells > 10 and chi - (cells - 1) < 4 * math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("name", MODELS)
def test_no_prediction_moves_with_its_own_pixel_or_a_later_one(name):
    model, asked = MODELS[name](), captions.encode(["a red circle"])
    codes = torch.tensor([[0, 1, 2]])
    with torch.no_grad():
        before = model(asked, codes)
        for j in range(3):
            changed = codes.clone()
            changed[0, j] = (changed[0, j] + 1) % 3
            moved = (model(asked, changed) - before).abs().sum(-1)[0] > 0
            assert moved.tolist() == [i > j for i in range(4)]


def test_a_convolution_forgets_what_is_more_than_p_pixels_back():
    torch.manual_seed(0)
    model, asked = CausalConvolution(3, p=2, d=8), captions.encode([""])
    one, other = torch.tensor([[0, 1, 2, 0]]), torch.tensor([[2, 1, 2, 0]])
    same = (model(asked, one) == model(asked, other)).all(-1)[0]
    assert same.tolist() == [True, False, False, True, True]


def test_without_hidden_numbers_the_logits_are_linear_in_the_pixels():
    """Replacing one pixel changes the logits by the same amount whatever the others are."""
    torch.manual_seed(0)
    model, asked = CausalConvolution(3, p=3, d=0), captions.encode([""])
    changes = []
    for others in ([0, 0], [2, 1]):
        one, other = (model(asked, torch.tensor([[a, *others]]))[0, -1] for a in (0, 1))
        changes.append(other - one)
    assert torch.allclose(*changes, atol=1e-6) and changes[0].abs().max() > 1e-3
    deep = CausalConvolution(3, p=3, d=8)
    bent = [deep(asked, torch.tensor([[1, *o]]))[0, -1] - deep(asked, torch.tensor([[0, *o]]))[0, -1]
            for o in ([0, 0], [2, 1])]
    assert not torch.allclose(*bent, atol=1e-6)


def test_the_caption_matters_to_the_first_pixel_too():
    model, codes = tiny(), torch.zeros(1, 0, dtype=torch.long)
    red, blue = (model(captions.encode([f"a {word} circle"]), codes) for word in ("red", "blue"))
    assert (red - blue).abs().max() > 1e-3


def test_a_cache_changes_nothing_but_the_work():
    model, dice = tiny(side=4), torch.rand(5, 16, generator=rng("dice"))
    told = ["a red circle", "something", "a star", "a picture", "a large ring on black"]
    with_, without = ([*model.path(told, dice, cached=c)] for c in (True, False))
    assert [codes.shape[1] for codes in with_] == list(range(1, 17))
    assert all(a.equal(b) for a, b in zip(with_, without, strict=True))


def test_a_picture_depends_on_its_seed_and_number_alone():
    model = tiny(side=4)
    model.palette.copy_(torch.rand(3, 3, generator=rng("colours")))
    three, one = model.paint(["a star"] * 3, seed=5), model.paint(["a star"], seed=5, first=2)
    assert three[2:].equal(one) and not three[:1].equal(three[1:2])
    assert three.shape == (3, 3, 4, 4) and not model.paint(["a star"] * 3, seed=6).equal(three)


def test_a_low_temperature_takes_the_likeliest_colour():
    model = tiny(side=4)
    *_, codes = model.path(["a star"], torch.rand(1, 16, generator=rng("dice")), temperature=1e-4)
    likeliest = model(captions.encode(["a star"]), codes[:, :-1]).argmax(-1)
    assert codes.equal(likeliest)


def test_the_loss_is_the_bits_of_a_picture_over_its_pixels():
    model = tiny()
    batch = ar.Written(captions.encode(["a red circle", "a star"]), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]]))
    logits, total = model(batch.captions, batch.codes[:, :-1]), 0.
    for b, i in itertools.product(range(2), range(4)):
        weights = [math.exp(v) for v in logits[b, i].tolist()]
        total -= math.log(weights[batch.codes[b, i]] / sum(weights)) / 8
    losses = model.loss(batch)
    assert losses["loss"].item() == pytest.approx(total, rel=1e-5)
    assert losses["bits"].item() == pytest.approx(total * 4 / math.log(2), rel=1e-5)


def test_what_cannot_be_drawn_is_refused():
    model, dice = tiny(), torch.rand(2, 4, generator=rng("dice"))
    for wrong, words in (({"captions": ["a star"], "dice": dice}, "each of 1 captions needs a row of dice, not 2 rows"),
                         ({"captions": ["a star"] * 2, "dice": dice, "temperature": 0.}, "temperature is above 0")):
        with pytest.raises(ValueError, match=words):
            next(model.path(**wrong))
    with pytest.raises(TypeError, match="list of at least one"):
        model.paint([])
    with pytest.raises(ValueError, match="has 4 pixels, not 5"):
        model.pixels(torch.zeros(1, 5, dtype=torch.long))


def test_a_caption_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="longer than the 16 tokens"):
        tiny()(torch.ones(1, 24, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long))


def test_written_batches_are_scenes_with_their_own_pictures():
    world = scenes.single("train")[::300]
    codes = torch.arange(len(world))[:, None].expand(-1, 4)                      # the picture tells which scene it is
    batch = ar.written(world, codes, 6, seed=1)(3)
    again = ar.written(world, codes, 6, seed=1)(3)
    assert batch.codes.equal(again.codes) and batch.captions.equal(again.captions)
    for words, code in zip(batch.captions.tolist(), batch.codes[:, 0].tolist(), strict=True):
        told = [captions.VOCABULARY[w] for w in words if w > 1]
        named = {w for w in told if w in scenes.SHAPES or w in scenes.COLOURS}
        thing = world[code].things[0]
        ground = world[code].background
        assert named - {ground} <= {thing.shape, thing.colour}
