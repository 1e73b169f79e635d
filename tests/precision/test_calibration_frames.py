"""Stored calibration frames: unchanged, few, and readable whatever became of the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.core.errors import EdgeError
from edge.precision.calibration_frames import KEPT_FRAMES, read_stored, store_frames, stored_folder


def test_frames_are_kept_as_they_are_and_replace_those_before(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    frames = [random.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(KEPT_FRAMES + 40)]
    folder = stored_folder(tmp_path / "model.onnx", tmp_path / "state")
    store_frames(folder, frames)
    kept = list(read_stored(folder))
    assert len(kept) == KEPT_FRAMES
    assert np.array_equal(kept[0], frames[0])
    assert np.array_equal(kept[-1], frames[-1])
    store_frames(folder, frames[:3])
    assert len(list(folder.iterdir())) == 3


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeError, match=r"calibration frames cannot be stored in .*; check the folder's permissions"):
        store_frames(tmp_path / "file" / "frames", [np.zeros((4, 4, 3), np.uint8)])


def test_a_kept_picture_that_is_damaged_is_passed_over_and_none_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    assert list(read_stored(folder)) == []
    store_frames(folder, [np.full((4, 4, 3), number, np.uint8) for number in range(3)])
    (folder / "001.png").write_bytes(b"not a picture")
    assert [int(frame[0, 0, 0]) for frame in read_stored(folder)] == [0, 2]
