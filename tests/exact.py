"""Exact answers in float64 that owe nothing to the library: a Gaussian mixture, and the ODE of one Gaussian."""

import math

import torch


class Mixture:
    """sum_k weights_k N(x; means_k, std_k^2 I): its density, its noised self, and E[x0 | x_t] without a network."""

    def __init__(self, weights, means, std):
        self.weights, self.means, self.std = (torch.as_tensor(v).double() for v in (weights, means, std))

    def joint(self, x):
        """log weights_k N(x; means_k, std_k^2), [b, k]."""
        squares = (x[:, None] - self.means).square().sum(-1) / self.std**2
        return self.weights.log() - squares / 2 - x.shape[1] * torch.log(self.std * math.sqrt(2 * math.pi))

    def log_prob(self, x):
        return self.joint(x).logsumexp(1)

    def score(self, x):
        """grad log p by automatic differentiation of the density."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.log_prob(x).sum(), x)[0]

    def noised(self, alpha, sigma):
        return Mixture(self.weights, alpha * self.means, torch.sqrt((alpha * self.std) ** 2 + sigma**2))

    def posterior_mean(self, x, alpha, sigma):
        """E[x0 | alpha x0 + sigma eps = x]: in each component a Gaussian regression, weighed by its responsibility."""
        noised = self.noised(alpha, sigma)
        gain = (alpha * self.std**2 / noised.std**2)[:, None]
        guesses = self.means + gain * (x[:, None] - noised.means)
        return (noised.joint(x).softmax(1)[..., None] * guesses).sum(1)

    def denoise(self, schedule):
        """The function (x, t) -> E[x0 | x_t] for one time t, as a sampler wants it."""
        return lambda x, t: self.posterior_mean(x, *schedule(t))

    def sample(self, n, generator):
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + self.std[k, None] * z


def gaussian_flow(x, mean, std, at, to):
    """Where the probability-flow ODE of data N(mean, std^2) carries x: its standardised value never changes."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    spread_t, spread_s = (alpha_t * std) ** 2 + sigma_t**2, (alpha_s * std) ** 2 + sigma_s**2
    return alpha_s * mean + torch.sqrt(spread_s / spread_t) * (x - alpha_t * mean)


def energy_distance(x, y):
    """2 E|x - y| - E|x - x'| - E|y - y'|, unbiased; 0 for equal distributions."""
    return 2 * torch.cdist(x, y).mean() - torch.pdist(x).mean() - torch.pdist(y).mean()
