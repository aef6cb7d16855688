"""The same features through torchmetrics and torch-fidelity must give the same distances, precision and recall."""
import numpy as np
import pytest
import torch

from minidiff.data import rng
from minidiff.metrics import fid, kid, precision_recall

KEPT = 16


def features(n, key, mean=0.):
    """Correlated, skewed numbers."""
    mix = torch.randn(KEPT, KEPT, generator=rng("mix"))
    return mean + (torch.randn(n, KEPT, generator=rng("features", key)) @ mix).exp().clamp(max=9)


class Given(torch.nn.Module):
    """A "network" whose pictures are features already."""
    num_features = KEPT

    def forward(self, x):
        return x


@pytest.mark.filterwarnings("ignore:Metric `Kernel")
def test_fid_and_kid_of_torchmetrics():
    theirs = pytest.importorskip("torchmetrics.image.fid"), pytest.importorskip("torchmetrics.image.kid")
    a, b = features(300, "a"), features(300, "b", .4)
    frechet = theirs[0].FrechetInceptionDistance(feature=Given(), input_img_size=(KEPT,))
    kernel = theirs[1].KernelInceptionDistance(feature=Given(), subsets=1, subset_size=300)
    for metric in (frechet, kernel):
        metric.update(a, real=True), metric.update(b, real=False)
    assert fid(a, b) == pytest.approx(float(frechet.compute()), rel=1e-4)
    assert kid(a, b, 300)[0] == pytest.approx(float(kernel.compute()[0]), rel=1e-4)


def test_all_three_of_torch_fidelity():
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric
    a, b = features(200, "c"), features(200, "d", .4)
    moments = [fid_features_to_statistics(x) for x in (a, b)]
    assert fid(a, b) == pytest.approx(fid_statistics_to_metric(*moments, False)["frechet_inception_distance"], rel=1e-4)
    kernel = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=200, verbose=False)
    assert kid(a, b, 200)[0] == pytest.approx(kernel["kernel_inception_distance_mean"], rel=1e-4)
    neighbours = prc_features_to_metric(b, a, prc_neighborhood=3, verbose=False)
    ours = precision_recall(a, b, 3)
    found = [neighbours[name] for name in ("precision", "recall")]
    assert np.allclose(sorted([ours["precision"], ours["recall"]]), sorted(found), rtol=1e-4)
    assert ours["precision"] == pytest.approx(neighbours["precision"], rel=1e-4)
