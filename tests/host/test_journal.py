"""Log records in the journal's native protocol, over a real socket, and read by journald itself if installed."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host import journal
from edge.host.journal import JournalHandler, entry, journal_handler
from tests.support.process import clean_environment
from tests.support.project import ROOT
from tests.support.waiting import PATIENCE_S

JOURNALD = Path("/lib/systemd/systemd-journald")


def parse(data: bytes) -> dict[str, str]:
    """Read an entry as journald does."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name, length = line, int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest.startswith(b"\n"), f"{name!r} does not end where its length says"
            rest = rest[1:]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


class Listener:
    """Where the journal listens."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE_S)
        self._socket.bind(self.path)

    def next(self) -> dict[str, str]:
        """Return the next entry, whichever way it comes."""
        data, rights, _, _ = self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if not rights:
            return parse(data)
        assert data == b"", "an entry comes as a datagram or as a file, not as both"
        fd = array.array("i", rights[0][2])[0]
        with open(fd, "rb") as file:  # noqa: PTH123 -- there is no path
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            file.seek(0)
            return parse(file.read())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listening = Listener(tmp_path / "journal")
    yield listening
    listening.close()


@contextlib.contextmanager
def logging_to(path: str) -> Iterator[logging.Logger]:
    logger = logging.getLogger("edge.trial")
    handler = JournalHandler(path)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(handler)
    handler.close()


@pytest.fixture
def log(listener: Listener) -> Iterator[logging.Logger]:
    with logging_to(listener.path) as logger:
        yield logger


def test_a_record_arrives_with_its_level_its_place_and_what_it_is_about(
    listener: Listener, log: logging.Logger
) -> None:
    log.warning("stream %s is away", "door", extra={"stream": "door", "model": "detector"})
    fields = listener.next()
    assert fields["MESSAGE"] == "stream door is away"
    assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"], fields["LOGGER"]) == ("4", "edge", "edge.trial")
    assert (fields["EDGE_STREAM"], fields["EDGE_MODEL"]) == ("door", "detector")
    assert "EDGE_ENGINE" not in fields
    assert fields["CODE_FILE"] == __file__
    assert fields["CODE_FUNC"] == test_a_record_arrives_with_its_level_its_place_and_what_it_is_about.__name__
    assert int(fields["CODE_LINE"]) > 1


@pytest.mark.parametrize(("level", "priority"), [(50, "2"), (40, "3"), (30, "4"), (20, "6"), (10, "7")])
def test_each_level_has_its_priority(listener: Listener, log: logging.Logger, level: int, priority: str) -> None:
    log.log(level, "told")
    assert listener.next()["PRIORITY"] == priority


def test_a_traceback_is_one_entry(listener: Listener, log: logging.Logger) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        log.exception("it failed")
    message = listener.next()["MESSAGE"]
    assert message.startswith("it failed\nTraceback (most recent call last):\n")
    assert message.endswith("ZeroDivisionError: division by zero")


def test_what_is_too_long_for_a_datagram_comes_as_a_sealed_file(listener: Listener, log: logging.Logger) -> None:
    long = "line\n" * 200_000
    log.error(long)
    fields = listener.next()
    assert fields["MESSAGE"] == long
    assert fields["PRIORITY"] == "3"


def test_a_journal_that_reads_nothing_costs_records_which_are_counted_and_no_time(
    listener: Listener, log: logging.Logger
) -> None:
    for number in range(5000):
        log.info("record %d", number)
    assert listener.next()["MESSAGE"] == "record 0"
    log.info("there is room again")
    arrived = 1
    while (fields := listener.next())["MESSAGE"] != "there is room again":
        assert fields["MESSAGE"] == f"record {arrived}"
        arrived += 1
    assert int(fields["EDGE_RECORDS_LOST"]) == 5000 - arrived > 0


def test_a_journal_that_is_away_is_no_failure_and_is_used_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "later"
    with logging_to(str(path)) as log:
        log.info("nobody hears this")
        listening = Listener(path)
        log.info("this is heard")
        fields = listening.next()
        listening.close()
    assert (fields["MESSAGE"], fields["EDGE_RECORDS_LOST"]) == ("this is heard", "1")


def test_a_record_whose_arguments_do_not_fit_raises_nothing(listener: Listener) -> None:
    """The handler is asked itself, as pytest's own raises what ours must not."""
    handler = JournalHandler(listener.path)
    for arguments in (("many",), (5,)):
        handler.handle(logging.LogRecord("edge", 20, __file__, 1, "%d frames", arguments, None))
    handler.close()
    fields = listener.next()
    assert (fields["MESSAGE"], fields["EDGE_RECORDS_LOST"]) == ("5 frames", "1")


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text(), max_size=6))
def test_whatever_text_the_fields_hold_comes_back(fields: dict[str, str]) -> None:
    sendable = {name: value.encode("utf-8", "replace").decode() for name, value in fields.items()}
    assert parse(entry(fields)) == sendable


@pytest.mark.parametrize("stream", ["", "1:2", "no stream"])
def test_without_a_stream_to_the_journal_records_go_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    assert journal_handler() is None


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


def test_the_name_of_the_socket_is_that_of_the_documentation() -> None:
    assert journal.SOCKET == "/run/systemd/journal/socket"


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
