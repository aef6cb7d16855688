"""A denoiser holds a network that predicts noise (or picture, or velocity) and turns its answer into E[x0 | x_t]."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minidiff.schedules import Schedule, add_noise, like

# What the network is asked for: a x0 + b eps, as the pair (a, b) at (alpha, sigma).
TARGETS = {
    "eps": lambda alpha, sigma: (torch.zeros_like(alpha), torch.ones_like(alpha)),  # Ho et al. 2020
    "x0": lambda alpha, sigma: (torch.ones_like(alpha), torch.zeros_like(alpha)),
    "v": lambda alpha, sigma: (-sigma, alpha),  # Salimans & Ho 2022
    "velocity": lambda alpha, sigma: (-torch.ones_like(alpha), torch.ones_like(alpha)),  # eps - x0: Liu et al. 2022
}


class Denoiser(nn.Module):
    """(x_t, t) -> x0_hat, solved from  x_t = alpha x0 + sigma eps  and  net(x_t, t, cond) = a x0 + b eps.

    `cond` is whatever the network takes: nothing here looks inside. `functools.partial(denoiser, cond=...)` is the
    function of (x, t) that samplers want. Salimans & Ho (2022, arXiv 2202.00512), appendix D.
    """

    def __init__(self, net: nn.Module, schedule: Schedule, target: str = "eps"):
        super().__init__()
        if target not in TARGETS:
            raise ValueError(f"the target {target!r} is unknown: it must be one of {', '.join(TARGETS)}.")
        self.net, self.schedule, self.target = net, schedule, target

    def predict(self, x: Float[Tensor, "b *d"], t: Float[Tensor, "..."], cond: object = None) -> Float[Tensor, "b *d"]:
        """The network's estimate of a x0 + b eps."""
        return self.answer(x, t, cond)

    def answer(self, x: Float[Tensor, "b *d"], t: Float[Tensor, "..."], cond: object = None) -> Float[Tensor, "b *k"]:
        """All that the network says; it sees one time a row, never in 16 bits."""
        t = t.to(torch.promote_types(x.dtype, torch.float32)).to(x.device)
        return self.net(x, t.expand(len(x)), cond)

    def forward(self, x: Float[Tensor, "b *d"], t: Float[Tensor, "..."], cond: object = None) -> Float[Tensor, "b *d"]:
        """x0_hat, from the network's answer."""
        return self.solved(x, t, self.predict(x, t, cond))

    def solved(
        self, x: Float[Tensor, "b *d"], t: Float[Tensor, "..."], answer: Float[Tensor, "b *d"]
    ) -> Float[Tensor, "b *d"]:
        """x0_hat = (b x - sigma net(x, t)) / (alpha b - sigma a); where sigma = 0 nothing is hidden: x / alpha."""
        alpha, sigma = self.schedule(t)
        a, b = TARGETS[self.target](alpha, sigma)
        det = alpha * b - sigma * a
        if ((det == 0) & (sigma > 0)).any():
            raise ValueError(f"a net with target {self.target!r} cannot tell x0 where alpha = 0: use 'v' or 'x0'.")
        clean = sigma == 0
        from_x = torch.where(clean, 1 / alpha, b / det)
        from_net = torch.where(clean, torch.zeros_like(det), -sigma / det)
        return like(from_x, x) * x + like(from_net, x) * answer

    def loss(
        self,
        x0: Float[Tensor, "b *d"],
        t: Float[Tensor, "..."],
        cond: object = None,
        eps: Float[Tensor, "b *d"] | None = None,
    ) -> Float[Tensor, ""]:
        """mean (net(x_t, t) - (a x0 + b eps))^2 over the batch; eps, if not given, comes from torch's own generator.

        Ho, Jain & Abbeel (2020, arXiv 2006.11239), equation 14, for any target.
        """
        eps = torch.randn_like(x0) if eps is None else eps
        asked = self.asked(x0, t, eps)
        return (self.predict(add_noise(self.schedule, x0, t, eps), t, cond) - asked).square().mean()

    def asked(
        self, x0: Float[Tensor, "b *d"], t: Float[Tensor, "..."], eps: Float[Tensor, "b *d"]
    ) -> Float[Tensor, "b *d"]:
        """a x0 + b eps, what the network should answer."""
        a, b = TARGETS[self.target](*self.schedule(t))
        return like(a, x0) * x0 + like(b, x0) * eps
