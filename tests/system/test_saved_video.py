"""Annotated pictures and videos of `edge detect`."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.cli.frame_writer import opened_writer

SIZE_PX = (65, 47)  # odd: players of H.264 want even ones


def save(path: Path) -> None:
    with opened_writer(path) as write:
        for number in range(3):
            write(np.full((SIZE_PX[1], SIZE_PX[0], 3), 60 * number, np.uint8), number / 10)


def codec(path: Path) -> str:
    video = cv2.VideoCapture(str(path))
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == 3
    code = int(video.get(cv2.CAP_PROP_FOURCC))
    return code.to_bytes(4, "little").decode()


def test_a_video_is_one_that_browsers_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed: apt-get install ffmpeg")
    save(tmp_path / "out.mp4")
    assert codec(tmp_path / "out.mp4") in ("avc1", "h264")
    assert capsys.readouterr().err == f"written to {tmp_path}/out.mp4\n"


def test_without_an_encoder_it_is_told_that_browsers_will_not_play_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    save(tmp_path / "out.mp4")
    told = capsys.readouterr().err
    assert "which browsers do not play: there is no H.264 encoder; for one, install the program ffmpeg" in told
    save(tmp_path / "out.webm")
    assert codec(tmp_path / "out.webm") == "VP80"
    assert capsys.readouterr().err == f"written to {tmp_path}/out.webm\n"


def test_a_picture_is_told_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened_writer(tmp_path / "out.png") as write:
        write(np.zeros((4, 4, 3), np.uint8), 0.0)
    assert capsys.readouterr().err == f"written to {tmp_path}/out.png\n"
