import math

import torch
from exact import Mixture

from minidiff.data import noise
from minidiff.guidance import cfg, cfg_doubled, clamp
from minidiff.samplers import sample
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
