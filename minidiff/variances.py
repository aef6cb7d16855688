"""How wide a step of the model is: beta, beta-tilde, or a width that the network learns number by number."""
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff.denoiser import Denoiser
from minidiff.likelihood import Guess, Reverse, one_term, wide
from minidiff.samplers import Denoise, Path, added_variance, ancestral_step
from minidiff.schedules import Schedule, add_noise, like


def large(schedule: Schedule, t: Float[Tensor, "..."], s: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """var_{t|s}, DDPM's beta: right if the data were N(0, I)."""
    return added_variance(schedule(t), schedule(s))


def small(schedule: Schedule, t: Float[Tensor, "..."], s: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """var_{t|s} sigma_s^2 / sigma_t^2, DDPM's beta-tilde: right if the data were a single picture.

    For the last step, into sigma = 0, that is 0: certainty, whose price is infinite. As in the authors' programs the
    step before it, from 2t to t, lends its value. Source: Ho et al. 2020 (arXiv 2006.11239), equation 7.
    """
    end = schedule(s)[1] == 0
    if (end & (t > .5)).any():
        raise ValueError("a single step has no step before it to lend it a width: use `large`.")
    t, s = torch.where(end, 2 * t, t), torch.where(end, t, s)
    at, to = schedule(t), schedule(s)
    return added_variance(at, to) * (to[1] / at[1]) ** 2


def fixed(denoise: Denoise, schedule: Schedule, width: Callable[..., Tensor] = small) -> Reverse:
    """The steps of a denoiser with the variance `small` or `large`: (x_t, t, s) -> x0_hat and var."""
    return lambda x, t, s: (denoise(x, t), width(schedule, t, s))


def reverse_path(reverse: Reverse, x: Float[Tensor, "b *d"], times: Float[Tensor, "n"], schedule: Schedule, *,
                 randn_like: Callable[[Tensor], Tensor] = torch.randn_like) -> Path:
    """x_s ~ N(mean(x_t, x0_hat), var) along any list of times, no noise into sigma = 0: yields (x_s, x0_hat)."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        at, to = schedule(t), schedule(s)
        with torch.no_grad():
            x0_hat, var = reverse(x, t, s)
            std = wide(var, x).sqrt().to(x) * torch.sign(like(to[1], x))
            x = ancestral_step(x, x0_hat, at, to, randn_like=torch.zeros_like) + std * randn_like(x)
        yield x, x0_hat


class LearnedVariance(Denoiser):
    """A denoiser whose net answers with a second picture u beside the first, the width of each number's step:

    log var = v log beta + (1 - v) log beta-tilde, v = (u + 1) / 2. Source: Nichol & Dhariwal 2021 (arXiv 2102.09672),
    equation 15.
    """

    def halves(self, x: Float[Tensor, "b c *d"], t: Float[Tensor, "..."], cond: object = None) -> tuple[Tensor, Tensor]:
        """What the net answers: an estimate of a x0 + b eps, and u."""
        return self.answer(x, t, cond).chunk(2, 1)

    def predict(self, x: Float[Tensor, "b c *d"], t: Float[Tensor, "..."], cond: object = None
                ) -> Float[Tensor, "b c *d"]:
        """The first half alone."""
        return self.halves(x, t, cond)[0]

    def width(self, u: Float[Tensor, "b c *d"], t: Float[Tensor, "..."], s: Float[Tensor, "..."]
              ) -> Float[Tensor, "b c *d"]:
        """The variance of each number's step from t to s."""
        v, low, high = (u + 1) / 2, *(like(f(self.schedule, t, s).log(), u) for f in (small, large))
        return (v * high + (1 - v) * low).exp()

    def reverse(self, x: Float[Tensor, "b c *d"], t: Float[Tensor, "..."], s: Float[Tensor, "..."],
                cond: object = None) -> Guess:
        """x0_hat and var of the step from t to s, any skip, for one evaluation of the net."""
        answer, u = self.halves(x, t, cond)
        return self.solved(x, t, answer), self.width(u, t, s)

    def hybrid(self, x0: Float[Tensor, "b c *d"], t: Float[Tensor, "b"], weight: float = .001,
               cond: object = None) -> dict[str, Tensor]:
        """L_simple + weight * T * L_t, L_t one term of the bound in nats a number, which teaches u alone.

        The times are those of a discrete schedule, 1/T ... 1; in L_t x0_hat is held fixed.
        Source: Nichol & Dhariwal 2021, equation 16 and section 3.1.
        """
        eps, T = torch.randn_like(x0), self.schedule.T
        s = (t - 1 / T).clamp(min=0)
        x = add_noise(self.schedule, x0, t, eps)
        answer, u = self.halves(x, t, cond)
        simple = (answer - self.asked(x0, t, eps)).square().mean()
        guess = self.solved(x, t, answer.detach()), self.width(u, t, s)
        nats = one_term(guess, self.schedule(t), self.schedule(s), x0)
        bound = T * nats.sum() / x0.numel()
        return {"loss": simple + weight * bound, "simple": simple, "bound": bound}
