"""A denoising diffusion model in one file: a network, a schedule of T steps, and what the network is asked for."""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minidiff.data import noise
from minidiff.denoiser import Denoiser
from minidiff.dit import DiT, DiTConfig
from minidiff.samplers import Path, ddim_step, last, sample_path
from minidiff.schedules import DiscreteSchedule, times
from minidiff.unet import UNet, UNetConfig
from minidiff.variances import LearnedVariance

NETS = {UNetConfig: UNet, DiTConfig: DiT}
SCHEDULES = {"linear": DiscreteSchedule.linear, "cosine": DiscreteSchedule.cosine}


@dataclass(frozen=True)
class DDPMConfig:
    """What a diffusion model is made of; a net with two answers gives the variances of its steps as well."""
    net: UNetConfig | DiTConfig
    target: str = "v"                                   # a name of denoiser.TARGETS
    schedule: str = "cosine"                            # or "linear"
    T: int = 1000

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"the schedule is one of {', '.join(SCHEDULES)}, not {self.schedule!r}")


class DDPM(nn.Module):
    """Pictures out of noise, `denoiser(x, t)` in T steps or fewer. Source: Ho et al. 2020 (arXiv 2006.11239)."""

    def __init__(self, config: DDPMConfig):
        super().__init__()
        self.config = config
        kind = LearnedVariance if config.net.answers == 2 else Denoiser
        self.denoiser = kind(NETS[type(config.net)](config.net), SCHEDULES[config.schedule](config.T), config.target)

    @property
    def schedule(self) -> DiscreteSchedule:
        """The table of noise levels."""
        return self.denoiser.schedule

    def draw(self, n: int) -> Float[Tensor, "n"]:
        """n times k / T, each k = 1 ... T equally likely."""
        return torch.randint(1, self.config.T + 1, (n,)) / self.config.T

    def loss(self, x0: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """The mean squared error of the network's answer at random steps; with two answers, the hybrid loss.

        Source: Ho et al. 2020, algorithm 1 and equation 14.
        """
        t = self.draw(len(x0))
        return self.denoiser.hybrid(x0, t) if self.config.net.answers == 2 else {"loss": self.denoiser.loss(x0, t)}

    def path(self, n: int, *, seed: int, first: int = 0, steps: int = 50,
             step: Callable[..., Tensor] = ddim_step) -> Path:
        """(x_s, x0_hat) after each of `steps` steps from noise to n pictures; the i-th depends on (seed, first + i)."""
        net = self.config.net
        x = noise((n, net.channels, net.side, net.side), seed, first=first).to(next(self.parameters()))
        return sample_path(self.denoiser, x, times(steps, self.config.T), self.schedule, step=step)

    def sample(self, n: int, *, seed: int, first: int = 0, steps: int = 50,
               step: Callable[..., Tensor] = ddim_step) -> Float[Tensor, "n c h w"]:
        """n pictures, not kept within [-1, 1]. Source: Song et al. 2020 (arXiv 2010.02502), equation 12, eta = 0."""
        return last(self.path(n, seed=seed, first=first, steps=steps, step=step))
