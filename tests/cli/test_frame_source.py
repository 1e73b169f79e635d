"""Frames to calibrate and to verify with: spread over what has an end, now and then of what has none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cli.engines.frame_source import open_frames, spread
from edge.core.errors import ConfigError, SourceError
from edge.core.records import Image
from tests.support.grey_video import write_video


def read(source: str | Path, count: int) -> list[Image]:
    return [shown.picture for shown in open_frames(str(source), count, "--frames").frames]


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03}.png"), np.full((8, 8, 3), number, np.uint8))
    return folder


@given(st.integers(1, 250), st.integers(1, 40))
def test_frames_are_spread_evenly_over_all_of_a_source(length: int, count: int) -> None:
    places = spread(range(length), count)
    assert len(places) == min(length, count)
    steps = np.diff([-1 - places[0], *places, 2 * length - places[-1]])
    assert steps.max() - steps.min() <= 2


def test_a_folder_a_picture_and_a_scene_give_frames(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 9)
    assert [int(frame[0, 0, 0]) for frame in read(folder, 3)] == [1, 4, 7]
    assert len(read(folder / "004.png", 3)) == 1
    chosen = open_frames("synthetic://conveyor?frames=10&size=160x120", 2, "--frames")
    assert [(shown.name, shown.picture.shape) for shown in chosen.frames] == [
        ("frame 2", (120, 160, 3)),
        ("frame 7", (120, 160, 3)),
    ]


def test_an_endless_scene_is_followed_for_a_while() -> None:
    endless = open_frames("synthetic://conveyor?size=160x120", 3, "--frames")
    assert (endless.count, [shown.name for shown in endless.frames]) == (3, ["frame 0", "frame 15", "frame 30"])


def test_a_video_is_read_to_its_end(tmp_path: Path) -> None:
    write_video(tmp_path / "nine.avi", 9, shade_step=10)
    assert [frame.mean() for frame in read(tmp_path / "nine.avi", 3)] == pytest.approx([10, 40, 70], abs=3)


def test_a_picture_of_a_folder_that_is_damaged_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = pictures(tmp_path / "pictures", 3)
    whole = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(whole[: len(whole) // 2])
    assert len(read(folder, 3)) == 2
    assert "001.png" in caplog.text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere.mp4", "does not exist"),
        ("user:hunter2@cam/main", "…@cam/main does not exist"),
        ("ftp://host/x", "scheme 'ftp' is not known"),
        ("empty", "holds no picture"),
    ],
)
def test_what_gives_no_frames_is_told_in_a_sentence(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "empty", 0)
    with pytest.raises((ConfigError, SourceError), match=reason):
        read(source, 4)
