import math
from functools import partial

import pytest
import torch
from exact import Mixture

from minidiff.data import noise
from minidiff.guidance import (
    back_and_forth,
    by_gradient,
    cfg,
    cfg_doubled,
    clamp,
    inpaint,
    interval,
    repaint_path,
    rescale,
)
from minidiff.samplers import ancestral_step, last, noise_like, sample, sample_path
from minidiff.schedules import DiscreteSchedule, rectified, times, trigonometric

ALL = Mixture([0.25, 0.25, 0.5], [[-1.0, 0.5], [0.7, 1.0], [0.2, -1.2]], [0.15, 0.3, 0.2])
SOME = Mixture([1.0, 0.0, 0.0], [[-1.0, 0.5], [0.7, 1.0], [0.2, -1.2]], [0.15, 0.3, 0.2])


def refuse(x, t):
    raise AssertionError("evaluated though it should not be")


def test_guidance_follows_the_score_of_the_sharpened_density():
    """p(x|c)^w p(x)^(1-w): its score by autograd, then Tweedie, against guidance of the two posterior means."""
    for schedule in (DiscreteSchedule.linear(), trigonometric, rectified):
        for t, w in [(0.1, 0.0), (0.3, 2.0), (0.6, 3.5), (0.9, 0.5)]:
            alpha, sigma = schedule(torch.tensor(t))
            x = noise((40, 2), 0).double()
            score = w * SOME.noised(alpha, sigma).score(x) + (1 - w) * ALL.noised(alpha, sigma).score(x)
            guided = cfg(SOME.denoise(schedule), ALL.denoise(schedule), w)(x, torch.tensor(t))
            torch.testing.assert_close(guided, (x + sigma**2 * score) / alpha, rtol=1e-8, atol=1e-8)


def test_scale_one_is_off_and_does_not_pay_for_the_negative():
    x, t, denoise = noise((9, 2), 0).double(), torch.tensor(0.4), SOME.denoise(rectified)
    assert torch.equal(cfg(denoise, refuse, 1.0)(x, t), denoise(x, t))


def test_one_doubled_batch_is_the_same_as_two():
    x = noise((9, 2), 0).double()

    def both(xx, tt):
        assert xx.shape == (18, 2) and tt.shape == (18,)
        rows = zip(xx, tt, [SOME] * 9 + [ALL] * 9, strict=True)
        return torch.cat([world.denoise(rectified)(row[None], time) for row, time, world in rows])

    for t in (torch.tensor(0.4), torch.linspace(0.1, 0.9, 9)):
        rows = [
            cfg(SOME.denoise(rectified), ALL.denoise(rectified), 2.5)(x[i : i + 1], t.expand(9)[i]) for i in range(9)
        ]
        torch.testing.assert_close(cfg_doubled(both, 2.5)(x, t), torch.cat(rows), rtol=1e-10, atol=1e-10)


def test_more_guidance_leaves_fewer_samples_of_the_other_kinds():
    """From the guess for all three kinds (scale 0) to the guess for the first alone (scale 1)."""
    x, path = noise((2000, 2), 1).double(), times(40)
    shares = []
    for w in (0.0, 0.5, 1.0):
        end = sample(cfg(SOME.denoise(rectified), ALL.denoise(rectified), w), x, path, rectified)
        shares.append((ALL.joint(end).argmax(1) == 0).double().mean().item())
    assert math.isclose(shares[0], 0.25, abs_tol=0.04) and shares[0] < shares[1] < shares[2] and shares[2] > 0.999


def test_clamp_is_the_nearest_picture_in_range():
    x = 3 * noise((50, 2), 2)
    clamped = clamp(lambda x, t: x, -0.5, 2.0)(x, torch.tensor(0.5))
    grid = torch.linspace(-0.5, 2.0, 2501)
    nearest = grid[(x[..., None] - grid).abs().argmin(-1)]
    torch.testing.assert_close(clamped, nearest, rtol=0, atol=6e-4)
    assert clamp(lambda x, t: x)(x, torch.tensor(0.5)).abs().max() == 1


# --- gradients --------------------------------------------------------------------------------------------------------


def log_first(schedule):
    """log p(first kind | x_t), exactly, as a classifier that was trained on noisy points would learn it."""
    def log_prob(x, t):
        return ALL.noised(*schedule(t)).joint(x).log_softmax(1)[:, 0]
    return log_prob


@pytest.mark.parametrize("schedule", [DiscreteSchedule.linear(), trigonometric, rectified])
def test_classifier_guidance_at_scale_one_is_the_conditional_posterior_mean(schedule):
    for t in (0.05, 0.3, 0.6, 0.9, 0.99):
        x, t = noise((60, 2), 3).double(), torch.tensor(t)
        guided = by_gradient(ALL.denoise(schedule), log_first(schedule), schedule, 1.0)(x, t)
        torch.testing.assert_close(guided, SOME.denoise(schedule)(x, t), rtol=1e-7, atol=1e-7)


def test_classifier_guidance_equals_classifier_free_at_every_scale():
    x, t = noise((60, 2), 4).double(), torch.tensor(0.5)
    for scale in (0.0, 0.5, 3.0):
        by_class = by_gradient(ALL.denoise(rectified), log_first(rectified), rectified, scale)(x, t)
        free = cfg(SOME.denoise(rectified), ALL.denoise(rectified), scale)(x, t)
        torch.testing.assert_close(by_class, free, rtol=1e-7, atol=1e-7)


def test_a_gradient_is_taken_row_by_row_and_within_no_grad():
    t = torch.linspace(0.1, 0.9, 8)
    x = noise((8, 2), 5).double()
    with torch.no_grad():
        bent = by_gradient(lambda x, t: 0 * x, lambda x, t: -x.square().sum(1), rectified, 2.0)(x, t)
    torch.testing.assert_close(bent, -4 * (t**2 / (1 - t)).double()[:, None] * x)
    assert not bent.requires_grad


def test_what_a_gradient_cannot_do_is_said():
    x = noise((3, 2), 0).double()
    with pytest.raises(ValueError, match="alpha = 0"):
        by_gradient(ALL.denoise(rectified), log_first(rectified), rectified, 1.0)(x, torch.tensor(1.0))
    with pytest.raises(ValueError, match="one number a row"):
        by_gradient(ALL.denoise(rectified), lambda x, t: x.sum(), rectified, 1.0)(x, torch.tensor(0.5))


# --- when, and how loud -----------------------------------------------------------------------------------------------


def test_an_interval_guides_inside_and_pays_nothing_outside():
    x = noise((5, 2), 0).double()
    def one(x, t):
        return torch.ones_like(x)
    def two(x, t):
        return 2 * torch.ones_like(x)
    inside, outside = torch.tensor(0.5), torch.tensor(0.8)
    assert (interval(one, refuse, 0.4, 0.7)(x, inside) == 1).all()
    assert (interval(refuse, two, 0.4, 0.7)(x, outside) == 2).all()
    rows = interval(one, two, 0.4, 0.7)(x, torch.tensor([0.1, 0.4, 0.5, 0.7, 0.9]))
    assert rows[:, 0].tolist() == [2, 1, 1, 1, 2]


def test_rescaling_gives_back_the_spread_of_the_unguided_guess():
    x, t = noise((40, 16), 1).double(), torch.tensor(0.4)
    def quiet(x, t):
        return 0.5 * x
    def loud(x, t):
        return 3 * x.flip(1)
    for share, spread in ((0.0, 3.0), (1.0, 0.5), (0.7, 3 * (0.3 + 0.7 * 0.5 / 3))):
        mended = rescale(loud, quiet, share)(x, t)
        torch.testing.assert_close(mended.std(1), spread * x.std(1))
        torch.testing.assert_close(mended / x.flip(1), torch.full_like(x, spread))


# --- painting only a part ---------------------------------------------------------------------------------------------

LEFT = torch.tensor([False, True])                                  # the first number is known, the second is painted


def test_the_known_part_carries_one_and_the_same_noise_under_ddim():
    known, eps = torch.tensor([[0.7, 0.0]]).expand(30, 2).double(), noise((30, 2), 2).double()
    path = times(20)
    alpha, sigma = trigonometric(path[0])
    x = alpha * known + sigma * eps
    walk = sample_path(inpaint(ALL.denoise(trigonometric), known, LEFT), x, path, trigonometric)
    for k, (at, _) in enumerate(walk):
        alpha, sigma = trigonometric(path[k + 1])
        torch.testing.assert_close(at[:, 0], alpha * known[:, 0] + sigma * eps[:, 0])
    torch.testing.assert_close(at[:, 0], known[:, 0], rtol=0, atol=1e-12)


def test_the_known_part_is_noised_data_under_the_ancestral_step():
    n, path = 20_000, times(10)
    known = torch.tensor([[0.7, 0.0]]).expand(n, 2).double()
    x = noise((n, 2), 3).double()
    step = partial(ancestral_step, randn_like=lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype))
    generator = torch.Generator().manual_seed(0)
    denoise = inpaint(ALL.denoise(trigonometric), known, LEFT)
    for k, (at, _) in enumerate(sample_path(denoise, x, path[:-1], trigonometric, step=step)):
        alpha, sigma = (float(v) for v in trigonometric(path[k + 1]))
        assert abs(float(at[:, 0].mean()) - alpha * 0.7) < 5 * sigma / n**0.5
        assert abs(float(at[:, 0].std()) / sigma - 1) < 5 / (2 * n) ** 0.5


def test_a_mask_is_true_or_false():
    with pytest.raises(TypeError, match="True where to paint"):
        inpaint(refuse, torch.zeros(1, 2), torch.ones(2))


def test_walking_back_and_forth():
    path = times(4)
    assert back_and_forth(path, 2, 1).tolist() == path.tolist()
    assert back_and_forth(path, 2, 2).tolist() == [1, 0.75, 0.5, 1, 0.75, 0.5, 0.25, 0, 0.5, 0.25, 0]
    assert back_and_forth(path, 3, 2).tolist() == [1, 0.75, 0.5, 0.25, 1, 0.75, 0.5, 0.25, 0, 0.25, 0]
    for wrong in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="1 repeat or more"):
            back_and_forth(path, *wrong)


def test_without_rising_times_repainting_is_sampling():
    x, path = noise((20, 2), 5).double(), times(12)
    step = partial(ancestral_step, randn_like=noise_like(1))
    again = partial(ancestral_step, randn_like=noise_like(1))
    ours = last(repaint_path(ALL.denoise(rectified), x, path, rectified, step=step))
    assert torch.equal(ours, sample(ALL.denoise(rectified), x, path, rectified, step=again))


def test_where_times_rise_the_marginal_is_that_of_more_noise():
    """Exact posterior means, many steps: after walking down, up and down again the samples are those of the data."""
    n, path = 4000, times(60)
    generator = torch.Generator().manual_seed(1)
    def fresh(x):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)
    x = noise((n, 2), 6).double()
    path = back_and_forth(path, 20, 2)
    walk = repaint_path(ALL.denoise(trigonometric), x, path, trigonometric, randn_like=fresh)
    for (at, _), t in zip(walk, path[1:], strict=True):
        alpha, sigma = trigonometric(t)
        truth = ALL.noised(alpha, sigma)
        mean = (truth.weights[:, None] * truth.means).sum(0)
        second = (truth.weights[:, None] * (truth.means**2 + truth.std[:, None] ** 2)).sum(0)
        assert (at.mean(0) - mean).abs().max() < 0.07 and (at.square().mean(0) / second - 1).abs().max() < 0.1


def test_resampling_brings_the_unknown_closer_to_its_conditional():
    """Two numbers that agree; one is known. Replacement alone ignores the tie early on, walking back mends it."""
    twins = Mixture([0.5, 0.5], [[-1.0, -1.0], [1.0, 1.0]], [0.1, 0.1])
    known = torch.tensor([[1.0, 0.0]]).expand(3000, 2).double()
    step = partial(ancestral_step, randn_like=noise_like(2))
    denoise = inpaint(twins.denoise(trigonometric), known, LEFT)
    shares = []
    for repeats in (1, 6):
        path = back_and_forth(times(12), 2, repeats)
        x = last(repaint_path(denoise, noise((3000, 2), 7).double(), path, trigonometric, step=step,
                              randn_like=noise_like(8)))
        shares.append(float((x[:, 1] > 0).double().mean()))
    assert shares[0] < 0.97 and shares[1] > shares[0] + 0.01, shares


def test_all_of_it_composes():
    """CFG, inpainting, an interval and a clamp together: each keeps its promise."""
    x, path = noise((200, 2), 9).double(), times(15)
    known = torch.tensor([[-0.4, 0.0]], dtype=torch.float64).expand(200, 2)
    free = cfg(SOME.denoise(trigonometric), ALL.denoise(trigonometric), 4.0)
    guided = interval(free, ALL.denoise(trigonometric), 0.2, 0.8)
    denoise = clamp(inpaint(guided, known, LEFT), -1.0, 0.8)
    for _, x0 in repaint_path(denoise, x, back_and_forth(path, 5, 2), trigonometric, randn_like=noise_like(3)):
        assert (x0[:, 0] == -0.4).all() and x0.min() >= -1 and x0.max() <= 0.8
    swapped = inpaint(clamp(guided, -1.0, 0.8), known, LEFT)
    torch.testing.assert_close(denoise(x, path[5]), swapped(x, path[5]))
