"""The recipes of chapter 5: odd targets against the chain itself, networks that lack what they should, rows, files."""
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from minidiff import weights
from minidiff.data import rng
from minidiff.denoiser import Denoiser
from minidiff.gan import Discriminator, DiscriminatorConfig
from minidiff.layers import Attention, ResidualBlock
from minidiff.likelihood import bound
from minidiff.mixture import of_world
from minidiff.recipes import denoisers, denoising, diffusion
from minidiff.recipes.denoisers import LastNoise, Previous
from minidiff.recipes.gans import singles
from minidiff.samplers import sample
from minidiff.scenes import full, render
from minidiff.schedules import DiscreteSchedule, add_noise, times
from minidiff.train import seeded
from minidiff.unet import Block, UNet, UNetConfig
from minidiff.variances import fixed, large

TABLE = DiscreteSchedule.linear(1000)
TINY = UNetConfig(3, 16, (8, 8), d_time=8, d_text=0, heads=2, attend=(False, True))


class Answer(nn.Module):
    """A net that is a given function of (x, t)."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, t, cond=None):
        return self.function(x, t)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=rng("recipes", seed), dtype=torch.float64)


def chain(k, n, width=.5):
    """x0 ~ N(0, width^2), and x_{k-1}, eps_k, x_k of its chain, the last step taken for itself."""
    x0, (alpha, sigma) = width * normal(n, 1), TABLE(torch.tensor((k - 1) / 1000))
    before, eps, beta = alpha * x0 + sigma * normal(n, 1, seed=1), normal(n, 1, seed=2), 1 - (
        TABLE.alpha_bar[k] / TABLE.alpha_bar[k - 1])
    return x0, before, eps, (1 - beta).sqrt() * before + beta.sqrt() * eps


def slope(y, x):
    """The regression of y on x through 0."""
    return float((y * x).mean() / x.square().mean())


# --- targets ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, which", [(Previous, 1), (LastNoise, 2)])
@pytest.mark.parametrize("k", [1, 300, 900])
def test_what_is_asked_is_what_the_chain_has(kind, which, k):
    """In mean and spread, alone and together with x0 and x_k: all second moments of the three."""
    n, t = 200_000, torch.tensor(k / 1000).double()
    x0, *_, x = drawn = chain(k, n)
    model, eps = kind(Answer(None), TABLE, "eps"), normal(n, 1, seed=3)
    torch.manual_seed(0)
    asked = model.asked(x0, t, eps)
    found, wanted = (torch.cat(c, 1) for c in ((x0, asked, add_noise(TABLE, x0, t, eps)), (x0, drawn[which], x)))
    assert (found.T @ found / n - wanted.T @ wanted / n).abs().max() < .012


@pytest.mark.parametrize("kind, which", [(Previous, 1), (LastNoise, 2)])
@pytest.mark.parametrize("k", [2, 300, 900])
def test_the_best_answer_gives_the_posterior_mean(kind, which, k):
    """For Gaussian data all regressions are lines, whose slopes the covariances of the chain give."""
    width, beta = .5, 1 - float(TABLE.alpha_bar[k] / TABLE.alpha_bar[k - 1])
    before = float(TABLE.alpha_bar[k - 1]) * width ** 2 + 1 - float(TABLE.alpha_bar[k - 1])
    total = (1 - beta) * before + beta
    best = {1: (1 - beta) ** .5 * before / total, 2: beta ** .5 / total}[which]
    x, t = normal(5, 1), torch.tensor(k / 1000).double()
    found = kind(Answer(lambda x, t: best * x), TABLE, "eps")(x, t)
    torch.testing.assert_close(found, float(TABLE.alpha_bar[k]) ** .5 * width ** 2 / total * x, rtol=1e-5, atol=1e-8)
    assert abs(slope(chain(k, 200_000)[which], chain(k, 200_000)[3]) - best) < .01


def test_the_weights_of_eps():
    """For a net with target eps the two losses are one; for any target they are the error of the noise it implies."""
    x0 = singles(8)(0)
    for target in ("eps", "v"):
        model = Denoiser(Answer(lambda x, t: torch.sin(3 * x)), TABLE, target)
        torch.manual_seed(0)
        found = denoisers.in_eps(model, x0)["loss"]
        torch.manual_seed(0)
        t, eps = denoisers.drawn_times(8), torch.randn_like(x0)
        x = add_noise(TABLE, x0, t, eps)
        alpha, sigma = (c.float().reshape(-1, 1, 1, 1) for c in TABLE(t))
        noise = torch.sin(3 * x) if target == "eps" else alpha * torch.sin(3 * x) + sigma * x
        torch.testing.assert_close(found, (noise - eps).square().mean(), rtol=1e-3, atol=1e-5)


def test_the_full_loss_is_the_bound_a_number():
    table = DiscreteSchedule.cosine(1000)
    model, x0 = Denoiser(Answer(lambda x, t: x / 2), table, "v"), normal(1, 3).expand(3000, 3)
    with torch.no_grad():
        terms = bound(fixed(model, table, large), x0[:30], times(1000, 1000), table)
        torch.manual_seed(0)
        found = torch.stack([denoisers.full(model, x0)["loss"] for _ in range(20)])
    wanted = (terms.total - terms.prior) / 3
    error = (found.var() / 20 + wanted.var() / 30).sqrt()
    assert abs(float(found.mean() - wanted.mean())) < 3 * error < .2 * wanted.mean()


# --- networks ---------------------------------------------------------------------------------------------------------

@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small networks."""
    monkeypatch.setattr(denoisers, "NET", TINY)


def awake(build):
    """A network whose zero layers have been given weights."""
    with seeded("awake"):
        net = build()
        for p in net.parameters():
            if p.ndim > 1 and not p.any():
                nn.init.normal_(p, std=.1)
    return net.eval()


def test_who_hears_the_step():
    x, early, late = singles(2)(0), torch.tensor([.2, .9]), torch.tensor([.3, .5])
    for build, hears in ((lambda: UNet(TINY), True), (lambda: denoisers.Deaf(UNet(TINY)), False),
                         (denoisers.Once, True)):
        net = awake(build)
        assert net(x, early).shape == x.shape
        assert torch.allclose(net(x, early), net(x, late), atol=1e-6) != hears
    once = awake(denoisers.Once)
    assert not any(block.cond for block in once.modules() if isinstance(block, ResidualBlock))
    assert {name.partition(".")[0] for name, _ in once.named_parameters()} == {"net", "time"}


def test_cut_skips_bring_nothing_up():
    """What the first block of the way down hands on reaches the answer through the lower level alone."""
    x, t, seen = singles(2)(0), torch.tensor([.2, .9]), []
    for build in (lambda: UNet(TINY), denoisers.without_skips):
        net = awake(build)
        top = [part for part in net.up if isinstance(part, Block)][-1]
        other = torch.cat([torch.zeros(2, 8, 16, 16), normal(2, 8, 16, 16).float()], 1)
        handle = top.register_forward_pre_hook(lambda m, i, other=other: (i[0] + other, *i[1:]))
        changed = net(x, t)
        handle.remove()
        seen.append(bool(torch.allclose(changed, net(x, t), atol=1e-6)))
    assert seen == [False, True]


def test_without_attention_there_is_none():
    net = awake(denoisers.without_attention)
    assert not any(isinstance(m, Attention) for m in net.modules())
    assert net(singles(2)(0), torch.rand(2)).shape == (2, 3, 16, 16)


def test_every_network_of_the_comparison_is_of_bench_size():
    """But for the transformer, which is to have as many multiply-adds as the U-Net."""
    denoisers.NET = UNetConfig(3, 16, (32, 32), d_time=64, d_text=0, attend=(False, True))
    costs = {name: denoising.cost(arm.net()) for name, arm in denoising.ARMS.items()}
    assert all(cost["parameters"] <= 300_000 for name, cost in costs.items() if name != "DiT")
    assert costs["DiT"]["multiply-adds (M)"] == pytest.approx(costs["v"]["multiply-adds (M)"], rel=.1)
    assert 2 * costs["half as wide"]["parameters"] < costs["one head"]["parameters"] == costs["v"]["parameters"]


# --- a discriminator behind few steps ---------------------------------------------------------------------------------

def test_what_d_sees_is_a_step_of_the_chain():
    """x_t at its noise level; x_s too, given the picture; clean where s is 0."""
    model, x0 = Denoiser(Answer(None), denoising.COSINE, "x0"), singles(1)(0).expand(2000, -1, -1, -1)
    torch.manual_seed(0)
    x, t = denoisers.one_of_few(model, x0)
    assert set((4 * t).tolist()) == {1., 2., 3., 4.}
    triple = denoisers.stepped(model, x, x0, t)
    assert triple[:, 3:6].equal(x) and (triple[:, 6] == t.float()[:, None, None]).all()
    for k in (1, 2, 3, 4):
        rows = 4 * t == k
        alpha, sigma = (float(c) for c in model.schedule(torch.tensor((k - 1) / 4)))
        left = triple[rows, :3] - alpha * x0[rows]
        assert float(left.std()) == pytest.approx(sigma, abs=.005) and abs(float(left.mean())) < .01


def test_each_player_learns_from_its_own_loss():
    with seeded("players"):
        g = Denoiser(denoisers.Dreaming(), denoising.COSINE, "x0")
        d = Discriminator(DiscriminatorConfig((7, 16, 16), (8, 16)))
    loss, x0 = denoisers.behind_few_steps(g, d, .5), singles(4)(0)
    said = loss["g"](x0)
    torch.testing.assert_close(said["loss"], said["error"] + .5 * said["fooled"])
    said["loss"].backward()
    assert any(p.grad is not None and p.grad.any() for p in g.parameters())
    g.zero_grad(), d.zero_grad()
    loss["d"](x0)["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in g.parameters())
    assert any(p.grad is not None and p.grad.any() for p in d.parameters())


def test_the_dream_is_a_draw():
    net, x, t = awake(denoisers.Dreaming), singles(2)(0), torch.tensor([.5, .5])
    assert not torch.allclose(net(x, t), net(x, t), atol=1e-4)


# --- what is measured -------------------------------------------------------------------------------------------------

def test_of_the_truth_itself_the_distance_is_nought():
    world, seen = of_world("single", .1, size=16), []

    def truth(x, first):
        seen.append((len(x), first))
        return world.log_prob(x)
    found = diffusion.nats(truth, 300, 0)
    assert abs(found["KL"]) < .01 and seen == [(250, 0), (50, 250)]
    assert diffusion.nats(lambda x, first: truth(x, first) - 3, 20, 0)["KL"] == pytest.approx(3, abs=.01)


def test_true_draws_are_legal_and_as_far_away_as_their_noise():
    found = denoising.shown(singles(200, 5, std=.1)(0))
    assert found["legal"] >= found["in the world"] >= 197 and found["of"] == 200
    assert found["away"] == pytest.approx(.1, abs=.002)
    assert denoising.shown(torch.zeros(3, 3, 16, 16))["legal"] == 0
    two = denoising.shown(render(full(20, rng("two"), "two"), 16))
    assert two["legal"] > 15 and two["in the world"] == 0


def test_a_wrong_time_is_told_to_the_net_alone(monkeypatch):
    heard = []
    model = Denoiser(Answer(lambda x, t: heard.append(float(t[0])) or torch.zeros_like(x)), denoising.COSINE, "v")
    monkeypatch.setattr(denoising, "shown", lambda x: {"x": x})
    right, wrong = (denoising.by_ddim(model, 2, 0, 4, told=told)["x"]
                    for told in (denoising.TOLD["t"], lambda t: t / 2))
    assert heard == [1., .75, .5, .25, .5, .375, .25, .125] and right.equal(wrong)

    def inside(x, t):
        return model(x, t).clamp(-1.5, 1.5)
    assert right.equal(sample(inside, denoising.start(2, 0), times(4, 1000), denoising.COSINE))


def test_plain_subtraction_takes_away_what_came_in():
    """With the true x0 and its true noise: sqrt(var) times the mean of the noise that came in, given all of it."""
    x0, eps = normal(3, 2), normal(3, 2, seed=1)
    at, to = (TABLE(torch.tensor(t)) for t in (.5, .4))
    x = at[0] * x0 + at[1] * eps
    var = 1 - (at[0] / to[0]) ** 2                             # of N(sqrt(1 - var) x_s, var), the paper's beta
    torch.testing.assert_close(denoising.subtract(x, x0, at, to), x - var.sqrt() * (var.sqrt() / at[1] * eps))


def test_guesses_stay_where_pictures_are():
    reverse = denoising.kept_in(lambda x, t, s: (9 * x, t))
    x0, var = reverse(torch.tensor([[-1., .1]]), torch.tensor(.5), torch.tensor(.4))
    assert x0.allclose(torch.tensor([[-1.5, .9]])) and var == .5


# --- recipes ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, recipe", [("ddpm", diffusion.ddpm), ("ddpm-single", diffusion.ddpm_single)])
def test_a_recipe_writes_what_it_measured(tmp_path, monkeypatch, name, recipe):
    monkeypatch.setattr(diffusion, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(diffusion, "FULL", replace(diffusion.FULL, net=replace(TINY, side=32), T=60))
    monkeypatch.setattr(diffusion, "SINGLE", replace(diffusion.SINGLE, net=TINY, T=60))
    monkeypatch.setattr(diffusion, "STEPS", 5)
    recipe(tmp_path, steps=2, n=4, **({"more": 3} if name == "ddpm" else {}))
    told, model = weights.describe(tmp_path / f"{name}.safetensors"), weights.load(tmp_path / f"{name}.safetensors")
    assert told["recipe"] == f"diffusion.{name.replace('-', '_')}" and told["steps"] == (3 if name == "ddpm" else 2)
    found = told["quality"]
    if name == "ddpm":
        assert told["first stage"]["steps"] == 2
        assert found["legal"].endswith("of 20") and set(found["legal in fewer steps"]) == {"5", "10", "20"}
    else:
        assert found["bound"]["KL"] > found["ODE"]["KL"] > 0 and found["n"] == 160
        assert diffusion.distance(model, 4)["bound"] == found["bound"]


def test_the_second_stage_begins_where_the_first_ended(tmp_path, monkeypatch):
    """A first stage of the same length is taken up, one of another length is made again."""
    monkeypatch.setattr(diffusion, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(diffusion, "FULL", replace(diffusion.FULL, net=replace(TINY, side=32), T=60))
    monkeypatch.setattr(diffusion, "painted", lambda model, n: {})
    stages = []

    def stage(model, name, **settings):
        stages.append((name, settings["steps"], {key: p.clone() for key, p in model.named_parameters()}))
        return was(model, name, **settings)
    was = diffusion.stage
    monkeypatch.setattr(diffusion, "stage", stage)
    for steps, more in ((2, 1), (2, 3), (4, 1)):
        (tmp_path / "runs" / "ddpm-2.safetensors").unlink(missing_ok=True)
        (tmp_path / "runs" / "ddpm-1.safetensors").unlink(missing_ok=True)
        diffusion.ddpm(tmp_path, steps=steps, more=more, n=1)
    assert [stage[:2] for stage in stages] == [("ddpm-1", 2), ("ddpm-2", 1), ("ddpm-2", 3), ("ddpm-1", 4),
                                               ("ddpm-2", 1)]
    first = weights.load(tmp_path / "runs" / "first" / "ddpm.safetensors")
    assert all(p.equal(stages[-1][2][name]) for name, p in first.named_parameters())


def test_times_in_the_middle_are_those_of_the_table():
    torch.manual_seed(0)
    t = diffusion.middle(20_000, 50)
    k = (t * 50).round()
    torch.testing.assert_close(t, k / 50)
    assert k.min() == 1 and k.max() == 50 and .35 < float(((t > .4) & (t < .7)).float().mean()) < .5
    inside = torch.special.ndtr((torch.logit(torch.tensor([.4, .7])) - .3) / 1.2).diff()        # before rounding up
    assert abs(float(((t > .4) & (t <= .7)).float().mean() - inside)) < .02


def test_samplers_walk_from_the_same_noise(tmp_path, monkeypatch):
    """A row for every sampler, number of calls and seed; each is the sampler of its name."""
    monkeypatch.setattr(diffusion, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(diffusion, "FULL", replace(diffusion.FULL, net=replace(TINY, side=32), T=60))
    monkeypatch.setattr(diffusion, "painted", lambda model, n: {})
    diffusion.ddpm(tmp_path, steps=1, more=1, n=1)
    diffusion.samplers(tmp_path, n=2, seeds=2, counts=(4,), long=(6,))
    rows = json.loads((tmp_path / "samplers.json").read_text())["rows"]
    assert [(r["sampler"], r["calls"], r["seed"]) for r in rows] == [
        (name, 4, seed) for name in ("ddim", "ancestral", "heun", "dpmpp") for seed in (0, 1)] + [
        ("ddim", 6, 0), ("ancestral", 6, 0)]
    model = weights.load(tmp_path / "ddpm.safetensors")
    x = diffusion.by("ddim", model, 2, seed=5, steps=4)
    assert x.allclose(model.sample(2, seed=5, steps=4), atol=1e-5)
    assert not x.allclose(diffusion.by("heun", model, 2, seed=5, steps=4))


def test_the_shipped_sizes_fit_a_file():
    for config in (diffusion.FULL, diffusion.SINGLE):
        assert sum(p.numel() for p in diffusion.DDPM(config).parameters()) <= 490_000


def test_the_comparison_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(denoising, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(denoising, "ARMS", {name: denoising.ARMS[name] for name in ("v", "x_{t-1}, weights of eps")})
    monkeypatch.setattr(denoising, "few", lambda *_: 1 / 0)
    monkeypatch.setattr(denoising, "truth", lambda *_: {"legal": 0})
    with pytest.raises(ZeroDivisionError):
        denoising.compared(tmp_path, seeds=1, steps=1, n=2)
    monkeypatch.setattr(denoising, "rows", lambda *_: 1 / 0)
    monkeypatch.setattr(denoising, "few", lambda adversary, *_: {"scenes": int(adversary)})
    denoising.compared(tmp_path, seeds=1, steps=1, n=2)
    rows = json.loads((tmp_path / "diffusion.json").read_text())["rows"]
    assert [(row["model"], row.get("variant")) for row in rows] == [
        ("exact", None), ("v", None), ("v", "told 0.8 t"), ("v", "told 1 - t"), ("x_{t-1}, weights of eps", None),
        ("few steps", None), ("few steps+GAN", None)]
    assert all(row["bound"]["KL"] > 0 for row in rows if "bound" in row) and rows[-1]["scenes"] == 1


def test_the_ceiling_of_the_bench_is_made_again():
    """The best denoiser's row of the first seed, from nothing: no network, so it is the same on every machine."""
    stored = next(row for row in json.loads((weights.TRAINED / "diffusion.json").read_text())["rows"]
                  if row["model"] == "exact" and row["seed"] == 0)
    found = denoising.truth(0, 40)
    for steps in ("10 steps", "50 steps"):
        assert found[steps]["legal"] == found[steps]["in the world"] == 40
        assert stored[steps]["legal"] == stored[steps]["of"] == 300
        assert found[steps]["away"] == pytest.approx(stored[steps]["away"], abs=.003)


@pytest.mark.parametrize("name", ["eps, hybrid", "eps", "few steps+GAN"])
def test_arms_run_to_their_end(monkeypatch, name):
    monkeypatch.setattr(denoisers, "T", 20)
    monkeypatch.setattr(denoisers, "FEW", times(4, 20))
    short = DiscreteSchedule.cosine(20)
    monkeypatch.setattr(denoising, "COSINE", short)
    monkeypatch.setattr(denoising, "ARMS", {key: replace(arm, schedule=short) for key, arm in denoising.ARMS.items()})
    monkeypatch.setattr(denoising, "CHAIN", 10)
    monkeypatch.setattr(denoising, "SHOWN", (5, 10))
    rows = denoising.made_rows(name, 0, 2, 8)
    variants = {"eps, hybrid": [None, "learned"], "eps": [None, "plain subtraction", "beta-tilde", "beta"],
                "few steps+GAN": [None]}
    assert [row.get("variant") for row in rows] == variants[name]
