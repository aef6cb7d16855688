"""Chapter 6's comparisons: small text-to-image models in 8x8 codes, a run for each kind and seed, judged by the oracle.

Their world is `tidy`: the scenes of `full` with every thing put on one of few places, so that minutes teach something.
"""
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff import captions, weights
from minidiff.data import batches, bilingual, noise, rng
from minidiff.denoiser import Denoiser
from minidiff.guidance import cfg_doubled, clamp
from minidiff.oracle import Reading, analyse
from minidiff.recipes import painters as p
from minidiff.recipes.about import RUNS, fast_precision, made, recorded
from minidiff.samplers import dpmpp_path, last
from minidiff.scenes import COLOURS, Scene, Scenes, full, render
from minidiff.schedules import times, trigonometric
from minidiff.text import Text
from minidiff.train import Training

STEPS, BATCH, POOL = 1000, 64, 10_000                     # of a training; pairs that most kinds see
LOOKS = 250, 500                                          # steps at which a run is looked at before its end
N = 256                                                   # captions of each kind that judge it, with scale 3
HIDDEN = "purple"                                         # the colour that one kind hears of in Chinese alone


@dataclass(frozen=True)
class Arm:
    """One kind of painter and what it is shown."""
    reads: Callable[[], nn.Module] = p.pretrained         # who turns word numbers into Text
    frozen: bool = True
    net: Callable[[], nn.Module] = p.crossing             # net(z, t, text)
    pairs: int = POOL
    told: Callable[[Scenes, torch.Generator], list[str]] = captions.write
    steps: int = STEPS                                    # of a training
    rate: float = 3e-3
    slow: float = 1.                                      # the rate of a reader and codes that learn, over the others'
    codes: Callable[[], nn.Module] = p.shipped            # pictures to what is denoised, and back
    shape: tuple[int, int, int] = (4, 8, 8)               # of what is denoised
    size: int = 32                                        # side of the pictures
    together: bool = False                                # the codes learn too


def one_language_each(scenes: Scenes, generator: torch.Generator) -> list[str]:
    """Half of the captions in Chinese; of things in the hidden colour only those."""
    state = generator.get_state()
    en, zh = (captions.write(scenes, generator.set_state(state), language) for language in ("en", "zh"))
    hidden = (scenes.colour == list(COLOURS).index(HIDDEN)) & (scenes.shape >= 0)
    chinese = hidden.any(1) | (torch.rand(len(scenes), generator=generator) < .5)
    return [b if other else a for a, b, other in zip(en, zh, chinese.tolist(), strict=True)]


ARMS = {
    "cross": Arm(), "beside": Arm(net=p.Beside), "joined": Arm(net=p.joined), "pooled": Arm(net=p.pooled),
    "words alone": Arm(net=p.words_alone), "table": Arm(p.Table, frozen=False),
    "100 pairs": Arm(pairs=100), "1000 pairs": Arm(pairs=1000),
    "two languages": Arm(told=partial(bilingual, chinese=.5)), "one language each": Arm(told=one_language_each)}


# --- the world --------------------------------------------------------------------------------------------------------

def tidy(n: int, generator: torch.Generator, split: str = "train") -> Scenes:
    """Scenes of `full`, one thing in the centre of its ninth, two at equal distance from the middle, on an axis."""
    scenes = full(n, generator, split)
    d = scenes.xy[:, 0] - scenes.xy[:, 1]
    main = F.one_hot(d.abs().argmax(1), 2) * d.sign()                   # [n 2], the axis and its sign
    two = .5 + .22 * torch.stack([main, -main], 1)
    one = (((scenes.xy - 1 / 8) * 4).floor().clamp(0, 2) + 1) / 4
    return replace(scenes, xy=torch.where((scenes.number == 1)[:, None, None], one, two).to(scenes.xy))


class Pool:
    """Codes with captions: all that a run is shown."""

    def __init__(self, arm: Arm, seed: int):
        generator = rng("pool", seed)
        self.scenes = tidy(arm.pairs, generator)
        self.numbers = captions.encode([*arm.told(self.scenes, generator), ""])                 # the last: no caption
        self.pictures = render(self.scenes, arm.size)
        self.codes = encoded(arm.codes(), self.pictures)

    def left_out(self, rows: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """The captions' rows, one in ten replaced by that of no caption."""
        return torch.where(torch.rand(len(rows)) < .1, len(self.numbers) - 1, rows)


@torch.no_grad()
def encoded(autoencoder: nn.Module, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
    """Codes, in pieces."""
    return torch.cat([autoencoder.encode(piece) for piece in x.split(500)])


@torch.no_grad()
def read_once(reader: nn.Module, numbers: Int[Tensor, "n l"]) -> Text:
    """All captions encoded, padded to one length: a frozen reader need not read them again at every step."""
    parts = [reader(piece) for piece in numbers.split(500)]
    longest = max(part.mask.shape[1] for part in parts)
    def wide(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), longest - x.shape[1], *x.shape[2:])], 1)
    return Text(torch.cat([wide(part.tokens) for part in parts]), torch.cat([part.pooled for part in parts]),
                torch.cat([wide(part.mask) for part in parts]))


# --- one run ----------------------------------------------------------------------------------------------------------

class Painter(nn.Module):
    """A reader, codes and their denoiser; what is not to learn is frozen."""

    def __init__(self, arm: Arm):
        super().__init__()
        self.shape = arm.shape
        self.reader = arm.reads().requires_grad_(not arm.frozen)
        self.codes = arm.codes().requires_grad_(arm.together)
        self.denoiser = Denoiser(arm.net(), trigonometric, "v")

    @torch.no_grad()
    def paint(self, told: list[str], seed: int, steps: int = 15, scale: float = 3.) -> Float[Tensor, "n 3 h w"]:
        """Pictures, guided."""
        text = self.reader(captions.encode(told + [""] * len(told)))
        guess = cfg_doubled(partial(self.denoiser, cond=text), scale)
        if isinstance(self.codes, p.Pixels):
            guess = clamp(guess)                                    # pictures lie there, codes go where they like
        z = last(dpmpp_path(guess, noise((len(told), *self.shape), seed), times(steps), trigonometric))
        return torch.cat([self.codes.decode(piece) for piece in z.split(256)]).clamp(-1, 1)


@dataclass
class Unequal(Training):
    """A training of a painter whose reader and codes learn more slowly: their rate is `slow` times that of the rest."""
    slow: float = 1.

    def __post_init__(self):
        super().__post_init__()
        late = {name for name in self.parameters if not name.startswith("denoiser")}
        groups = [[q for name, q in self.parameters.items() if (name in late) == slow] for slow in (False, True)]
        self.optimizer = torch.optim.AdamW([{"params": group} for group in groups if group], betas=self.betas,
                                           weight_decay=self.weight_decay, fused=True)
        self.optimizer.register_step_pre_hook(self.slowed)

    def slowed(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """The loop sets the rate of the first group; that of the second follows."""
        for group in optimizer.param_groups[1:]:
            group["lr"] = self.slow * optimizer.param_groups[0]["lr"]


def training(arm: Arm, pool: Pool, seed: int, steps: int) -> Training:
    """Its training; a step's batch is the rows that it looks up in the pool."""
    model = made(lambda: Painter(arm), seed)
    known = read_once(model.reader, pool.numbers) if arm.frozen else None

    def loss(rows: Tensor) -> dict[str, Tensor]:
        heard = pool.left_out(rows)
        text = Text(*(part[heard] for part in known)) if arm.frozen else model.reader(pool.numbers[heard])
        codes = model.codes.encode(pool.pictures[rows]) if arm.together else pool.codes[rows]
        denoised = model.denoiser.loss(codes, torch.rand(len(rows)), text)
        if not arm.together:
            return {"loss": denoised}
        return {"loss": denoised + model.codes.loss(pool.pictures[rows])["loss"]}
    rows = batches(torch.arange(arm.pairs).repeat(max(1, BATCH * 2 // arm.pairs)), BATCH, seed)
    return Unequal(model, loss, rows, steps=steps, lr=arm.rate, warmup=min(100, steps // 2), ema=.99, seed=seed,
                   autocast=fast_precision(), slow=arm.slow)


# --- what it is worth -------------------------------------------------------------------------------------------------

def places(scene: Scene, meaning: captions.Meaning) -> str | None:
    """Two told colours: at their told places, exchanged, or neither."""
    a, b = (told.get("colour") for told in meaning.things)
    orders = [(0, 1), (1, 0)] if len(scene.things) == 2 else []
    order = next((pair for pair in orders if scene.relation(*pair) == meaning.relation), None)
    if a == b or order is None:
        return None
    found = tuple(scene.things[i].colour for i in order)
    return "at their places" if found == (a, b) else "exchanged" if found == (b, a) else None


def judged(pictures: Float[Tensor, "n 3 h w"], told: list[str], shown: set[Scene]) -> dict:
    """How many pictures are right and keep each claim; where two colours went; how many are of scenes shown before."""
    reading: Reading = analyse(pictures)
    votes, meant = {"of": len(told)}, [captions.parse(caption) for caption in told]
    for scene, legal, meaning in zip(reading.scenes, reading.legal.tolist(), meant, strict=True):
        verdicts = captions.judge(scene, meaning)
        facts = verdicts | {"legal": legal, "right": legal and all(verdicts.values()),
                            "shown before": legal and tidied(scene) in shown}
        if len(meaning.things) == 2 and meaning.relation:
            facts[places(scene, meaning) or "elsewhere"] = True
        for name, kept in facts.items():
            votes[name] = votes.get(name, 0) + bool(kept)
    return votes


def tidied(scene: Scene) -> Scene:
    """A read scene, its places rounded to the world's, the things in order: equal scenes are equal."""
    steps = (lambda x: round(x * 4) / 4) if len(scene.things) == 1 else lambda x: .5 + .22 * round((x - .5) / .22)
    return Scene(scene.background, tuple(sorted(
        (replace(thing, x=round(steps(thing.x), 3), y=round(steps(thing.y), 3)) for thing in scene.things),
        key=lambda thing: (thing.x, thing.y))))


def asked(split: str, seed: int, n: int, language: str, *, colour: str | None = None) -> list[str]:
    """Complete captions of one split; colour: only scenes whose first thing has it."""
    scenes = tidy(n if colour is None else 16 * n, rng("asked", seed, split), split)
    if colour:
        scenes = scenes[scenes.colour[:, 0] == list(COLOURS).index(colour)][:n]
    return captions.write(scenes, rng("told", seed, split), language, complete=True)


def kinds(model: Painter, seed: int, n: int, shown: set[Scene], *, language: str = "en") -> dict:
    """Captions of one thing and of two."""
    found = {}
    for split in ("one", "two"):
        told = asked(split, seed, n, language)
        found[f"{split}, {language}"] = judged(model.paint(told, seed), told, shown)
    return found


def looked_at(model: Painter, seed: int, n: int, shown: set[Scene]) -> dict:
    """Both kinds of captions in both languages; the hidden colour."""
    found = {}
    for language in captions.LANGUAGES:
        found |= kinds(model, seed, n, shown, language=language)
        told = asked("one", seed, n // 2, language, colour=HIDDEN)
        found[f"{HIDDEN}, {language}"] = judged(model.paint(told, seed), told, shown)
    return found


def row(name: str, seed: int, steps: int, n: int) -> dict:
    """What one kind reaches from one seed, and on the way."""
    arm = ARMS[name]
    pool = Pool(arm, seed)
    shown = {tidied(scene) for scene in pool.scenes}
    run, way = training(arm, pool, seed, steps), []
    for log in run:
        if log.step + 1 in LOOKS:
            told = asked("one", 100 + seed, n // 2, "en")
            way.append({"step": log.step + 1, "seconds": round(log.seconds, 1)}
                       | judged(run.averaged.paint(told, seed), told, shown))
    return {"model": name, "seed": seed, "steps": steps, "seconds": round(run.logs[-1].seconds, 1),
            "parameters": sum(q.numel() for q in run.parameters.values()), "way": way,
            "end": looked_at(run.averaged.eval(), seed, n, shown)}


def compared(folder: Path = weights.TRAINED, seeds: int = 3, steps: int = STEPS, n: int = N) -> None:
    """painting.json: all rows; an interrupted run keeps what it has in runs/."""
    rows = {f"painting-{steps}-{n}-{name}-{seed}": partial(row, name, seed, steps, n)
            for seed in range(seeds) for name in ARMS}
    recorded(folder / "painting.json", "painting.compared", rows, RUNS)


RECIPES = {"paintings": compared}
