"""How near a generator's pictures are to the data: Fréchet and kernel distance, precision and recall, CLIP score.

Two sets of pictures are compared by their features [n d] in float64. Which network makes them is the caller's choice:
`weights.load("features")` for scenes, one trained on photographs for those.
"""
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.autoencoder import AutoencoderConfig, to_vector
from minidiff.captions import encode
from minidiff.clip import Clip


@dataclass(frozen=True)
class FeaturesConfig:
    """How many numbers describe a picture, how many questions about it they must answer, and the network's layers."""
    d: int = 64
    answers: int = 157
    net: AutoencoderConfig = AutoencoderConfig(side=32, encoder=(32, 64, 96), neck=32)


class Features(nn.Module):
    """A picture as numbers from which a classifier answers, as those of Inception's last layer but one."""

    def __init__(self, config: FeaturesConfig):
        super().__init__()
        self.config, self.net = config, to_vector(config.net, config.d)
        self.answers = nn.Linear(config.d, config.answers)
        self.register_buffer("unit", torch.ones(()))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The features, in a unit in which their variances over the world are 1 on average."""
        return self.net(x).float() / self.unit

    def logits(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """The answers."""
        return self.answers(F.silu(self(x) * self.unit))


@dataclass(frozen=True)
class FeatureStatistics:
    """Count, mean and scatter sum (x - mean)(x - mean)^T of features; statistics of parts add up to those of the whole.

    sum(map(FeatureStatistics.of, batches)) never holds more than a batch.
    """
    n: int
    mean: Float[Tensor, "d"]
    scatter: Float[Tensor, "d d"]

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> "FeatureStatistics":
        """Of one batch."""
        x, = checked(features)
        centred = x - x.mean(0)
        return cls(len(x), x.mean(0), centred.T @ centred)

    def __add__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Source: Chan, Golub & LeVeque 1983 (The American Statistician 37), equation 2.1."""
        n, gap = self.n + other.n, other.mean - self.mean
        between = torch.outer(gap, gap) * self.n * other.n / n
        return FeatureStatistics(n, self.mean + gap * other.n / n, self.scatter + other.scatter + between)

    def __radd__(self, nothing: int) -> "FeatureStatistics":
        """So that `sum` can begin with 0."""
        return self

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Unbiased; of fewer than d + 1 features it has no full rank, and says so."""
        if self.n < 2:
            raise ValueError("a covariance needs at least two features")
        if self.n <= len(self.mean):
            warnings.warn(f"{self.n} features of {len(self.mean)} numbers leave directions in which nothing varies, so "
                          "the Fréchet distance will be too large: take more pictures", stacklevel=2)
        return self.scatter / (self.n - 1)


def checked(*sets: Tensor) -> list[Float[Tensor, "n d"]]:
    """Features of one network in float64, if they are some, and numbers."""
    for x in sets:
        if x.ndim != 2 or not len(x) or x.shape[1] != sets[0].shape[1]:
            raise ValueError(f"features are [n, d], n > 0, with equal d, not {[list(x.shape) for x in sets]}")
        if not x.isfinite().all():
            raise ValueError(f"{int((~x.isfinite()).any(1).sum())} of {len(x)} features are not finite: look for a "
                             "division or logarithm that meets zero, or pictures that are not numbers")
    return [x.double() for x in sets]


def frechet_distance(mean1: Float[Tensor, "d"], cov1: Float[Tensor, "d d"], mean2: Float[Tensor, "k"],
                     cov2: Float[Tensor, "k k"]) -> float:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)), squared, as FID is.

    The root's trace is the sum of the roots of the eigenvalues of A^T cov2 A with cov1 = A A^T, a symmetric matrix.
    Source: Dowson & Landau 1982 (Journal of Multivariate Analysis 12), equation 4.
    """
    if {len(mean1), *cov1.shape, len(mean2), *cov2.shape} != {len(mean1)}:
        raise ValueError(f"of {len(mean1)} numbers each should be, not {len(mean2)}, {[*cov1.shape]}, {[*cov2.shape]}")
    a, singular = torch.linalg.cholesky_ex(cov1.double())
    if singular:                                                                    # then by its eigenvectors
        values, vectors = torch.linalg.eigh(cov1.double())
        a = vectors * values.clamp(min=0).sqrt()
    roots = torch.linalg.eigvalsh(a.T @ cov2.double() @ a).clamp(min=0).sqrt()
    traces = (cov1.double() + cov2.double()).trace()
    return float(((mean1.double() - mean2.double()).square().sum() + traces - 2 * roots.sum()).clamp(min=0))


def fid(a: Float[Tensor, "n *d"], b: Float[Tensor, "m *k"]) -> float:
    """The Fréchet distance of two normal distributions with the moments of these features.

    Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6.
    """
    one, two = map(FeatureStatistics.of, checked(a, b))
    return frechet_distance(one.mean, one.covariance, two.mean, two.covariance)


def kid(a: Float[Tensor, "n *d"], b: Float[Tensor, "m *k"], size: int = 500) -> tuple[float, float]:
    """The unbiased squared distance of two sets under the kernel (x . y / d + 1)^3, and its standard error.

    Both are cut into blocks of `size` that share no picture, so their estimates are independent; it may be below 0. Of
    few blocks the error is a rough one, and of a single block it is nan.
    Source: Binkowski et al. 2018 (arXiv 1801.01401), section 4 and equation 4.
    """
    a, b = checked(a, b)
    blocks = min(len(a), len(b)) // (size := min(size, len(a), len(b)))
    if size < 2:
        raise ValueError("the kernel distance needs at least two pictures on each side")

    a, b = (x[:blocks * size].unflatten(0, (blocks, size)) for x in (a, b))
    aa, bb, ab = ((x @ y.mT / x.shape[2] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))     # [blocks size size]
    within = sum(k.sum((1, 2)) - k.diagonal(dim1=1, dim2=2).sum(1) for k in (aa, bb)) / (size * (size - 1))
    found = within - 2 * ab.mean((1, 2))
    return float(found.mean()), float(found.std() / blocks ** .5) if blocks > 1 else float("nan")


def radii(x: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n"]:
    """Of each point the distance to its k-th nearest neighbour, itself not counted."""
    if not 1 <= k < len(x):
        raise ValueError(f"among {len(x)} pictures there is no {k}-th neighbour")
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in x.split(1000)])


def precision_recall(data: Float[Tensor, "n *d"], made: Float[Tensor, "m *k"], k: int = 3) -> dict[str, float]:
    """Precision: share of made features within the reach of some datum, the distance to its k-th neighbour among data.

    Recall: the same with the sets exchanged. Density: how many data reach a made feature, over k; coverage: the share
    of data that have a made feature within their reach.
    Sources: Kynkaanniemi et al. 2019 (arXiv 1904.06991), equations 1 and 2; Naeem et al. 2020 (arXiv 2002.09797), 3, 4.
    """
    data, made = checked(data, made)
    near = torch.cdist(made, data)                                                  # [m n]
    reached, back = near <= radii(data, k), near <= radii(made, k)[:, None]
    return {"precision": float(reached.any(1).double().mean()), "recall": float(back.any(0).double().mean()),
            "density": float(reached.sum(1).double().mean() / k), "coverage": float(reached.any(0).double().mean())}


@torch.no_grad()
def clip_score(clip: Clip, pictures: Float[Tensor, "n 3 h w"], captions: list[str]) -> Float[Tensor, "n"]:
    """100 max(0, cos) of each picture and its caption, as torchmetrics has it.

    After Hessel et al. 2021 (arXiv 2104.08718), equation 1, whose weight is 2.5 in place of 100.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures but {len(captions)} captions: each picture needs one caption")
    pairs = zip(pictures.split(250), encode(captions).split(250), strict=True)
    return torch.cat([100 * (clip.encode_pictures(x) * clip.encode_text(c)).sum(1).clamp(min=0) for x, c in pairs])
