"""Generative adversarial networks: one network makes pictures, the other tells them from real ones, and both learn.

The discriminator D gives one number a picture, its logit: above 0 it takes the picture for real.
"""
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from minidiff.autoencoder import Decoder, stretched
from minidiff.checkpoint import unbroken
from minidiff.data import noise
from minidiff.train import History, Log, Training, constant, watched

Logits = Float[Tensor, "b"]
Scalar = Float[Tensor, ""]


# --- the players ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class GeneratorConfig:
    """What a generator is made of; the first grid's side is the picture's by 2^(number of widths)."""
    shape: tuple[int, ...] = (3, 32, 32)                # of what it makes: a picture [c h w], or a vector [n]
    d: int = 64                                         # numbers of noise
    widths: tuple[int, ...] = (128, 64, 32)             # channels, from the first grid to the picture (vector: layers)
    grid: int = 16                                      # channels that the noise becomes on the first grid
    blocks: int = 1                                     # residual blocks a width


class Generator(nn.Module):
    """z [b d] -> pictures [b c h w] in [-1, 1], through a small grid that doubles its side; or any vectors [b n]."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        i, j = first_grid(config.shape, config.widths)
        if not i:
            self.net = nn.Sequential(*layers(config.d, *config.widths), nn.Linear(config.widths[-1], *config.shape))
            return
        self.net = nn.Sequential(
            nn.Linear(config.d, config.grid * i * j), nn.Unflatten(1, (config.grid, i, j)),
            Decoder(config.grid, config.shape[0], config.widths, config.blocks, double=stretched), nn.Tanh())

    def forward(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b *shape"]:
        """Source: Radford et al. 2016 (arXiv 1511.06434), figure 1, with residual blocks."""
        if z.shape[1] != self.config.d:
            raise ValueError(f"the generator is for {self.config.d} numbers of noise a picture, not {z.shape[1]}")
        return self.net(z).to(z.dtype)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int, first: int = 0) -> Float[Tensor, "n *shape"]:
        """n pictures of fresh noise; the i-th depends on the seed and first + i alone."""
        z = noise((n, self.config.d), seed, first=first)
        return torch.cat([self(part) for part in z.split(256)])


@dataclass(frozen=True)
class DiscriminatorConfig:
    """What a discriminator is made of; every width halves the picture's side."""
    shape: tuple[int, ...] = (3, 32, 32)                # of what it judges: a picture [c h w], or a vector [n]
    widths: tuple[int, ...] = (32, 64, 128)             # channels, from the picture on (of a vector: hidden layers)
    spectral: bool = False                              # every layer's weight divided by its largest singular value
    minibatch: bool = False                             # one more feature: how much the batch varies


class Discriminator(nn.Module):
    """Pictures [b c h w], or vectors [b n], to one logit each; no normalisation mixes the pictures of a batch.

    Only with `minibatch` does a logit depend on the rest of the batch: it must then be all real or all made.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        i, j = first_grid(config.shape, config.widths)
        c, width, more = config.shape[0], config.widths[-1], int(config.minibatch)
        if i:
            self.inner = nn.Sequential(*halvings(c, *config.widths))
            head = [nn.Conv2d(width + more, width, 3, padding=1), nn.LeakyReLU(.2), nn.Flatten(),
                    nn.Linear(width * i * j, 1)]
        else:
            self.inner = nn.Sequential(*layers(c, *config.widths))
            head = [nn.Linear(width + more, 1)]
        self.head = nn.Sequential(*head)
        for layer in self.modules() if config.spectral else ():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spectral_norm(layer)

    def features(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *d"]:
        """An inner layer: what the discriminator sees in each picture before it judges."""
        if x.shape[1:] != self.config.shape:
            raise ValueError(f"the discriminator judges pictures {self.config.shape}, not {tuple(x.shape[1:])}")
        return self.inner(x)

    def forward(self, x: Float[Tensor, "b *shape"]) -> Logits:
        """Sources: Radford et al. 2016, section 3; spectral norm: Miyato et al. 2018 (arXiv 1802.05957)."""
        h = self.features(x)
        if self.config.minibatch:
            h = torch.cat([h, variety(h).to(h).expand_as(h[:, :1])], 1)
        return self.head(h)[:, 0].to(x.dtype)


def first_grid(shape: tuple[int, ...], widths: tuple[int, ...]) -> tuple[int, int]:
    """The side of a picture's smallest grid, (h, w) / 2^len(widths); (0, 0) for vectors, which have none."""
    f = 2 ** len(widths)
    if len(shape) not in (1, 3) or not widths or any(side % f for side in shape[1:]):
        raise ValueError(f"{len(widths)} widths are for vectors (n,) or pictures (c, h, w) of sides divisible by {f}, "
                         f"not for the shape {shape}.")
    return (shape[1] // f, shape[2] // f) if shape[1:] else (0, 0)


def layers(*sizes: int) -> list[nn.Module]:
    """Linear maps from each size to the next, each bent by a leaky ReLU."""
    return [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.LeakyReLU(.2))]


def halvings(*widths: int) -> list[nn.Module]:
    """4 x 4 convolutions of stride 2 from each width to the next, each bent by a leaky ReLU."""
    return [layer for a, b in zip(widths, widths[1:], strict=False)
            for layer in (nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(.2))]


def variety(h: Float[Tensor, "b *d"]) -> Scalar:
    """The standard deviation over the batch, averaged over all features: small where the pictures are all alike.

    Source: Karras et al. 2018 (arXiv 1710.10196), section 3.
    """
    return (h.float().var(0, unbiased=False) + 1e-8).sqrt().mean()


# --- the games --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Game:
    """What each player minimises: D given its logits of real and of made pictures, G given those of made ones."""
    d_loss: Callable[[Tensor, Tensor], Tensor]
    g_loss: Callable[[Tensor], Tensor]


def cross_entropy(real: Logits, fake: Float[Tensor, "n"]) -> Scalar:
    """-E log D(x) - E log(1 - D(G(z))), D = sigmoid(logit): at the best D it is log 4 - 2 JSD(data, G).

    Source: Goodfellow et al. 2014 (arXiv 1406.2661), equation 1 with the other sign, and theorem 1.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def caught(fake: Logits) -> Scalar:
    """E log(1 - D(G(z))): minus G's part in D's loss; flat where D is sure. Source: Goodfellow 2014, equation 1."""
    return -F.softplus(fake).mean()


def believed(fake: Logits) -> Scalar:
    """-E log D(G(z)): the same wish, steep where D is sure. Source: Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake).mean()


def margins(real: Logits, fake: Float[Tensor, "n"]) -> Scalar:
    """E max(0, 1 - d(x)) + E max(0, 1 + d(G(z))). Source: Lim & Ye 2017 (arXiv 1705.02894), equation 14."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def distance(real: Logits, fake: Float[Tensor, "n"]) -> Scalar:
    """E d(G(z)) - E d(x): minus the Wasserstein distance at the best d of slope <= 1.

    Source: Arjovsky et al. 2017 (arXiv 1701.07875), equation 2.
    """
    return fake.mean() - real.mean()


def disliked(fake: Logits) -> Scalar:
    """-E d(G(z)). Source: Arjovsky et al. 2017, algorithm 1."""
    return -fake.mean()


SATURATING, NON_SATURATING = Game(cross_entropy, caught), Game(cross_entropy, believed)
HINGE, WASSERSTEIN = Game(margins, disliked), Game(distance, disliked)

Critic = Callable[[Tensor], Tensor]                                                # [b *d] -> logits [b]


def slopes(d: Critic, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
    """|grad_x d(x)| at each point, ready to be differentiated again."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(d(x).sum(), x, create_graph=True)[0].flatten(1).norm(dim=1)


def gradient_penalty(d: Critic, real: Float[Tensor, "b *d"], fake: Float[Tensor, "b *d"],
                     at: Float[Tensor, "b"]) -> Scalar:
    """E (|grad d| - 1)^2 on the way from made (at = 0) to real (at = 1). Source: Gulrajani et al. 2017 (1704.00028)."""
    u = at.reshape(-1, *[1] * (real.ndim - 1))
    return (slopes(d, u * real + (1 - u) * fake) - 1).square().mean()


def r1(d: Critic, real: Float[Tensor, "b *d"]) -> Scalar:
    """E |grad d(x)|^2 at real pictures. Source: Mescheder et al. 2018 (1801.04406), equation 9 without gamma/2."""
    return slopes(d, real).square().mean()


def optimal_discriminator(log_p: Critic, log_q: Critic) -> Critic:
    """x -> log p(x) - log q(x), the logit of p/(p + q): no D tells p from q better. Source: Goodfellow 2014, eq. 2."""
    return lambda x: log_p(x) - log_q(x)


# --- two players, one loop --------------------------------------------------------------------------------------------

@dataclass
class Duel(Training):
    """A `Training` of two players: in each step D moves `d_steps` times, then G once, each on its own loss.

    model is ModuleDict({"d": D, "g": G}), loss {"d": loss of a batch, "g": loss of a batch}; every move has a batch and
    noise of its own. A move changes its player's weights only; an interruption between two moves loses neither. The log
    has what the losses said in the last moves, as d_loss, g_loss, …, and the norm of G's gradient; the average is G's.
    """
    model: nn.ModuleDict
    loss: dict[str, Callable]
    lr_d: float = 1e-3
    d_steps: int = 1

    def __post_init__(self):
        if set(self.model) != {"d", "g"} or set(self.loss) != {"d", "g"} or self.d_steps < 1 or self.lr_d <= 0:
            raise ValueError("A duel needs the players and losses 'd' and 'g', d_steps >= 1 and lr_d > 0, not "
                             f"{list(self.model)}, {list(self.loss)}, {self.d_steps} and {self.lr_d}.")
        super().__post_init__()

    @property
    def learner(self) -> nn.Module:
        """The generator is what is averaged. Source: Yazici et al. 2019 (arXiv 1806.04498)."""
        return self.model["g"]

    def step(self) -> Log:
        """D moves d_steps times, then G; `open_step` has what D's moves of this step have said so far."""
        k, started = len(self.logs), time.perf_counter()
        while len(self.open_step) < self.d_steps:
            values, _ = self.turn("d", k)
            with unbroken():
                self.move(self.lr_at(k) * self.lr_d / self.lr)
                self.open_step.append(values)
        values, norm = self.turn("g", k)
        with unbroken():
            self.move(self.lr_at(k))
            self.average(k)
            said = {f"d_{name}": value for name, value in self.open_step.pop().items()}
            said |= {f"g_{name}": value for name, value in values.items()}
            self.logs.append(Log(k, said, self.lr_at(k), norm, self.clock(started)))
            self.open_step = []
        self.model.eval()
        return self.logs[-1]

    def turn(self, player: str, k: int) -> tuple[dict[str, float], float]:
        """The gradient of one player's loss, in its own weights alone, at its next batch."""
        parameters = [p for p in self.model[player].parameters() if p.requires_grad]
        return self.gradient(self.loss[player], parameters, k * (self.d_steps + 1) + len(self.open_step))

    def move(self, lr: float) -> None:
        """AdamW on whoever has a gradient."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()

    def fingerprint(self) -> dict[str, str]:
        """A checkpoint's duel had these settings too."""
        sizes = [f"{type(player).__name__} with {sum(p.numel() for p in player.parameters())} parameters"
                 for player in (self.model["d"], self.model["g"])]
        return super().fingerprint() | {"lr_d": str(self.lr_d), "d_steps": str(self.d_steps),
                                        "model": " against ".join(sizes)}


def telling_apart(make: Callable[[Tensor], Tensor], discriminator: nn.Module, game: Game = NON_SATURATING, *,
                  r1_weight: float = 0., gp_weight: float = 0.) -> Callable[[Tensor], dict[str, Tensor]]:
    """D's loss of a batch: game.d_loss(real, make(real)) + r1_weight/2 R1 + gp_weight GP; make(real) is as large."""
    def loss(real: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():                                       # D's loss is no business of G's
            fake = make(real)
        on_real, on_fake = discriminator(real), discriminator(fake)
        said = {"game": game.d_loss(on_real, on_fake), "real": on_real.mean(), "fake": on_fake.mean()}
        penalty = torch.zeros(())
        if r1_weight:
            penalty = penalty + r1_weight / 2 * r1(discriminator, real)
        if gp_weight:
            penalty = penalty + gp_weight * gradient_penalty(discriminator, real, fake, torch.rand(len(real)))
        return {"loss": said["game"] + penalty, **said, "penalty": penalty}
    return loss


def rules(generator: nn.Module, discriminator: nn.Module, game: Game = NON_SATURATING, *, r1_weight: float = 0.,
          gp_weight: float = 0.) -> dict[str, Callable]:
    """The losses of D and of G as `Duel` wants them; G makes its pictures of noise z ~ N(0, I)."""
    def make(real: Tensor) -> Tensor:
        return generator(torch.randn(len(real), generator.config.d))

    def fooling(real: Tensor) -> dict[str, Tensor]:
        return {"loss": game.g_loss(discriminator(make(real)))}
    return {"d": telling_apart(make, discriminator, game, r1_weight=r1_weight, gp_weight=gp_weight), "g": fooling}


def play(generator: nn.Module, discriminator: nn.Module, batches: Callable, game: Game = NON_SATURATING, *, steps: int,
         r1_weight: float = 0., gp_weight: float = 0., lr_g: float = 1e-3, lr_d: float = 1e-3, d_steps: int = 1,
         betas: tuple[float, float] = (.0, .99), lr_schedule: Callable[[float], float] = constant, warmup: int = 0,
         ema: float | None = .999, seed: int = 0, autocast: torch.dtype | None = None,
         checkpoint: str | Path | None = None) -> History:
    """The game for `steps` steps behind a progress bar; `batches(k)` gives real pictures, as in `train.fit`.

    In a step D moves d_steps times, then G once. r1_weight is gamma of R1, gp_weight is lambda of the gradient penalty.
    Afterwards both players are in eval mode, `history.ema` is the averaged generator, and `history.losses` has d_loss
    (penalty included), d_game, d_real and d_fake (mean logits), d_penalty and g_loss. `Duel` has the details.
    """
    loss = rules(generator, discriminator, game, r1_weight=r1_weight, gp_weight=gp_weight)
    duel = Duel(nn.ModuleDict({"d": discriminator, "g": generator}), loss, batches, steps=steps, lr=lr_g, lr_d=lr_d,
                d_steps=d_steps, betas=betas, lr_schedule=lr_schedule, warmup=warmup, ema=ema, seed=seed,
                autocast=autocast, grad_clip=math.inf, checkpoint=checkpoint)
    return watched(duel, lambda said: f"D {said['d_game']:.3f}, G {said['g_loss']:.3f}")
