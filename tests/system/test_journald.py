"""Log lines in the real journal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.journal_socket import Listener
from tests.support.process import clean_environment
from tests.support.project import ROOT
from tests.support.waiting import PATIENCE_S

JOURNALD = Path("/lib/systemd/systemd-journald")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listening = Listener(tmp_path / "journal")
    yield listening
    listening.close()


COMMAND = """
import sys
from edge.host import journal
journal.SOCKET = sys.argv.pop(1)
from edge.cli.main import main
sys.exit(main())
"""


def test_a_command_logs_to_the_journal_where_standard_error_does(tmp_path: Path, listener: Listener) -> None:
    """The stream that systemd hands over is known by its device and inode; what it carries is not ours then."""
    reading, writing = os.pipe()
    status = os.fstat(writing)
    stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    missing = tmp_path / "edge.toml"
    command = [sys.executable, "-c", COMMAND, listener.path, "run", str(missing), "--state-dir", str(tmp_path)]
    ended = subprocess.run(
        command, cwd=ROOT, stderr=writing, check=False, env=clean_environment(stream), timeout=PATIENCE_S
    )
    os.close(writing)
    with open(reading, "rb") as stderr:  # noqa: PTH123 -- there is no path
        assert stderr.read() == b""
    assert ended.returncode == 2
    fields = listener.next()
    assert fields["MESSAGE"] == f"{missing} cannot be read (No such file or directory); wanted a readable TOML file"
    assert fields["PRIORITY"] == "3"


# A journald of its own, in a /run of its own.
SCENE = """
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/systemd/journal /run/log/journal
echo 0123456789abcdef0123456789abcdef > /run/machine-id
touch /etc/machine-id 2>/dev/null || true
mount --bind /run/machine-id /etc/machine-id
"$1" >/dev/null 2>&1 &
journald=$!
for _ in $(seq 100); do [ -S /run/systemd/journal/socket ] && break; sleep 0.1; done
"$2" -c "$3"
for _ in $(seq 100); do
    journalctl --all --output=json SYSLOG_IDENTIFIER=edge > "$4" 2>/dev/null
    [ "$(wc -l < "$4")" -ge 2 ] && break
    sleep 0.1
done
kill "$journald"
"""
SPEAK = """
import logging
from edge.host.journal import SOCKET, JournalHandler
logger = logging.Logger("edge")
logger.addHandler(JournalHandler(SOCKET))
logger.error("one\\ntwo", extra={"stream": "door"})
logger.info("x" * 300_000)
"""


def test_journald_itself_reads_it(tmp_path: Path) -> None:
    if not JOURNALD.exists() or shutil.which("unshare") is None or shutil.which("journalctl") is None:
        pytest.skip("systemd's journal is not installed: apt-get install systemd")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    out = tmp_path / "journal.json"
    command = ["unshare", "--mount", "bash", "-c", SCENE, "-", str(JOURNALD), sys.executable, SPEAK, str(out)]
    scene = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    if scene.returncode:
        pytest.skip(f"journald does not run here: {scene.stderr.strip()}")
    entries = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    short, long = entries
    assert (short["MESSAGE"], short["PRIORITY"], short["EDGE_STREAM"]) == ("one\ntwo", "3", "door")
    assert long["PRIORITY"] == "6"
    assert long["MESSAGE"] == "x" * 300_000
