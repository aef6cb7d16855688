"""A measured share with its interval: what a count out of n tells and what it leaves open."""
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """A share k / n with its 95 % interval."""
    k: int
    n: int

    @property
    def value(self) -> float:
        """k / n."""
        return self.k / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Source: Wilson 1927, the score interval at 95 %."""
        if not self.n:
            return 0., 1.
        z, p = 1.959964, self.k / self.n
        middle, half = p + z * z / (2 * self.n), z * math.sqrt(p * (1 - p) / self.n + z * z / (4 * self.n ** 2))
        return max((middle - half) / (1 + z * z / self.n), 0.), min((middle + half) / (1 + z * z / self.n), 1.)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {self.n}"
