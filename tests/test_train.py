"""The loop against its definition, and runs that are cut off anywhere against runs that are not."""
import dataclasses
import errno
import inspect
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from minidiff import train
from minidiff.data import rng

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_bar(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


class Net(nn.Module):
    """Small, with all that can go wrong on resuming: dropout, running statistics, a frozen and an unused parameter."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.2)
        self.last = nn.Linear(8, 1)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.last(self.drop(self.norm(self.first(x)).tanh()))


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Net()


def batches(k: int):
    x = torch.randn(16, 2, generator=rng(5, k))
    return x, x.prod(1, keepdim=True)


def noisy(model):
    def loss(batch):
        x, y = batch
        error = (model(x + 0.1 * torch.randn_like(x)) - y).square()
        return {"loss": error.mean(), "worst": error.max()}
    return loss


def everything(run: train.Training) -> dict:
    """All that the future of a run depends on."""
    tensors = {f"m.{k}": v for k, v in run.model.state_dict().items()}
    tensors |= {f"e.{k}": v for k, v in (run.averaged.state_dict().items() if run.averaged else ())}
    for name, p in run.parameters.items():
        tensors |= {f"o.{name}.{k}": v for k, v in run.optimizer.state[p].items()}
    return {k: v.clone() for k, v in tensors.items()}


def assert_equal(a: dict, b: dict):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def scalars(run: train.Training) -> list:
    return [(log.step, log.losses, log.lr, log.grad_norm) for log in run.logs]


def start(path=None, **changes) -> train.Training:
    model = net(changes.pop("init", 0))
    loss = changes.pop("loss", noisy)(model)
    settings = {"steps": 12, "ema": 0.9, "warmup": 3, "seed": 4} | changes
    return train.Training(model, loss, batches, checkpoint=path, **settings)


@pytest.fixture(scope="module")
def unbroken() -> train.Training:
    run = start()
    list(run)
    return run


# ---- one step against its definition


def test_each_step_is_adamw_on_the_clipped_gradient_written_out():
    """Loshchilov & Hutter's Algorithm 2 in float64, scalar by scalar, with the loss's gradient in closed form."""
    model = nn.Linear(2, 1, bias=False).double()
    w = model.weight.detach()[0].numpy().copy()
    start_w = w.copy()
    x, y = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]]), np.array([10.0, -20.0, 5.0])
    lr, b1, b2, decay, clip, steps, warmup, ema = 0.05, 0.8, 0.95, 0.1, 1.5, 40, 8, 0.7
    logs = train.Training(model, lambda b: {"loss": (model(b[0])[:, 0] - b[1]).square().mean()},
                          lambda k: (torch.tensor(x), torch.tensor(y)), steps=steps, lr=lr, warmup=warmup,
                          weight_decay=decay, grad_clip=clip, betas=(b1, b2), ema=ema)
    m, v, mean, clipped = np.zeros(2), np.zeros(2), start_w, 0
    for k, log in enumerate(logs):
        residual = x @ w - y
        g = 2 * x.T @ residual / 3
        norm = math.sqrt(sum(g ** 2))
        assert log.losses["loss"] == pytest.approx((residual ** 2).mean()) and log.grad_norm == pytest.approx(norm)
        if norm > clip:
            g, clipped = g * clip / norm, clipped + 1
        rate = lr * 0.5 * (1 + math.cos(math.pi * k / steps)) * (1 if k >= warmup else (k + 1) / warmup)
        assert log.lr == pytest.approx(rate) and log.step == k
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        w = w - rate * (m / (1 - b1 ** (k + 1)) / (np.sqrt(v / (1 - b2 ** (k + 1))) + 1e-8) + decay * w)
        d = min(ema, (1 + k) / (10 + k))
        mean = d * mean + (1 - d) * w
        np.testing.assert_allclose(model.weight.detach()[0].numpy(), w, rtol=2e-5)
        np.testing.assert_allclose(logs.averaged.weight.detach()[0].numpy(), mean, rtol=2e-5)
    assert 5 < clipped <= steps and (1 + k) / (10 + k) > ema  # both branches were taken


def test_constant_schedule_and_no_warmup():
    run = start(lr_schedule=train.constant, warmup=0, lr=0.01)
    assert {log.lr for log in run} == {0.01}


def test_the_learning_rate_ends_near_zero_and_never_leaves_its_range():
    run = start(steps=1000, lr=2.0, warmup=100)
    rates = np.array([run.lr_at(k) for k in range(1000)])
    assert rates.argmax() == 99 and rates.max() < 2 and 0 < rates[-1] < 1e-4 * 2
    assert rates[500] == pytest.approx(1.0) and np.all(np.diff(rates[100:]) < 0)


def test_modes_frozen_parameters_and_the_raw_and_averaged_models():
    model, modes = net(), []

    def loss(batch):
        modes.append(model.training)
        return noisy(model)(batch)
    run = train.Training(model, loss, batches, steps=3, ema=0.99)
    for _ in run:
        assert not model.training
    history = train.fit(model, loss, batches, steps=5, ema=0.99)
    assert all(modes) and len(modes) == 8
    assert not model.training and not history.ema.training and history.ema is not model
    assert torch.equal(model.frozen, torch.ones(3)) and torch.equal(model.unused, torch.ones(2))
    assert not any(p.requires_grad for p in history.ema.parameters()) and model.last.weight.requires_grad
    assert not torch.equal(model.last.weight, history.ema.last.weight)
    assert torch.equal(model.norm.running_var, history.ema.norm.running_var)
    assert all(p.grad is None for p in model.parameters())
    assert train.fit(model, loss, batches, steps=1).ema is None


def test_history_and_its_smooth():
    model = net()
    history = train.fit(model, noisy(model), batches, steps=30)
    assert list(history.steps) == list(range(30)) and history.losses.keys() == {"loss", "worst"}
    assert np.all(np.diff(history.minutes) > 0) and history.minutes[-1] < 1
    worst = history.losses["worst"]
    for window in 1, 7, 30, 100:
        by_hand = [worst[max(0, i - window + 1):i + 1].mean() for i in range(30)]
        np.testing.assert_allclose(history.smooth("worst", window), by_hand, rtol=1e-9)


# ---- randomness


def test_noise_depends_on_seed_and_step_only_and_leaves_the_world_alone(unbroken):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    other = start()
    for _ in other:
        assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1234)
    third = start()
    list(third)
    assert_equal(everything(other), everything(unbroken))
    assert_equal(everything(third), everything(unbroken))
    fourth = start(seed=5)
    list(fourth)
    assert scalars(fourth) != scalars(unbroken)


def test_steps_and_roles_draw_unrelated_numbers():
    drawn = []

    def loss(batch):
        drawn.append((batch.item(), torch.randn(()).item()))
        return {"loss": model(torch.ones(1)).sum()}
    model = nn.Linear(1, 1)
    train.fit(model, loss, lambda k: torch.randn(()), steps=20)
    assert len({x for pair in drawn for x in pair}) == 40


# ---- going on after an interruption


@pytest.mark.parametrize("stop", [1, 2, 5, 11, 12])
def test_a_closed_generator_goes_on_bit_for_bit(tmp_path, unbroken, stop):
    path = tmp_path / "run.ckpt"
    logs = iter(start(path))
    for _ in range(stop):
        next(logs)
    logs.close()
    second = start(path, init=7)  # other first weights: the checkpoint decides
    assert len(second.logs) == stop
    list(second)
    assert_equal(everything(second), everything(unbroken))
    assert scalars(second) == scalars(unbroken)
    assert list(second.history().steps) == list(range(12)) and np.all(np.diff(second.history().minutes) > 0)
    assert os.listdir(tmp_path) == ["run.ckpt"]


def test_many_interruptions_and_a_run_that_is_already_done(tmp_path, unbroken):
    path = str(tmp_path / "run.ckpt")
    for _ in range(5):
        logs = iter(start(path))
        next(logs), next(logs)
        logs.close()
    run = start(path)
    list(run)
    assert_equal(everything(run), everything(unbroken))
    done = start(path)
    assert list(done) == []
    assert_equal(everything(done), everything(unbroken))


@pytest.mark.parametrize("stop", [0, 1, 6, 11])
def test_ctrl_c_inside_the_loss(tmp_path, unbroken, stop):
    path, calls = tmp_path / "run.ckpt", []

    def interrupted(model):
        def loss(batch):
            losses = noisy(model)(batch)  # the running statistics have moved already
            calls.append(1)
            if len(calls) == stop + 1:
                raise KeyboardInterrupt
            return losses
        return loss
    model = net()
    with pytest.raises(KeyboardInterrupt, match=f"stopped after {stop} of 12 steps: make the same call again to go on"):
        train.fit(model, interrupted(model), batches, steps=12, ema=0.9, warmup=3, seed=4, checkpoint=path)
    assert not model.training
    run = start(path)
    assert len(run.logs) == stop
    list(run)
    assert_equal(everything(run), everything(unbroken))
    assert scalars(run) == scalars(unbroken)


def test_ctrl_c_in_the_middle_of_an_update_waits_for_its_end(tmp_path, unbroken, monkeypatch):
    path, run = tmp_path / "run.ckpt", start(tmp_path / "run.ckpt")
    usual = run.optimizer.step

    def step():
        if len(run.logs) == 4:
            signal.raise_signal(signal.SIGINT)
        usual()
    monkeypatch.setattr(run.optimizer, "step", step)
    with pytest.raises(KeyboardInterrupt, match="stopped after 5 of 12"):
        list(run)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run = start(path)
    list(run)
    assert_equal(everything(run), everything(unbroken))


def test_ctrl_c_without_a_checkpoint_says_what_would_have_helped():
    def loss(batch):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match="stopped after 0 of 3 steps: with a checkpoint path it could go on"):
        train.fit(net(), loss, batches, steps=3)


def test_training_outside_the_main_thread(unbroken):
    run = start()
    thread = threading.Thread(target=lambda: list(run))
    thread.start()
    thread.join()
    assert_equal(everything(run), everything(unbroken))


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
import test_train
run = test_train.start({path!r}, steps=400, checkpoint_every=7)
print(len(run.logs), flush=True)
for log in run:
    print(log.step, flush=True)
    time.sleep(0.002)
"""


def test_a_killed_process_goes_on_from_its_last_checkpoint(tmp_path):
    path = tmp_path / "run.ckpt"
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    for kill_at in 10, 25:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment())
        with process:
            begun = int(process.stdout.readline())
            for line in process.stdout:
                if int(line) >= kill_at:
                    os.kill(process.pid, signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL and begun % 7 == 0 and (begun > 0) == (kill_at == 25)
    run, whole = start(path, steps=400, checkpoint_every=7), start(steps=400)
    assert len(run.logs) >= 21 and len(run.logs) % 7 == 0
    list(run), list(whole)
    assert_equal(everything(run), everything(whole))
    assert scalars(run) == scalars(whole)


def environment(**more) -> dict:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"} | more


@pytest.mark.parametrize("change, sentence", [
    ({"lr": 2e-3}, "lr is 0.001 there, 0.002 here"), ({"seed": 0}, "seed is 4 there, 0 here"), ({"steps": 13}, "steps"),
    ({"ema": None}, "ema is 0.9 there, None here"), ({"lr_schedule": train.constant}, "lr_schedule is"),
    ({"grad_clip": 2.0}, "grad_clip"), ({"warmup": 4}, "warmup"), ({"betas": (0.9, 0.999)}, "betas"),
    ({"weight_decay": 0.1}, "weight_decay"), ({"autocast": torch.bfloat16}, "autocast")])
def test_the_checkpoint_of_another_run_is_refused(tmp_path, change, sentence):
    path = tmp_path / "run.ckpt"
    next(iter(start(path)))  # the generator is dropped, hence closed, hence saved
    with pytest.raises(ValueError, match=f"belongs to another run .*{sentence}"):
        start(path, **change)
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="model is Net with 51 parameters there, Linear with 3 parameters here"):
        train.Training(model, noisy(model), batches, steps=12, ema=0.9, warmup=3, seed=4, checkpoint=path)
    one, other = (nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1)) for _ in range(2))
    frozen = tmp_path / "frozen.ckpt"
    next(iter(train.Training(one, noisy(one), batches, steps=12, checkpoint=frozen)))
    with pytest.raises(ValueError, match="frozen is"):                       # the same sizes, another frozen part
        train.Training(other, noisy(other), batches, steps=12, checkpoint=frozen)
    data = path.read_bytes()
    for damaged in data[:-1], data[:100], b"", data[:-3] + b"abc":
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="run.ckpt"):
            start(path)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch, unbroken):
    path, usual, room = tmp_path / "run.ckpt", Path.write_bytes, [2]

    def write_bytes(self, data):
        room[0] -= 1
        if room[0] >= 0:
            return usual(self, data)
        usual(self, data[:50])  # what a full disk leaves
        raise OSError(errno.ENOSPC, "No space left on device")
    run = start(path, checkpoint_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(OSError, match="No space left on device: nothing was written and an older file"):
            list(run)
    assert os.listdir(tmp_path) == ["run.ckpt"] and not run.model.training and len(run.logs) == 6
    again = start(path, checkpoint_every=2)
    assert len(again.logs) == 4
    list(again)
    assert_equal(everything(again), everything(unbroken))


# ---- runs that go wrong


@pytest.mark.parametrize("bad, sentence", [
    (lambda x: {"loss": x * math.nan}, "step 3 because loss is nan;"),
    (lambda x: {"loss": x + math.inf, "kl": x + math.inf, "fit": x}, "step 3 because loss is inf, kl is inf;"),
    (lambda x: {"loss": (x - x).sqrt()}, "step 3 because the gradient is not finite though the loss is 0;")])
def test_a_step_that_is_not_finite_stops_and_changes_nothing(bad, sentence):
    model = net()
    good = noisy(model)
    run = None

    def loss(batch):
        losses = good(batch)
        return bad(losses["loss"]) if len(run.logs) == 3 else losses
    run = train.Training(model, loss, batches, steps=12, ema=0.9)
    states = []
    with pytest.raises(FloatingPointError, match=f"stopped at {sentence} the model keeps .* smaller lr than 0.001"):
        for _ in run:
            states.append(everything(run))
    assert len(states) == 3 and not model.training
    assert_equal(everything(run), states[-1])


@pytest.mark.parametrize("change", [
    {"steps": 0}, {"lr": 0.0}, {"warmup": -1}, {"grad_clip": 0.0}, {"ema": 1.0}, {"ema": -0.5}])
def test_settings_out_of_range(change):
    with pytest.raises(ValueError, match="A training needs steps >= 1"):
        start(**change)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="there is nothing to train"):
        train.fit(nn.Linear(1, 1).requires_grad_(False), lambda b: {}, batches, steps=1)


def test_bfloat16_computes_the_loss_but_keeps_float32_weights():
    torch.manual_seed(0)
    model, kinds = nn.Linear(4, 4), []

    def loss(batch):
        y = model(batch)
        kinds.append(y.dtype)
        return {"loss": (y.float() - 1).square().mean()}
    history = train.fit(model, loss, lambda k: torch.randn(32, 4, generator=rng(k)), steps=300, lr=2e-2,
                        autocast=torch.bfloat16)
    assert set(kinds) == {torch.bfloat16} and model.weight.dtype == torch.float32
    assert history.losses["loss"][-1] < 1e-3 < history.losses["loss"][0]


def test_the_bar_obeys_the_environment(monkeypatch, capfd):
    model = net()
    train.fit(model, noisy(model), batches, steps=2)
    assert capfd.readouterr().err == ""
    for off in "", "0":
        monkeypatch.setenv("TQDM_DISABLE", off)
        train.fit(model, noisy(model), batches, steps=2)
        assert "2/2" in capfd.readouterr().err


# ---- several processes


@dataclasses.dataclass(frozen=True)
class Pair:
    x: torch.Tensor
    more: dict


class Named(NamedTuple):
    x: torch.Tensor
    y: list


def test_shares_are_equal_slices_of_any_nest():
    x, y = torch.arange(6.0), torch.arange(12).view(6, 2)
    for rank in 0, 1, 2:
        cut = slice(2 * rank, 2 * rank + 2)
        part = train.share(Pair(x, {"a": (y, [x]), "n": Named(x, [y])}), rank, 3)
        assert isinstance(part, Pair) and isinstance(part.more["n"], Named) and type(part.more["a"]) is tuple
        for got, want in [(part.x, x), (part.more["a"][0], y), (part.more["a"][1][0], x), (part.more["n"].y[0], y)]:
            assert torch.equal(got, want[cut])
    with pytest.raises(ValueError, match="4 processes cannot share a batch of 6: make its size a multiple of 4"):
        train.share((x, y), 0, 4)
    for strange in "words", 3, None, torch.tensor(1.0):
        with pytest.raises(TypeError, match="with a batch axis, not a"):
            train.share([x, strange], 0, 2)


TOGETHER = """
import json, os, sys, torch
from torch import nn
from minidiff import train
from minidiff.data import rng
rank = int(os.environ.get("RANK", "0"))
torch.manual_seed(rank)                   # other first weights in each process: the first one's count
model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
def batches(k):
    x = torch.randn(12, 2, generator=rng(k))
    return {"x": x, "y": (x.prod(1, keepdim=True),)}
def loss(batch):
    error = (model(batch["x"]) - batch["y"][0]).square().mean()
    return {"loss": error, "rows": torch.tensor(float(len(batch["x"])))}
path = sys.argv[1] + ".ckpt"
half = iter(train.Training(model, loss, batches, steps=30, lr=1e-2, warmup=5, ema=0.9, checkpoint=path))
for _ in range(11):
    next(half)
half.close()
train.world()[1] > 1 and torch.distributed.barrier()
history = train.fit(model, loss, batches, steps=30, lr=1e-2, warmup=5, ema=0.9, checkpoint=path)
weights = torch.cat([p.flatten() for m in (model, history.ema) for p in m.parameters()]).tolist()
with open(f"{sys.argv[1]}.{rank}.json", "w") as file:
    json.dump({"loss": history.losses["loss"].tolist(), "rows": history.losses["rows"][0], "weights": weights}, file)
"""


def test_two_processes_walk_the_same_path_as_one(tmp_path):
    (tmp_path / "run.py").write_text(textwrap.dedent(TOGETHER))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for launcher, out in ([sys.executable], "one"), (torchrun, "two"):
        done = subprocess.run([*launcher, tmp_path / "run.py", tmp_path / out], capture_output=True, text=True,
                              env=environment(TQDM_DISABLE="0"), timeout=240)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("30/30") == 1, done.stderr  # one bar
    one, two, other = (json.loads((tmp_path / name).read_text()) for name in ("one.0.json", "two.0.json", "two.1.json"))
    assert (one["rows"], two["rows"]) == (12, 6) and two == other
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=0, atol=1e-5)
    assert one["loss"][-1] < one["loss"][0]


def test_batches_that_are_no_function_and_losses_that_are_no_dict_are_refused():
    run = object.__new__(train.Training)                      # by hand: in the tests a type checker would be first
    run.batches = [torch.ones(2, 1)]
    with pytest.raises(TypeError, match="step -> batch"):
        inspect.unwrap(train.Training.__post_init__)(run)
    model = torch.nn.Linear(1, 1)
    with pytest.raises(TypeError, match="must return a dict"):
        train.fit(model, lambda x: model(x).mean(), lambda k: torch.ones(2, 1), steps=1)
