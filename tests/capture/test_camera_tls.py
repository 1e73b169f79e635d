"""Certificates of rtsps:// cameras: who gets the password, and who does not."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from pathlib import Path

import pytest

import edge.capture.camera_tls
from edge.capture import open_source
from edge.capture.camera_tls import MIN_AVFORMAT, OPTIONS, ffmpeg_version
from edge.core.errors import SourceError
from edge.core.source_address import SourceAddress
from tests.support.authority import Authority

pytest.importorskip("cryptography")


class Camera:
    """Answers nothing; remembers the first lines of what reaches it through TLS."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(cert, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                try:
                    with self._tls.wrap_socket(connection, server_side=True) as encrypted:
                        self.heard.append(encrypted.recv(1000))
                except OSError:
                    self.heard.append(b"")
            if self.heard[-1] == b"":
                return

    def end(self) -> None:
        """End the thread by a connection that says nothing."""
        with socket.create_connection(("127.0.0.1", self.port), 5):
            pass
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def reached(authority: Authority, ca: Path | None, host: str = "127.0.0.1", *names: str) -> list[bytes]:
    """Return what a camera with a certificate of the authority, made out to these names, hears of us."""
    signed = authority.sign("camera", *names)
    camera = Camera(signed.cert, signed.key)
    address = SourceAddress(
        "rtsps", f"rtsps://{host}:{camera.port}/main", {}, "viewer", "S3cret", ca=str(ca) if ca else None
    )
    before = os.environ.get(OPTIONS)
    try:
        with pytest.raises(SourceError, match="cannot be opened"):
            open_source(address)
    finally:
        camera.end()
    assert os.environ[OPTIONS] == before or before is None
    return [heard for heard in camera.heard if heard]


@pytest.fixture
def verifying() -> None:
    if ffmpeg_version() < MIN_AVFORMAT:
        pytest.skip(f"FFmpeg of this OpenCV does not verify cameras (avformat {ffmpeg_version()})")


@pytest.mark.usefixtures("verifying")
def test_a_camera_of_the_authority_is_spoken_to(authority: Authority) -> None:
    assert reached(authority, authority.ca)


@pytest.mark.usefixtures("verifying")
def test_nothing_is_said_to_a_camera_of_another_authority(authority: Authority, tmp_path: Path) -> None:
    assert reached(authority, Authority(tmp_path, "other").ca) == []


@pytest.mark.usefixtures("verifying")
@pytest.mark.parametrize(
    ("host", "name", "is_spoken_to"),
    [("localhost", "localhost", True), ("localhost", "camera.test", False), ("127.0.0.1", "camera.test", True)],
)
def test_a_host_name_must_be_in_the_certificate_and_an_address_need_not(
    authority: Authority, host: str, name: str, *, is_spoken_to: bool
) -> None:
    assert bool(reached(authority, authority.ca, host, name)) == is_spoken_to


def test_without_an_authority_any_certificate_will_do(authority: Authority) -> None:
    assert reached(authority, None)


def test_an_ffmpeg_that_cannot_verify_is_said_and_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.capture.camera_tls, "ffmpeg_version", lambda: 59)
    with pytest.raises(
        SourceError, match=r"ca is set, but FFmpeg in this OpenCV \(avformat 59\) cannot verify"
    ) as raised:
        open_source(SourceAddress("rtsps", "rtsps://127.0.0.1:9/main", {}, "viewer", "S3cret", ca="/camera.pem"))
    assert raised.value.permanent
    assert "S3cret" not in str(raised.value)
