"""Frames of a real camera server, as commands read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.cli.engines.frame_source import open_frames
from edge.core.records import Image
from tests.support.rtsp import RtspServer


def read(source: str | Path, count: int) -> list[Image]:
    return [shown.picture for shown in open_frames(str(source), count, "--frames").frames]


@pytest.mark.rtsp
def test_a_camera_gives_frames(rtsp_server: RtspServer) -> None:
    assert len(read(rtsp_server.secret_url, 3)) == 3
