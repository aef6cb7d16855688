"""The shipped digits are the source's integers, whatever the machine that compressed them."""
import hashlib
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parent.parent / "datasets" / "digits" / "digits.npz"
SHEET = FILE.with_name("README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def arrays():
    with np.load(FILE, allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize("name", ["pictures", "labels"])
def test_the_integers_have_the_checksum_of_the_data_sheet(arrays, name):
    digest = hashlib.sha256(np.ascontiguousarray(arrays[name]).tobytes()).hexdigest()
    assert f"| `{name}` | `{digest}` |" in SHEET


def test_counts_are_those_that_the_source_publishes(arrays):
    published = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]       # the repository's page, testing set, 0 to 9
    assert np.bincount(arrays["labels"]).tolist() == published
    assert "| pictures | " + " | ".join(map(str, published)) + " | 1,797 |" in SHEET


def test_values_and_layout(arrays):
    pictures, labels = arrays["pictures"], arrays["labels"]
    assert pictures.dtype == labels.dtype == np.uint8 and pictures.shape == (len(labels), 8, 8)
    assert (pictures.min(), pictures.max()) == (0, 16)
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == len(pictures)


def test_pictures_and_labels_belong_together(arrays):
    """Nearest neighbours by pixels carry the same label, which shuffled or transposed arrays would not show."""
    x, y = arrays["pictures"].reshape(-1, 64).astype(float), arrays["labels"]
    distance = (x ** 2).sum(1)[:, None] - 2 * x @ x[:300].T              # squared, up to a constant a column
    distance[np.arange(300), np.arange(300)] = np.inf
    assert (y[distance.argmin(0)] == y[:300]).mean() > 0.97
    upper, lower = arrays["pictures"][y == 7][:, :3].mean(), arrays["pictures"][y == 7][:, 5:].mean()
    assert upper > 1.3 * lower                                           # a 7 has its bar on top


def test_the_file_is_small_and_dated_alike():
    import zipfile
    assert FILE.stat().st_size < 120_000
    assert {entry.date_time for entry in zipfile.ZipFile(FILE).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_data_are_scikit_learns(arrays):
    source = pytest.importorskip("sklearn.datasets").load_digits()
    assert (source.images == arrays["pictures"]).all() and (source.target == arrays["labels"]).all()
