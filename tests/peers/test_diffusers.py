"""The same noise and the same model through Hugging Face's diffusers must give the same trajectories."""

from functools import partial

import pytest
import torch

from minidiff.samplers import ancestral_step, ddim_step, dpmpp_path, sample_path
from minidiff.schedules import DiscreteSchedule, times
from minidiff.variances import LearnedVariance, reverse_path

diffusers = pytest.importorskip("diffusers")

TABLES = {"linear": DiscreteSchedule.linear(), "squaredcos_cap_v2": DiscreteSchedule.cosine()}


def model(x, k):
    """Any smooth guess of the noise that depends on x and on the step k will do."""
    return torch.tanh(x.flip(-1) * (0.3 + k / 1500)) + 0.5 * x


def denoise(schedule):
    def x0_hat(x, t):
        alpha, sigma = schedule(t)
        return (x - sigma * model(x, round(t.item() * schedule.T))) / alpha

    return x0_hat


def theirs(name, kind, **settings):
    """A diffusers scheduler on our float64 table (its own is compared below), walking 1000, 980, ..., 20, 0."""
    scheduler = getattr(diffusers, kind)(beta_schedule=name, timestep_spacing="trailing", **settings)
    scheduler.alphas_cumprod = TABLES[name].alpha_bar[1:].clone()
    return scheduler


def follow(scheduler, x, n, **settings):
    scheduler.set_timesteps(n)
    for k in scheduler.timesteps:
        x = scheduler.step(model(x, int(k) + 1), k, x, **settings).prev_sample
        yield x


def compare(path, other, *, but_last=0):
    pairs = [(x, y) for (x, _), y in zip(path, other, strict=True)]
    assert len(pairs) > 10
    for x, y in pairs[: len(pairs) - but_last]:
        assert (x - y).norm() <= 1e-5 * y.norm()


def streams(seed):
    """Two copies of one random stream: ours as a `randn_like`, theirs as a generator."""
    mine, yours = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=mine, dtype=x.dtype), yours


X = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", TABLES)
def test_tables(name):
    table = diffusers.DDPMScheduler(beta_schedule=name).alphas_cumprod.double()
    torch.testing.assert_close(TABLES[name].alpha_bar[1:], table, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("large", [False, True])
def test_ddpm(name, large):
    schedule, (randn_like, generator) = TABLES[name], streams(1)
    scheduler = theirs(
        name, "DDPMScheduler", clip_sample=False, variance_type="fixed_large" if large else "fixed_small"
    )
    step = partial(ancestral_step, large=large, randn_like=randn_like)
    path = sample_path(denoise(schedule), X, times(50, 1000), schedule, step=step)
    # when steps are skipped, theirs draws the large noise into the finished picture too: leave that step out
    compare(path, follow(scheduler, X, 50, generator=generator), but_last=int(large))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(name, eta):
    schedule, (randn_like, generator) = TABLES[name], streams(2)
    scheduler = theirs(name, "DDIMScheduler", clip_sample=False)
    path = sample_path(
        denoise(schedule), X, times(50, 1000), schedule, step=partial(ddim_step, eta=eta, randn_like=randn_like)
    )
    compare(path, follow(scheduler, X, 50, eta=eta, generator=generator))


def test_learned_variance():
    """Both answers of one net, without skips: theirs takes the single step's beta whatever the skip."""
    schedule, (randn_like, generator) = DiscreteSchedule.linear(50), streams(3)

    def both(x, k):
        return torch.cat([torch.tanh(x.flip(-1) * (0.3 + k / 50)) + 0.5 * x, torch.sin(5 * x)], 1)

    net = torch.nn.Module()
    net.forward = lambda x, t, cond: both(x, torch.round(t * 50).reshape(-1, 1, 1, 1))
    ours = LearnedVariance(net, schedule, "eps")
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=50, variance_type="learned_range", clip_sample=False)
    scheduler.alphas_cumprod = schedule.alpha_bar[1:].clone()
    scheduler.betas = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    scheduler.alphas = 1 - scheduler.betas
    path, x, pairs = reverse_path(ours.reverse, X, times(50, 50), schedule, randn_like=randn_like), X, []
    for (mine, _), k in zip(path, reversed(range(50)), strict=True):
        x = scheduler.step(both(x, k + 1), k, x, generator=generator).prev_sample
        pairs.append((mine, x))
    assert max(float((a - b).norm() / b.norm()) for a, b in pairs) <= 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs, under NumPy 2
@pytest.mark.parametrize("name", TABLES)
def test_dpm_solver_plus_plus_2m(name):
    schedule = TABLES[name]
    scheduler = theirs(name, "DPMSolverMultistepScheduler", solver_order=2, final_sigmas_type="zero")
    compare(dpmpp_path(denoise(schedule), X, times(20, 1000), schedule), follow(scheduler, X, 20))
