"""Chapter 7's comparison of guides: networks that look at a noisy code and say which way a caption lies.

The painter is the shipped text-to-image model. A guide pushes it while it is told nothing; the same painter told the
caption, with classifier-free guidance, is what the guides are measured against. All are judged by the oracle.
"""
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff import captions, weights
from minidiff.data import batches, noise, rng
from minidiff.guidance import LogProb, by_gradient, cfg, interval, rescale
from minidiff.latent import TextToImage
from minidiff.layers import Attention
from minidiff.oracle import analyse
from minidiff.recipes.about import RUNS, fast_precision, followed, made, recorded
from minidiff.recipes.painting import encoded
from minidiff.samplers import Denoise, ddim_step, last, noise_like, sample_path
from minidiff.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scenes, full, render
from minidiff.schedules import add_noise, times, trigonometric
from minidiff.train import Training
from minidiff.unet import Block, UNet, UNetConfig

NET = UNetConfig(4, 8, (32, 48), d_time=64, d_text=0, attend=(False, True))
TRAINED, BATCH, POOL = 2000, 64, 20_000                           # steps of a guide; codes that it sees
HEADS = {"number": ("one", "two"), "colour": tuple(COLOURS), "place": tuple(PLACES), "shape": tuple(SHAPES)}
PLACED = [f"a {colour} shape at the {place}" for colour in COLOURS for place in PLACES]         # 72 captions
STEPS, LATEST = 25, .95                                           # of the painter; where gradients begin to push
OUT = {"classifier": sum(map(len, HEADS.values())), "clip": 128}  # numbers that a guide answers with
SCALES = {"noised": (1., 2., 4., 8., 16., 32., 64.), "clean": (.5, 1., 2., 4., 8., 16.)}          # of gradients
BEST = 16.                                                        # of the classifier that has seen noise, by seed 0
FEW = 5, 10, 50                                                   # other numbers of steps
FREE = 1., 1.5, 2., 3., 5., 8., 12.                               # of classifier-free guidance


# --- guides -----------------------------------------------------------------------------------------------------------

class Downward(nn.Module):
    """The way down of a U-Net; then one learned query asks all places, and a linear map answers."""

    def __init__(self, answers: int):
        super().__init__()
        net, d = UNet(NET), NET.widths[-1]
        self.time, self.conv_in, self.position, self.down, self.middle = (
            net.time, net.conv_in, net.position, net.down, net.middle)
        self.query, self.ask = nn.Parameter(torch.randn(1, 1, d) * .1), Attention(d, NET.heads)
        self.out = nn.Linear(d, answers)
        self.log_scale = nn.Parameter(torch.tensor(2.))           # of cosines; a classifier leaves it as it is

    @property
    def sharpness(self) -> Float[Tensor, ""]:
        """What cosines are multiplied with before they become shares."""
        return self.log_scale.clamp(max=4.6).exp()

    def forward(self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"]) -> Float[Tensor, "b k"]:
        """Source: Dhariwal & Nichol 2021 (arXiv 2105.05233), section 4.1; their query is the mean of the places."""
        time, x = self.time(t), self.conv_in(x) + self.position
        for part in self.down:
            x = part(x, time, None, None) if isinstance(part, Block) else part(x)
        places = self.middle(x, time, None, None).flatten(2).transpose(1, 2)                    # [b, h w, d]
        return self.out(self.ask(self.query.expand(len(x), -1, -1), places)[:, 0]).float()


def answers(scenes: Scenes) -> dict[str, Int[Tensor, "b"]]:
    """What a classifier is asked: the number of things, and of a single thing its colour, place and shape."""
    column, row = ((scenes.xy[:, 0] > 3 / 8).long() + (scenes.xy[:, 0] > 5 / 8)).unbind(1)
    return {"number": scenes.number - 1, "colour": scenes.colour[:, 0], "place": column + 3 * row,
            "shape": scenes.shape[:, 0]}


class Shown:
    """Codes of world `full`, what they show, and what CLIP's text encoder makes of their captions."""

    def __init__(self, n: int, seed: int):
        scenes = full(n, rng("shown", seed))
        self.answers = answers(scenes)
        self.codes = encoded(weights.load("latent-autoencoder"), render(scenes))
        self.texts = of_captions(captions.write(scenes, rng("shown told", seed)))


@torch.no_grad()
def of_captions(told: list[str]) -> Float[Tensor, "n d"]:
    """Unit vectors of captions, by the shipped CLIP."""
    clip = weights.load("clip")
    return torch.cat([clip.encode_text(part) for part in captions.encode(told).split(500)])


def training(kind: str, noised: bool, seed: int, steps: int, *, pool: int = POOL) -> Training:
    """A guide's training, on codes with noise of all times or on clean ones, which are all at t = 0."""
    shown = Shown(pool, seed)
    model = made(lambda: Downward(OUT[kind]), seed)

    def loss(rows: Tensor) -> dict[str, Tensor]:
        z, t = shown.codes[rows], torch.rand(len(rows)) * noised
        said = model(add_noise(trigonometric, z, t, torch.randn_like(z)), t)
        return {"loss": (asked if kind == "classifier" else contrast)(model, said, shown, rows)}
    name = f"guide-{kind}-{'noised' if noised else 'clean'}-{seed}-{steps}"
    return Training(model, loss, batches(torch.arange(pool), BATCH, seed), steps=steps, lr=2e-3, warmup=100, ema=.99,
                    seed=seed, weight_decay=.01, autocast=fast_precision(), checkpoint=RUNS / f"{name}.safetensors")


def asked(guide: Downward, said: Tensor, shown: Shown, rows: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy of all answers; those on colour, place and shape count for single things."""
    want, alone = {name: known[rows] for name, known in shown.answers.items()}, shown.answers["number"][rows] == 0
    return sum((F.cross_entropy(logits, want[name], reduction="none") * (alone | (name == "number"))).mean()
               for name, logits in heads(said).items())


def contrast(guide: Downward, said: Tensor, shown: Shown, rows: Tensor) -> Float[Tensor, ""]:
    """CLIP's loss; the vectors of the captions stay as they are."""
    logits = guide.sharpness * F.normalize(said, dim=1) @ shown.texts[rows].T
    right = torch.arange(len(rows))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def heads(said: Float[Tensor, "b k"]) -> dict[str, Float[Tensor, "b c"]]:
    """The classifier's numbers, question by question."""
    return dict(zip(HEADS, said.split([len(words) for words in HEADS.values()], 1), strict=True))


def says(guide: nn.Module, kind: str, told: list[str]) -> LogProb:
    """(z, t) -> log p(caption | z); for CLIP up to a constant: it knows no list of all that might be."""
    if kind == "clip":
        text = of_captions(told)
        return lambda z, t: guide.sharpness * (F.normalize(guide(z, t.float().expand(len(z))), dim=1) * text).sum(1)
    meant = [{"number": "one"} | captions.parse(caption).things[0] for caption in told]
    want = {name: torch.tensor([words.index(thing[name]) for thing in meant])
            for name, words in HEADS.items() if name in meant[0]}

    def log_prob(z: Tensor, t: Tensor) -> Float[Tensor, "b"]:
        said = heads(guide(z, t.float().expand(len(z))))
        return sum(said[name].log_softmax(1).gather(1, k[:, None])[:, 0] for name, k in want.items())
    return log_prob


# --- painting and judging ---------------------------------------------------------------------------------------------

def told_nothing(painter: TextToImage) -> Denoise:
    """The painter with the empty caption."""
    text = painter.text_encoder(captions.encode([""]))
    return lambda z, t: painter.denoiser(z, t, type(text)(*(part.expand(len(z), *part.shape[1:]) for part in text)))


def pushed(painter: TextToImage, log_prob: LogProb, scale: float, told: list[str] | None = None) -> Denoise:
    """The painter, told nothing or these captions, and pushed; before LATEST it is not pushed."""
    free = told_it(painter, told) if told else told_nothing(painter)
    return interval(by_gradient(free, log_prob, trigonometric, scale), free, 0., LATEST)


def paint(guess: Denoise, painter: TextToImage, n: int, *, seed: int, steps: int = STEPS,
          eta: float = 1.) -> tuple[Tensor, Tensor]:
    """n codes and their pictures, not yet clamped, by DDIM with fresh noise."""
    step = partial(ddim_step, eta=eta, randn_like=noise_like(seed))
    z = last(sample_path(guess, noise(painter.shape(n), seed), times(steps), trigonometric, step=step))
    with torch.no_grad():
        return z, painter.autoencoder.decode(z)


def judged(z: Tensor, x: Tensor, told: list[str]) -> dict:
    """How many are right and keep each claim; of the right ones, what nobody asked for; how loud they are."""
    reading = analyse(x.clamp(-1, 1))
    found = {"of": len(x), "right": 0, "legal": int(reading.legal.sum())}
    free = {"background": list(BACKGROUNDS), "size": list(SIZES), "shape": list(SHAPES)}
    counts = {name: [0] * len(words) for name, words in free.items()}
    for scene, legal, caption in zip(reading.scenes, reading.legal.tolist(), told, strict=True):
        kept = captions.judge(scene, captions.parse(caption))
        for name, value in kept.items():
            found[name] = found.get(name, 0) + bool(value)
        if legal and all(kept.values()):
            found["right"] += 1
            for name, value in (("background", scene.background), ("size", scene.things[0].size),
                                ("shape", scene.things[0].shape)):
                counts[name][free[name].index(value)] += 1
    loud = {"std of the code": float(z.std()), "beyond": float((x.abs() > 1.05).float().mean())}
    return found | counts | {name: round(value, 4) for name, value in loud.items()}


# --- rows -------------------------------------------------------------------------------------------------------------

def outcome(guess: Denoise, painter: TextToImage, told: list[str], *, seed: int, steps: int = STEPS) -> dict:
    """Painted with this denoiser and judged."""
    return judged(*paint(guess, painter, len(told), seed=seed, steps=steps), told)


def of_the_guess(painter: TextToImage, log_prob: LogProb) -> LogProb:
    """The guide asked about the painter's guess, as if it were a clean code, in place of the noisy one."""
    free = told_nothing(painter)
    return lambda z, t: log_prob(free(z, t), torch.zeros(()))


def guided(kind: str, noised: bool, seed: int, steps: int = TRAINED, *, told: list[str] = PLACED) -> dict:
    """What one guide brings, by scale: asked about z_t; one that knows clean codes alone also asked about the guess."""
    run = training(kind, noised, seed, steps)
    for _ in followed(run, kind, 500):
        pass
    painter, log_prob = weights.load("text-to-image").requires_grad_(False), says(run.averaged.eval(), kind, told)
    clean = (lambda z, t: log_prob(z, torch.zeros(()))), of_the_guess(painter, log_prob)
    ways = {"noised": log_prob} if noised else dict(zip(("clean on z_t", "clean on the guess"), clean, strict=True))
    return {"guide": kind, "seed": seed, "steps": steps, "parameters": sum(q.numel() for q in run.parameters.values()),
            "ways": {way: {scale: outcome(pushed(painter, f, scale), painter, told, seed=seed)
                           for scale in SCALES["noised" if noised else "clean"]} for way, f in ways.items()}}


def hurried(seed: int, steps: int = TRAINED, told: list[str] = PLACED) -> dict:
    """The classifier that has seen noise, at its best scale, with fewer steps and with more."""
    painter = weights.load("text-to-image").requires_grad_(False)
    guide = training("classifier", True, seed, steps).averaged.eval()
    guess = pushed(painter, says(guide, "classifier", told), BEST)
    return {"guide": "hurried", "seed": seed, "scale": BEST, "by steps": {
        few: outcome(guess, painter, told, seed=seed, steps=few) for few in FEW}, "told nothing": {
        few: outcome(told_nothing(painter), painter, told, seed=seed, steps=few) for few in FEW}}


def also_told(seed: int, steps: int = TRAINED, told: list[str] = PLACED) -> dict:
    """CLIP that has seen noise pushes the painter that is told the same caption, as GLIDE's was."""
    painter = weights.load("text-to-image").requires_grad_(False)
    log_prob = says(training("clip", True, seed, steps).averaged.eval(), "clip", told)
    return {"guide": "clip, told", "seed": seed, "ways": {"noised": {scale: outcome(
        pushed(painter, log_prob, scale, told), painter, told, seed=seed) for scale in SCALES["noised"]}}}


def told_it(painter: TextToImage, told: list[str]) -> Denoise:
    """The painter with captions, unguided."""
    return painter.denoise(told, "", 1.)


def free(seed: int, told: list[str] = PLACED) -> dict:
    """Classifier-free guidance by scale; at large ones with its two cures; with fewer steps, and unguided."""
    painter = weights.load("text-to-image").requires_grad_(False)
    here = partial(outcome, painter=painter, told=told, seed=seed)
    positive, negative = told_it(painter, told), told_nothing(painter)
    bent = {scale: cfg(positive, negative, scale) for scale in FREE}
    return {"guide": "none", "seed": seed, "by scale": {scale: here(guess) for scale, guess in bent.items()},
            "rescaled": {scale: here(rescale(bent[scale], positive)) for scale in FREE[-3:]},
            "interval": {scale: here(interval(bent[scale], positive, .3, .8)) for scale in FREE[-3:]},
            "by steps": {scale: {steps: here(bent[scale], steps=steps) for steps in FEW} for scale in (1., 3.)},
            "told nothing": here(negative)}


def compared(folder: Path = weights.TRAINED, seeds: int = 3) -> None:
    """guides.json: all rows; an interrupted run keeps what it has in runs/."""
    rows = {f"guides-free-{seed}": partial(free, seed) for seed in range(seeds)} | {
        f"guides-{kind}-{noised}-{seed}": partial(guided, kind, noised, seed)
        for seed in range(seeds) for kind in OUT for noised in (True, False)} | {
        f"guides-{name}-{seed}": partial(row, seed)
        for seed in range(seeds) for name, row in (("hurried", hurried), ("told", also_told))}
    recorded(folder / "guides.json", "guides.compared", rows, RUNS)


RECIPES = {"guides": compared}
