"""The handwritten digits that come with scikit-learn, as pictures, and the part of them that no training sees.

Run with a folder's name, it writes those for training there as PNG files, for calibration.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

HELD_OUT = 599  # the last third, in the order that they come in: neighbours may be of one hand
_LARGEST = 16  # of scikit-learn's pixels


class Digits(NamedTuple):
    pictures: NDArray[np.uint8]  # (N, 8, 8), gray, ink is bright: 0…255
    classes: NDArray[np.int64]  # (N,), 0…9


def read_digits() -> tuple[Digits, Digits]:
    """Return those for training and those held out."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 -- not among the requirements of the runtime

    found = load_digits()
    pictures = np.rint(found.images * (255 / _LARGEST)).astype(np.uint8)
    classes = found.target.astype(np.int64)
    return Digits(pictures[:-HELD_OUT], classes[:-HELD_OUT]), Digits(pictures[-HELD_OUT:], classes[-HELD_OUT:])


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    training, _ = read_digits()
    for number, picture in enumerate(training.pictures):
        cv2.imwrite(str(folder / f"{number:04}.png"), picture)


if __name__ == "__main__":
    main()
