"""Secrets of a real daemon: never written, never published."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from tests.support.broker import Mosquitto
from tests.support.configuration import belt, write_config
from tests.support.process import StartEdge, run_edge
from tests.support.project import CONVEYOR, program
from tests.support.rtsp import RtspServer
from tests.support.secret_file import secret_file
from tests.support.subscriber import subscribed

# Who may read them


LOAD_AS_NOBODY = """
import os, sys
from pathlib import Path
from edge.core.config import load_config
os.setgid(65534)
os.setuid(65534)
load_config(Path(sys.argv[1]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else for a while")
def test_a_secret_of_somebody_else_is_refused_before_the_daemon_starts() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = secret_file(folder)
        config = write_config(
            folder / "edge.toml", "mqtt://127.0.0.1", {"mqtt": {"username": "u", "password_file": str(path)}}
        )
        done = subprocess.run(
            [sys.executable, "-c", LOAD_AS_NOBODY, config],
            capture_output=True,
            text=True,
            check=False,
            cwd=CONVEYOR.parents[1],
        )
    assert f"{path} cannot be read by this user" in done.stderr


# Nothing of them shows


IN_URL, IN_FILE, OF_CAMERA, IN_CAMERA_URL = "Url-S3cret", "File-S3cret", "pass-word", "Wr0ng-S3cret"
SECRETS = (IN_URL, IN_FILE, OF_CAMERA, IN_CAMERA_URL, "viewer-name")


@pytest.fixture
def closed_broker(tmp_path: Path) -> Mosquitto:
    """Give a broker that wants one of two passwords."""
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    for user, password in (("of-url", IN_URL), ("of-file", IN_FILE)):
        command = [program("mosquitto_passwd", "mosquitto"), "-b", str(passwords), user, password]
        subprocess.run(command, check=True, capture_output=True)
    return Mosquitto(tmp_path, "allow_anonymous true", f"password_file {passwords}", name="closed")


def everything_written(folder: Path) -> bytes:
    """Return all that the daemon and the checks wrote: logs, output, state; not the files that the test wrote."""
    given = ("edge.toml", "password", "camera", "passwords", "closed.db", "closed.conf")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in given]
    return b"".join(path.read_bytes() for path in files)


@pytest.mark.broker
@pytest.mark.rtsp
@pytest.mark.parametrize("way", ["url", "file"])
def test_no_secret_is_written_or_published_even_at_log_level_debug(
    tmp_path: Path, start_edge: StartEdge, closed_broker: Mosquitto, rtsp_server: RtspServer, way: str
) -> None:
    closed_broker.start()
    (tmp_path / "camera").write_text(OF_CAMERA, encoding="utf-8")
    (tmp_path / "camera").chmod(0o600)
    by_file = {"username": "of-file", "password_file": str(secret_file(tmp_path, IN_FILE.encode()))}
    mqtt = {"url": closed_broker.url.replace("//", f"//of-url:{IN_URL}@")} if way == "url" else by_file
    door = {"source": rtsp_server.url, "username": "viewer-name", "password_file": "camera", "model": "conveyor"}
    wrong = {"source": rtsp_server.url.replace("//", f"//viewer-name:{IN_CAMERA_URL}@"), "model": "conveyor"}
    streams = {"streams.door": door, "streams.wrong": wrong, "streams.belt": belt(fps=10)}
    config = write_config(tmp_path / "edge.toml", closed_broker.url, {"mqtt": mqtt} | streams)
    try:
        with subscribed(closed_broker.port, MQTTProtocolVersion.MQTTv5) as subscriber:
            daemon = start_edge(config, options=["--log-level", "debug"])
            subscriber.wait_for_results("door", 3)
            subscriber.wait_for_state("reconnecting", "wrong")
            checked = run_edge("check", config, "--json", "--log-level", "debug", folder=tmp_path)
            assert daemon.end() == 0
            published = b"".join(message.topic.encode() + message.raw for message in subscriber.messages)
    finally:
        closed_broker.kill()
    told = published + checked.stdout.encode() + checked.stderr.encode() + everything_written(tmp_path)
    assert b"door" in told
    assert [secret for secret in SECRETS if secret.encode() in told] == []
    if way == "url":
        assert "[mqtt] url contains a password in its URL" in daemon.log
