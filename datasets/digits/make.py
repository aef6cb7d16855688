"""Make digits.npz from scikit-learn's copy of the UCI digits: pip install scikit-learn, then python make.py.

The file holds `pictures` uint8 [1797, 8, 8] with values 0…16 and `labels` uint8 [1797], in the order of the source.
The members carry a fixed date, so that the same numbers give the same file on the same zlib.
"""
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent


def main() -> None:
    source = load_digits()
    arrays = {"pictures": source.images.astype(np.uint8), "labels": source.target.astype(np.uint8)}
    assert (arrays["pictures"] == source.images).all() and (arrays["labels"] == source.target).all()
    with zipfile.ZipFile(HERE / "digits.npz", "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    for name, array in arrays.items():
        print(f"{name:8}  {array.dtype} {array.shape}  SHA-256 {hashlib.sha256(array.tobytes()).hexdigest()}")
    print(f"digits.npz  {(HERE / 'digits.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
