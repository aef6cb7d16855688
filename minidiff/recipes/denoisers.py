"""What chapter 5 compares: targets and losses, networks that lack a part, a discriminator behind a denoiser."""
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minidiff.denoiser import Denoiser
from minidiff.gan import believed, telling_apart
from minidiff.layers import ResidualBlock, TimeEmbedding
from minidiff.likelihood import Reverse, one_term
from minidiff.samplers import Pair, added_variance, ancestral_step
from minidiff.schedules import add_noise, like, times
from minidiff.unet import Block, UNet, UNetConfig
from minidiff.variances import LearnedVariance, fixed, large

T = 1000                                                                               # steps of all tables
NET = UNetConfig(3, 16, (32, 32), d_time=64, d_text=0, attend=(False, True))


# --- what the network is asked for ------------------------------------------------------------------------------------

class Previous(Denoiser):
    """A net that is asked for the picture of the step before, x_{t-1} ~ q(x_{t-1} | x_t, x0)."""

    def levels(self, t: Tensor) -> tuple[Pair, Pair]:
        """(alpha, sigma) of the step and of the one before."""
        return self.schedule(t), self.schedule((t.double() - 1 / T).clamp(min=0))

    def asked(self, x0: Float[Tensor, "b *d"], t: Float[Tensor, "..."], eps: Float[Tensor, "b *d"]) -> Tensor:
        """One draw of it."""
        return ancestral_step(add_noise(self.schedule, x0, t, eps), x0, *self.levels(t))

    def solved(self, x: Float[Tensor, "b *d"], t: Float[Tensor, "..."], answer: Float[Tensor, "b *d"]) -> Tensor:
        """x0_hat from the mean A x_t + B x0_hat."""
        at, to = self.levels(t)
        zero, none = torch.zeros_like(x), torch.zeros_like
        a = ancestral_step(x, zero, at, to, randn_like=none)
        return (answer - a) / ancestral_step(zero, torch.ones_like(x), at, to, randn_like=none)


class LastNoise(Denoiser):
    """A net that is asked for the noise of the last step alone, x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) eps_t."""

    def share(self, t: Tensor) -> Tensor:
        """c in E[eps_t | eps] = c eps: sqrt(beta_t) / sigma_t."""
        at, to = self.schedule(t), self.schedule((t.double() - 1 / T).clamp(min=0))
        return added_variance(at, to).sqrt() / at[1]

    def asked(self, x0: Float[Tensor, "b *d"], t: Float[Tensor, "..."], eps: Float[Tensor, "b *d"]) -> Tensor:
        """One draw of it, given the noise of all steps together."""
        c = self.share(t)
        return like(c, eps) * eps + like((1 - c ** 2).clamp(min=0).sqrt(), eps) * torch.randn_like(eps)

    def solved(self, x: Float[Tensor, "b *d"], t: Float[Tensor, "..."], answer: Float[Tensor, "b *d"]) -> Tensor:
        """x0_hat, with eps_hat = answer / c."""
        return super().solved(x, t, answer / like(self.share(t), x))


def drawn_times(n: int) -> Float[Tensor, "n"]:
    """k / T, each step alike often."""
    return torch.randint(1, T + 1, (n,)).double() / T


def plain(denoiser: Denoiser, x0: Tensor) -> dict[str, Tensor]:
    """The mean squared error of what was asked for."""
    return {"loss": denoiser.loss(x0, drawn_times(len(x0)))}


def in_eps(denoiser: Denoiser, x0: Tensor) -> dict[str, Tensor]:
    """The mean squared error of the noise that follows from the answer: for every target the weights of eps."""
    t, eps = drawn_times(len(x0)), torch.randn_like(x0)
    alpha, sigma = denoiser.schedule(t)
    x0_hat = denoiser(add_noise(denoiser.schedule, x0, t, eps), t)
    return {"loss": (like(alpha / sigma, x0) * (x0_hat - x0)).square().mean()}


def full(denoiser: Denoiser, x0: Tensor) -> dict[str, Tensor]:
    """One term of the bound for each picture, in nats a number, T times: its mean is the bound but for the prior."""
    t = drawn_times(len(x0))
    s = (t - 1 / T).clamp(min=0)
    guess = way_back(denoiser)(add_noise(denoiser.schedule, x0, t, torch.randn_like(x0)), t, s)
    return {"loss": T * one_term(guess, denoiser.schedule(t), denoiser.schedule(s), x0).sum() / x0.numel()}


def way_back(denoiser: Denoiser, width: Callable[..., Tensor] = large) -> Reverse:
    """The steps of a denoiser: with the variances that it has learned, or with these."""
    return denoiser.reverse if isinstance(denoiser, LearnedVariance) else fixed(denoiser, denoiser.schedule, width)


# --- what the network is told, and made of ----------------------------------------------------------------------------

class Deaf(nn.Module):
    """A network that is never told the step."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        """Always the same time."""
        return self.net(x, torch.full_like(t, .5), cond)


class Once(nn.Module):
    """A U-Net that is told the step only where the picture comes in, by eight more channels."""

    def __init__(self):
        super().__init__()
        self.net, self.time = UNet(replace(NET, channels=NET.channels + 8)), TimeEmbedding(64, 8)
        for block in self.net.modules():
            if isinstance(block, ResidualBlock):
                block.cond = None

    def forward(self, x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        """The last eight channels of the answer mean nothing."""
        told = self.time(t)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.net(torch.cat([x, told.to(x)], 1), t, cond)[:, :x.shape[1]]


class Cut(nn.Module):
    """A residual block of the way up that gets zeros for its skip."""

    def __init__(self, block: ResidualBlock):
        super().__init__()
        self.block, self.kept = block, block.norm1.num_channels - block.conv2.out_channels

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The skip is what comes last."""
        return self.block(torch.cat([x[:, :self.kept], torch.zeros_like(x[:, self.kept:])], 1), time)


def without_skips() -> UNet:
    """The U-Net, its skips cut."""
    net = UNet(NET)
    for part in net.up:
        if isinstance(part, Block):
            part.residual = Cut(part.residual)
    return net


def without_attention() -> UNet:
    """The U-Net with residual blocks alone."""
    net = UNet(NET)
    for part in net.modules():
        if isinstance(part, Block):
            part.transformer = None
    return net


# --- a discriminator behind a denoiser of few steps -------------------------------------------------------------------

FEW = times(4, T)                                                                      # from noise to data


class Dreaming(nn.Module):
    """A U-Net with one more channel of noise, so that its answer is a draw and not a mean."""

    def __init__(self):
        super().__init__()
        self.net = UNet(replace(NET, channels=NET.channels + 1))

    def forward(self, x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        """Source: Xiao et al. 2022 (arXiv 2112.07804), section 4."""
        return self.net(torch.cat([x, torch.randn_like(x[:, :1])], 1), t, cond)[:, :x.shape[1]]


def one_of_few(g: Denoiser, x0: Tensor) -> tuple[Tensor, Tensor]:
    """x_t at one of the few times above 0, and t, one a picture."""
    t = FEW[torch.randint(len(FEW) - 1, (len(x0),))]
    return add_noise(g.schedule, x0, t, torch.randn_like(x0)), t


def stepped(g: Denoiser, x: Tensor, x0: Tensor, t: Tensor) -> Float[Tensor, "b 7 h w"]:
    """What D is shown: x_s ~ q(x_s | x_t, x0) after the step from t, with x_t and t beside it."""
    s = t - 1 / (len(FEW) - 1)
    x_s = ancestral_step(x, x0, g.schedule(t), g.schedule(s.clamp(min=0)))
    return torch.cat([x_s, x, like(t, x).expand_as(x[:, :1])], 1)


def in_few_steps(g: Denoiser, x0: Tensor) -> dict[str, Tensor]:
    """Without D: the mean squared error of x0_hat."""
    x, t = one_of_few(g, x0)
    return {"loss": (g(x, t) - x0).square().mean()}


def behind_few_steps(g: Denoiser, d: nn.Module, weight: float = .1) -> dict[str, Callable[[Tensor], dict]]:
    """The same, and steps from the guess must pass for steps from the picture.

    Source: Xiao et al. 2022 (arXiv 2112.07804), equations 4 to 6; the squared error is ours.
    """
    def seen(x0: Tensor) -> Tensor:
        x, t = one_of_few(g, x0)
        return stepped(g, x, x0, t)

    def imitated(real: Tensor) -> Tensor:
        x, t = real[:, 3:6], real[:, 6, 0, 0].double()
        return stepped(g, x, g(x, t), t)

    def fooling(x0: Tensor) -> dict[str, Tensor]:
        x, t = one_of_few(g, x0)
        x0_hat = g(x, t)
        error, fooled = (x0_hat - x0).square().mean(), believed(d(stepped(g, x, x0_hat, t)))
        return {"loss": error + weight * fooled, "error": error, "fooled": fooled}
    apart = telling_apart(imitated, d, r1_weight=.1)
    return {"d": lambda x0: apart(seen(x0)), "g": fooling}
