"""The metrics against their definitions: moments, optimal transport, kernels and neighbours counted by hand."""
import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch

from minidiff import captions, weights
from minidiff.data import rng
from minidiff.metrics import FeatureStatistics, clip_score, fid, frechet_distance, kid, precision_recall
from minidiff.scenes import full, render


def features(n, d, *key, mean=0., scale=1.):
    """Correlated normal numbers."""
    mix = torch.randn(d, d, generator=rng("mix", *key), dtype=torch.float64) / d ** .5
    return mean + scale * torch.randn(n, d, generator=rng("features", *key), dtype=torch.float64) @ mix


def moments(x):
    return x.mean(0), torch.cov(x.T)


# --- moments ----------------------------------------------------------------------------------------------------------

def test_statistics_of_parts_add_up_to_those_of_the_whole():
    x = features(500, 7, 0, mean=100.)
    parts = x.float().double().split([1, 99, 250, 150])
    whole = sum(map(FeatureStatistics.of, parts))
    assert whole.n == 500
    np.testing.assert_allclose(whole.mean, x.float().double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(x.float().numpy().astype(float), rowvar=False), rtol=1e-9)
    other = FeatureStatistics.of(parts[3]) + FeatureStatistics.of(parts[1])
    np.testing.assert_allclose((other + FeatureStatistics.of(parts[0])).scatter,
                               FeatureStatistics.of(torch.cat([parts[0], parts[1], parts[3]])).scatter, rtol=1e-9)


def test_features_in_half_precision_are_summed_in_double():
    x = (1000 + features(4000, 2, 1)).float()
    assert torch.allclose(FeatureStatistics.of(x).covariance, torch.cov(x.double().T), rtol=1e-9)


# --- the Frechet distance ---------------------------------------------------------------------------------------------

def test_frechet_distance_by_the_matrix_root_and_by_the_eigenvalues_of_the_product():
    (m1, c1), (m2, c2) = moments(features(400, 6, 2)), moments(features(300, 6, 3, mean=.5, scale=2.))
    ours = frechet_distance(m1, c1, m2, c2)
    root = scipy.linalg.sqrtm((c1 @ c2).numpy())
    straight = float((m1 - m2).square().sum() + (c1 + c2).trace()) - 2 * np.trace(root).real
    eigenvalues = np.linalg.eigvals((c1 @ c2).numpy()).real.clip(min=0)
    product = float((m1 - m2).square().sum() + (c1 + c2).trace()) - 2 * np.sqrt(eigenvalues).sum()
    assert ours == pytest.approx(straight, rel=1e-9) == pytest.approx(product, rel=1e-9)
    assert ours == pytest.approx(frechet_distance(m2, c2, m1, c1), rel=1e-9)


def test_frechet_distance_is_optimal_transport_in_one_dimension():
    """The cheapest way to move sorted samples on each other, by their quantiles."""
    u = (torch.arange(200_000, dtype=torch.float64) + .5) / 200_000
    normal = math.sqrt(2) * torch.erfinv(2 * u - 1)
    cost = float(((.3 + 2 * normal) - (-1 + .5 * normal)).square().mean())
    one = torch.tensor([.3]), torch.tensor([[4.]]), torch.tensor([-1.]), torch.tensor([[.25]])
    assert frechet_distance(*one) == pytest.approx(cost, rel=1e-3)


def test_frechet_distance_is_optimal_transport_in_the_plane():
    """No pairing of two clouds of samples costs much less, and the best pairing costs no more."""
    a, b = features(1500, 2, 4), features(1500, 2, 5, mean=1., scale=1.5)
    pairs = scipy.optimize.linear_sum_assignment(torch.cdist(a, b).square().numpy())
    cheapest = float((a[pairs[0]] - b[pairs[1]]).square().sum(1).mean())
    ours = fid(a, b)
    assert ours <= cheapest < 1.03 * ours                     # a bound from below (Gelbrich), and tight for Gaussians
    shuffled = float((a - b).square().sum(1).mean())
    assert shuffled > 1.3 * ours


def test_of_equal_covariances_only_the_means_count():
    c = torch.cov(features(100, 5, 6).T)
    m = torch.arange(5.).double()
    assert frechet_distance(m, c, torch.zeros(5), c) == pytest.approx(30., rel=1e-9)
    assert frechet_distance(m, c, m, c) == pytest.approx(0., abs=1e-9)


def test_fewer_features_than_numbers():
    """The root's trace is the sum of singular values of the product of the centred features, whatever their rank."""
    a, b = features(12, 30, 7), features(20, 30, 8, mean=.2)
    with pytest.warns(UserWarning, match="12 features of 30 numbers"), pytest.warns(UserWarning, match="20 features"):
        ours = fid(a, b)
    x, y = a - a.mean(0), b - b.mean(0)
    nuclear = float(torch.linalg.svdvals(x @ y.T).sum()) / math.sqrt(11 * 19)
    traces = float(x.square().sum() / 11 + y.square().sum() / 19)
    assert ours == pytest.approx(float((a.mean(0) - b.mean(0)).square().sum()) + traces - 2 * nuclear, rel=1e-8)


def test_enough_features_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fid(features(40, 5, 9), features(40, 5, 9)) == pytest.approx(0., abs=1e-9)


def test_fid_falls_towards_the_truth_like_one_over_n():
    """Two samples of one distribution: the bias halves when n doubles."""
    def mean_of(n):
        return np.mean([fid(features(n, 8, 10), torch.randn(n, 8, generator=rng("other", n, k), dtype=torch.float64)
                            @ torch.randn(8, 8, generator=rng("mix", 10), dtype=torch.float64) / 8 ** .5)
                        for k in range(60)])
    small, large = mean_of(100), mean_of(400)
    assert 2.5 < small / large < 6


# --- the kernel distance ----------------------------------------------------------------------------------------------

def test_kid_is_its_definition():
    a, b = features(9, 4, 11), features(9, 4, 12, mean=.3)
    def k(x, y):
        return (float(x @ y) / 4 + 1) ** 3
    within = sum(k(x, y) for s in (a, b) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) / 72
    across = sum(k(x, y) for x in a for y in b) / 81
    found, error = kid(a, b)
    assert found == pytest.approx(within - 2 * across, rel=1e-9) and math.isnan(error)


def test_kid_has_no_bias_and_knows_its_error():
    """Of equal distributions it is 0 in the mean, below 0 half of the time; its standard error is its spread."""
    found = [kid(torch.randn(60, 3, generator=rng("a", s)), torch.randn(60, 3, generator=rng("b", s)), 20)
             for s in range(300)]
    values, errors = (np.array(v) for v in zip(*found, strict=True))
    assert abs(values.mean()) < 4 * values.std() / 300 ** .5 and .35 < (values < 0).mean() < .75
    assert np.sqrt((errors ** 2).mean()) == pytest.approx(values.std(), rel=.25)


def test_kid_uses_every_picture_once():
    a, b = features(50, 3, 13), features(41, 3, 14)
    by_hand = np.mean([kid(a[i:i + 20], b[i:i + 20])[0] for i in (0, 20)])
    assert kid(a, b, 20)[0] == pytest.approx(by_hand, rel=1e-9)


# --- precision and recall ---------------------------------------------------------------------------------------------

def test_precision_and_recall_on_a_line():
    """Data at 0, 1, 2, 10; made at 1.4, 11.5, 30; each reaches its nearest neighbour."""
    data, made = torch.tensor([[0.], [1.], [2.], [10.]]), torch.tensor([[1.4], [11.5], [30.]])
    # reach of the data: 1, 1, 1, 8; of the made: 10.1, 10.1, 18.5
    found = precision_recall(data, made, k=1)
    assert found["precision"] == pytest.approx(2 / 3)                  # 1.4 by the data 1 and 2, 11.5 by 10, 30 by none
    assert found["recall"] == 1.                                       # all within 10.1 of 1.4 or of 11.5
    assert found["density"] == pytest.approx((2 + 1 + 0) / 3)
    assert found["coverage"] == pytest.approx(3 / 4)                   # 0 has nothing within 1


def test_precision_and_recall_by_counting():
    data, made, k = features(40, 3, 15).float(), features(30, 3, 16, scale=1.3).float(), 3
    def reach(s):
        return [sorted(float((x - y).norm()) for y in s)[k] for x in s]
    ours, theirs = reach(data), reach(made)
    inside = [[float((x - y).norm()) <= r for y, r in zip(data, ours, strict=True)] for x in made]
    found = precision_recall(data, made, k)
    assert found["precision"] == pytest.approx(np.mean([any(row) for row in inside]))
    assert found["density"] == pytest.approx(np.mean([sum(row) / k for row in inside]))
    assert found["coverage"] == pytest.approx(np.mean([any(row[j] for row in inside) for j in range(40)]))
    assert found["recall"] == pytest.approx(np.mean([any(float((x - y).norm()) <= r for y, r in
                                                         zip(made, theirs, strict=True)) for x in data]))


def test_a_copied_set_and_a_lost_mode():
    data = torch.cat([features(100, 2, 17), features(100, 2, 18, mean=30.)])
    copied, half = precision_recall(data, data), precision_recall(data, features(100, 2, 19))
    assert copied["precision"] == copied["recall"] == copied["coverage"] == 1.
    assert half["recall"] < .55 and half["coverage"] < .55
    many = precision_recall(features(1500, 2, 17), features(1200, 2, 17))                # distances come in pieces
    assert many["precision"] > .95


# --- CLIP score -------------------------------------------------------------------------------------------------------

def test_clip_score_is_a_cosine_in_percent_and_never_below_zero():
    clip, scenes = weights.load("clip"), full(6, rng("clip score"))
    told, x = captions.write(scenes, rng("told"), complete=True), render(scenes)
    found = clip_score(clip, x, told)
    with torch.no_grad():
        u = clip.picture(x)
        w = clip.project(clip.text(captions.encode(told)).pooled)
        cosine = torch.nn.functional.cosine_similarity(u, w)
    torch.testing.assert_close(found, 100 * cosine.clamp(min=0), rtol=1e-4, atol=1e-3)
    assert (clip_score(clip, x, told[::-1]) >= 0).all() and found.mean() > clip_score(clip, x, told[::-1]).mean()


# --- what is refused --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ask, words", [
    (lambda: fid(torch.zeros(0, 3), torch.zeros(4, 3)), "n > 0"),
    (lambda: fid(torch.zeros(4, 3, 3), torch.zeros(4, 3)), "features are"),
    (lambda: fid(torch.zeros(4, 3), torch.zeros(4, 5)), "equal d"),
    (lambda: kid(torch.full((4, 3), math.nan), torch.zeros(4, 3)), "4 of 4 features are not finite"),
    (lambda: kid(torch.zeros(1, 3), torch.zeros(9, 3)), "at least two"),
    (lambda: FeatureStatistics.of(torch.zeros(1, 3)).covariance, "at least two"),
    (lambda: precision_recall(torch.zeros(3, 2), torch.zeros(9, 2)), "no 3-th neighbour"),
    (lambda: frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(3), torch.eye(3)), "2 numbers each should"),
    (lambda: clip_score(weights.load("clip"), torch.zeros(2, 3, 32, 32), ["a circle"]), "2 pictures but 1 captions")])
def test_what_cannot_be_compared_is_named(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()

