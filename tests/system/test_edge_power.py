"""The privileged service for power modes, as a process."""

from __future__ import annotations

import contextlib
import grp
import json
import multiprocessing
import os
import pwd
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge.power import edge_power
from edge.power.modes import NoSuchModeError, PowerModeError, read_modes, set_mode
from tests.support.emulated_boards.power_modes import install_tools, write_power_modes
from tests.support.long_form import IS_LONG
from tests.support.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the service runs as root, and lets other users in or not")
MODULE = Path(edge_power.__file__)
NOBODY = 65534
FUZZED = 10_000 if IS_LONG else 2_000
Json = dict[str, Any]


@dataclass(frozen=True)
class Helper:
    """The service as a process of its own, on an emulated board."""

    root: Path
    process: subprocess.Popen[bytes]

    @property
    def path(self) -> Path:
        return self.root / "run/edge-power.sock"

    @property
    def log(self) -> str:
        return (self.root / "log").read_text()

    def noted(self, file: str) -> list[int]:
        path = self.root / "var/lib/nvpmodel" / file
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def status(self) -> str:
        return (self.root / "var/lib/nvpmodel/status").read_text().strip()

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(PATIENCE_S)
        connection.connect(str(self.path))
        return connection

    def ask(self, **request: Any) -> Json:
        with self.connect() as connection:
            with contextlib.suppress(BrokenPipeError):  # it may have answered and closed already
                connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer: Json = json.loads(answers.readline())
                return answer

    def change(self, mode: int, name: str, *, allow_reboot: bool = False) -> Json:
        return self.ask(verb="set", mode=mode, name=name, allow_reboot=allow_reboot)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


Start = Callable[..., Helper]


@pytest.fixture
def root() -> Iterator[Path]:
    """Make a folder that other users may enter, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "run").mkdir()
        yield Path(folder)


@pytest.fixture
def start(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return what starts the service on a board; all that runs is ended."""
    monkeypatch.setenv("EDGE_ROOT", str(root))
    monkeypatch.setenv("PATH", install_tools(root / "bin"))
    monkeypatch.delenv("FAKE_NVPMODEL", raising=False)
    started: list[subprocess.Popen[bytes]] = []

    def run(board: str | None, *arguments: str, wrong: str = "") -> Helper:
        if board is not None:
            write_power_modes(root, board)
        command = [sys.executable, "-IS", str(MODULE), "--socket", str(root / "run/edge-power.sock"), *arguments]
        ready = (root / "log").read_text().count("ready") if (root / "log").exists() else 0
        with (root / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=log, env=os.environ | {"FAKE_NVPMODEL": wrong}
            )
        assert process.stdin is not None
        process.stdin.write(b"YES\n")  # nobody but a request says yes to a reboot
        process.stdin.flush()
        started.append(process)
        helper = Helper(root, process)
        eventually(lambda: helper.log.count("ready") > ready or process.poll() is not None, "the service")
        return helper

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_it_tells_the_modes_and_the_one_that_is_set(start: Start) -> None:
    helper = start("agx-orin")
    message = helper.ask(verb="modes")
    assert message["ok"]
    assert (message["file"], message["default"]) == ("nvpmodel_p3701_0000.conf", 2)
    assert [mode["name"] for mode in message["modes"]] == ["MAXN", "MODE_15W", "MODE_30W", "MODE_50W"]
    assert message["reboot_groups"] == [[0, 3], [1], [2]]
    assert helper.ask(verb="get") == {"ok": True, "mode": 2, "name": "MODE_30W"}


def test_a_change_is_done_told_and_logged_with_who_asked(start: Start) -> None:
    helper = start("tx2")
    assert helper.ask(verb="get")["name"] == "MAXP_CORE_ARM"
    answer = helper.change(1, "MAXQ")
    assert answer == {
        "ok": True,
        "mode": 1,
        "name": "MAXQ",
        "before": 3,
        "rebooting": False,
        "clocks_locked": None,
    }
    assert helper.ask(verb="get")["name"] == "MAXQ"
    assert f"power mode set, requested by uid 0, pid {os.getpid()}" in helper.log


def test_several_requests_share_a_connection(start: Start) -> None:
    helper = start("tx2")
    with helper.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(b'{"verb":"get"}\nnonsense\n{"verb":"get"}\n')
        assert [json.loads(answers.readline())["ok"] for _ in range(3)] == [True, False, True]


def test_the_daemons_own_client_sets_and_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = start("orin-nx")
    monkeypatch.setattr("edge.power.modes.os.geteuid", lambda: 1000)  # so that only the socket leads to a change
    modes = read_modes()
    assert modes is not None
    done = set_mode(modes, modes.modes[1])
    assert (done.name, done.before, helper.noted("changes")) == ("10W", 2, [1])
    with pytest.raises(PowerModeError, match=r"from 10W \(mode 1\) to MAXN \(mode 0\) needs a reboot"):
        set_mode(modes, modes.modes[0])
    write_power_modes(helper.root, "orin-nano", mode=0)  # the file is another one now
    with pytest.raises(
        PowerModeError, match=r"mode 1 of nvpmodel_p3767_0003.conf is '7W', not '10W'; reread the modes"
    ):
        set_mode(modes, modes.modes[1])
    with pytest.raises(NoSuchModeError, match=r"wanted one of 15W \(mode 0\), 7W \(mode 1\)"):
        set_mode(modes, modes.modes[3])
    assert helper.noted("changes") == [1]


@pytest.mark.parametrize(("switch", "asked"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_reboot_needs_both_the_switch_and_the_request(switch: bool, asked: bool, start: Start) -> None:  # noqa: FBT001
    helper = start("agx-orin", *(["--allow-reboot"] if switch else []))
    answer = helper.change(1, "MODE_15W", allow_reboot=asked)
    assert answer["ok"] == (switch and asked)
    assert helper.noted("reboots") == ([1] if switch and asked else [])
    assert ("requests 'MODE_15W (mode 1)', reboot allowed" in helper.log) == (switch and asked)
    if not answer["ok"]:
        assert answer["kind"] == "refused"
        assert "--allow-reboot" in answer["error"]
        assert helper.noted("starts") == []


def test_a_question_that_nobody_expected_is_not_answered(start: Start) -> None:
    helper = start("tx2", "--allow-reboot", wrong="drift")
    answer = helper.change(1, "MAXQ")
    assert (answer["ok"], answer["kind"], helper.noted("reboots")) == (False, "refused", [])
    assert "from MAXP_CORE_ARM (mode 3) to MAXQ (mode 1) needs a reboot" in answer["error"]
    assert helper.noted("starts") == [1]


@pytest.mark.parametrize(
    ("request_line", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 4000, "is not JSON"),
        (b"[]", "verb None is unknown; wanted one of modes, get, set"),
        (b'{"verb":["set"]}', "is unknown"),
        (b'{"verb":"reboot"}', "verb 'reboot' is unknown"),
        (b'{"verb":"get","mode":1}', "wanted nothing else"),
        (b'{"verb":"set","mode":1}', "wanted mode (int), name (str), allow_reboot (bool)"),
        (b'{"verb":"set","mode":true,"name":"MAXQ","allow_reboot":false}', "wanted mode (int)"),
        (b'{"verb":"set","mode":1.0,"name":"MAXQ","allow_reboot":false}', "wanted mode (int)"),
        (b'{"verb":"set","mode":"1","name":"MAXQ","allow_reboot":false}', "wanted mode (int)"),
        (b'{"verb":"set","mode":1,"name":"MAXQ","allow_reboot":0}', "wanted mode (int)"),
        (b'{"verb":"set","mode":1,"name":"MAXQ","allow_reboot":false,"force":true}', "wanted mode (int)"),
        (b'{"verb":"set","mode":-1,"name":"MAXQ","allow_reboot":false}', "power mode -1 is not in"),
        (b'{"verb":"set","mode":1,"name":"maxq","allow_reboot":false}', "is 'MAXQ', not 'maxq'"),
        (b'{"verb":"set","mode":1,"name":"MAXQ\\n","allow_reboot":false}', "is 'MAXQ', not 'MAXQ\\\\n'"),
        (b"x" * 5000, "longer than 4096 bytes"),
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(request_line: bytes, message: str, start: Start) -> None:
    helper = start("tx2")
    with helper.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(request_line + b"\n")
        answer = json.loads(answers.readline())
    assert not answer["ok"]
    assert message.replace("\\\\", "\\") in answer["error"]
    assert helper.noted("starts") == []
    assert helper.ask(verb="get")["ok"]


def test_a_request_without_its_newline_is_not_done(start: Start) -> None:
    helper = start("tx2")
    with helper.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(b'{"verb":"set","mode":1,"name":"MAXQ","allow_reboot":false}')
        connection.shutdown(socket.SHUT_WR)
        assert "ended before its newline" in json.loads(answers.readline())["error"]
    assert helper.noted("starts") == []


ODD: Sequence[Any] = (None, True, -1, 1, 2.5, 10**30, "", "MAXN", "2", [], {}, [1], "x" * 100, "\ud800", float("nan"))
FAR = ((1, "MODE_15W"), (0, "MAXN"), (3, "MODE_50W"))  # from MODE_30W


def wanted(mode: Any, name: Any, allow_reboot: Any) -> bytes:
    return json.dumps({"verb": "set", "mode": mode, "name": name, "allow_reboot": allow_reboot}).encode()


def noise(draw: random.Random) -> bytes:
    return draw.randbytes(draw.randrange(200)).replace(b"\n", b"") + b"\n"


def cut_short(draw: random.Random) -> bytes:
    whole = wanted(*draw.choice(FAR), allow_reboot=True)
    return whole[: draw.randrange(len(whole))] + b"\n"


def one_byte_off(draw: random.Random) -> bytes:
    whole = bytearray(wanted(*draw.choice(FAR), allow_reboot=True))
    whole[draw.randrange(len(whole))] = draw.choice([each for each in range(256) if each != ord("\n")])
    return bytes(whole) + b"\n"


def odd_verb(draw: random.Random) -> bytes:
    return json.dumps({"verb": draw.choice(ODD), "mode": draw.choice(ODD)}).encode() + b"\n"


def odd_values(draw: random.Random) -> bytes:
    return wanted(draw.choice(ODD), draw.choice(ODD), draw.choice(ODD)) + b"\n"


def no_such_mode(draw: random.Random) -> bytes:
    return wanted(draw.choice([-1, 4, 99, 2**31, 10**20]), draw.choice(FAR)[1], allow_reboot=False) + b"\n"


def other_name(draw: random.Random) -> bytes:
    mode, name = draw.choice(FAR)
    return wanted(mode, f"{name} ", allow_reboot=False) + b"\n"


def reboot_not_allowed(draw: random.Random) -> bytes:
    return wanted(*draw.choice(FAR), allow_reboot=True) + b"\n"


def reboot_needed(draw: random.Random) -> bytes:
    return wanted(*draw.choice(FAR), allow_reboot=False) + b"\n"


def without_end(draw: random.Random) -> bytes:
    return draw.choice(
        [wanted(*FAR[0], allow_reboot=True), b'{"verb":"set",', b"x" * draw.randrange(4097, 20_000) + b"\n"]
    )


JUNK = (
    noise,
    cut_short,
    one_byte_off,
    odd_verb,
    odd_values,
    no_such_mode,
    other_name,
    reboot_not_allowed,
    reboot_needed,
    without_end,
)


def fuzz(helper: Helper, seed: int, requests: int) -> tuple[int, list[Json]]:
    """Send requests over as many connections as it takes; return how many were sent, and all answers."""
    draw = random.Random(seed)
    sent, answers = 0, []
    while sent < requests:
        batch: list[bytes] = []
        while len(batch) < min(50, requests - sent) and (not batch or batch[-1].endswith(b"\n")):
            batch.append(draw.choice(JUNK)(draw))
            if len(batch[-1]) > edge_power.LINE_BYTES:
                break
        sent += len(batch)
        with helper.connect() as connection, connection.makefile("rb") as replies:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(b"".join(batch))
                connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                for line in replies:
                    answers.append(json.loads(line))  # noqa: PERF401 -- what came before a reset counts
    return sent, answers


def test_fuzzed_requests_change_nothing(start: Start) -> None:
    helper = start("agx-orin")
    slow = [helper.connect() for _ in range(3)]
    for connection in slow:
        connection.sendall(b'{"verb":"set","mode":1,')  # and then nothing more
    message: list[tuple[int, list[Json]]] = []
    clients = [
        threading.Thread(target=lambda seed=seed: message.append(fuzz(helper, seed, FUZZED // 4))) for seed in range(4)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(10 * PATIENCE_S)
    for connection in slow:
        connection.close()
    assert sum(sent for sent, _ in message) == FUZZED
    answers = [answer for _, found in message for answer in found]
    assert len(answers) > 0.9 * FUZZED  # the rest is what the end of a connection took along
    assert not any(answer["ok"] for answer in answers)
    assert {answer["kind"] for answer in answers} == {"refused", "no-such-mode"}
    assert helper.noted("starts") == helper.noted("changes") == helper.noted("reboots") == []
    assert helper.status == "pmode:0002"
    assert all(line.startswith(("INFO ", "WARNING ")) for line in helper.log.splitlines())  # nor a traceback
    assert helper.process.poll() is None
    assert helper.ask(verb="get") == {"ok": True, "mode": 2, "name": "MODE_30W"}


def test_a_slow_client_is_let_go_and_holds_up_nobody(start: Start) -> None:
    helper = start("tx2")
    with helper.connect() as slow:
        slow.sendall(b'{"verb":')
        assert helper.ask(verb="get")["ok"]
        assert slow.recv(1000) == b""  # after LINE_S; a test that waits for ever fails by its socket's limit


def test_one_user_cannot_take_all_connections_for_ever(start: Start) -> None:
    helper = start("tx2")
    with contextlib.ExitStack() as stack:
        for _ in range(edge_power.CONNECTIONS_PER_USER):
            stack.enter_context(helper.connect())
        eventually(lambda: "connections open" in helper.ask(verb="get").get("error", ""), "a refusal")
    eventually(lambda: helper.ask(verb="get")["ok"], "a free connection")


def test_changes_are_limited_by_the_minute(start: Start) -> None:
    helper = start("tx2", "--changes-per-minute", "2")
    answers = [helper.change(mode, name) for mode, name in ((1, "MAXQ"), (0, "MAXN"), (1, "MAXQ"))]
    assert [answer["ok"] for answer in answers] == [True, True, False]
    assert "has reached the limit of 2 changes per minute" in answers[2]["error"]
    assert helper.noted("changes") == [1, 0]


def as_nobody(helper: Helper) -> Json:
    """Ask for a change from a process that has given up root."""
    context = multiprocessing.get_context("fork")  # another user may not be able to start our interpreter
    answers = context.Queue()
    client = context.Process(target=lambda: answers.put(_ask_without_root(helper)))
    client.start()
    answer: Json = answers.get(timeout=PATIENCE_S)
    client.join(PATIENCE_S)
    return answer


def _ask_without_root(helper: Helper) -> Json:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    with helper.connect() as connection, connection.makefile("rb") as answers:
        with contextlib.suppress(BrokenPipeError):  # a refusal may come before the request is written
            connection.sendall(b'{"verb":"set","mode":1,"name":"MAXQ","allow_reboot":false}\n')
        answer: Json = json.loads(answers.readline())
        return answer


def test_a_client_of_another_user_is_refused(start: Start) -> None:
    helper = start("tx2")
    helper.path.chmod(0o666)  # so that only what the kernel tells of the client is between it and the change
    answer = as_nobody(helper)
    assert (answer["ok"], answer["kind"]) == (False, "refused")
    assert f"user {NOBODY} may not change the power mode" in answer["error"]
    assert f"refused, requested by uid {NOBODY}, pid " in helper.log
    assert helper.noted("starts") == []
    assert helper.ask(verb="get")["ok"]


@pytest.mark.parametrize("by", ["user", "group"])
def test_the_named_user_and_members_of_the_named_group_may_ask(by: str, start: Start) -> None:
    name = pwd.getpwuid(NOBODY).pw_name if by == "user" else grp.getgrgid(NOBODY).gr_name
    helper = start("tx2", f"--{by}", name)
    mode = helper.path.stat()
    assert (stat.S_IMODE(mode.st_mode), mode.st_gid) == (0o660, NOBODY)
    assert as_nobody(helper)["ok"]
    assert helper.noted("changes") == [1]


def test_two_clients_have_their_changes_one_after_the_other(start: Start) -> None:
    helper = start("tx2", wrong="slow")
    answers: list[Json] = []
    clients = [
        threading.Thread(target=lambda mode=mode, name=name: answers.append(helper.change(mode, name)))
        for mode, name in ((1, "MAXQ"), (0, "MAXN"))
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(PATIENCE_S)
    assert [answer["ok"] for answer in answers] == [True, True]
    assert sorted(helper.noted("changes")) == [0, 1]
    assert answers[1]["before"] == answers[0]["mode"]
    assert helper.ask(verb="get")["mode"] == helper.noted("changes")[1]


def test_a_program_that_hangs_holds_up_nobody_for_long(start: Start) -> None:
    helper = start("tx2", "--limit-s", "1", wrong="hang")
    answer = helper.change(1, "MAXQ")
    assert not answer["ok"]
    assert (
        "nvpmodel -m 1 did not finish within 1 s and was killed; the board is in MAXP_CORE_ARM (mode 3)"
        in answer["error"]
    )
    assert helper.ask(verb="get")["mode"] == 3


def test_a_change_that_has_begun_is_ended_before_the_service_stops(start: Start) -> None:
    helper = start("tx2", wrong="slow")
    answers: list[Json] = []
    client = threading.Thread(target=lambda: answers.append(helper.change(1, "MAXQ")))
    client.start()
    eventually(lambda: helper.noted("starts") == [1], "the beginning of a change")
    with helper.connect():  # one that says nothing delays nothing
        assert helper.stop() == 0
    client.join(PATIENCE_S)
    assert answers[0]["ok"]
    assert helper.noted("changes") == [1]
    assert not helper.path.exists()
    assert "power mode set, requested by uid 0" in helper.log


def test_killed_in_a_change_it_starts_again_at_the_same_place(start: Start) -> None:
    helper = start("tx2", wrong="slow")
    with helper.connect() as client:
        client.sendall(b'{"verb":"set","mode":1,"name":"MAXQ","allow_reboot":false}\n')
        eventually(lambda: helper.noted("starts") == [1], "the beginning of a change")
        assert helper.stop(signal.SIGKILL) == -signal.SIGKILL
        assert client.recv(1000) == b""
    assert helper.path.exists()
    again = start(None)
    assert again.ask(verb="get")["ok"]
    eventually(lambda: again.noted("changes") == [1], "the end of what nvpmodel had begun")
    time.sleep(1)  # as long as an answer is kept
    assert again.ask(verb="get")["name"] == "MAXQ"
    assert again.stop() == 0


def test_a_second_service_at_the_same_place_does_not_start(start: Start) -> None:
    helper = start("tx2")
    second = start(None)
    assert second.process.wait(PATIENCE_S) == 1
    assert "another edge-power is listening at" in helper.log
    assert helper.ask(verb="get")["ok"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--user", "no-such-user"), "user 'no-such-user' does not exist"),
        (("--group", "no-such-group"), "group 'no-such-group' does not exist"),
        (("--socket", "/proc/no-such-folder/x"), "cannot be created"),
        (("--socket", "/" + "x" * 200), "cannot be created"),
        (("--socket", "/etc/passwd"), "exists and is not a socket"),
    ],
)
def test_what_keeps_it_from_starting_is_one_sentence(arguments: tuple[str, ...], message: str, start: Start) -> None:
    helper = start("tx2", *arguments)
    assert helper.process.wait(PATIENCE_S) == 1
    assert helper.log.startswith("edge-power: ")
    assert message in helper.log
    assert len(helper.log.splitlines()) == 1


def test_the_file_may_change_or_break_while_it_runs(start: Start) -> None:
    helper = start("tx2")
    write_power_modes(helper.root, "agx-orin")
    assert helper.ask(verb="get")["name"] == "MODE_30W"
    conf = helper.root / "etc/nvpmodel/nvpmodel_p3701_0000.conf"
    conf.write_text("garbage")
    assert "line 1: 'garbage' is not understood" in helper.ask(verb="modes")["error"]
    conf.unlink()
    assert "there is no /etc/nvpmodel.conf" in helper.change(1, "MAXQ")["error"]
    write_power_modes(helper.root, "tx2")
    assert helper.change(1, "MAXQ")["ok"]


def test_without_nvpmodel_the_reason_is_told(start: Start) -> None:
    helper = start("tx2")
    (helper.root / "bin/nvpmodel").unlink()
    answer = helper.change(1, "MAXQ")
    assert (answer["ok"], answer["kind"]) == (False, "failed")
    assert answer["error"] == "nvpmodel cannot be run (No such file or directory); it comes with JetPack, check PATH"


def test_the_socket_may_come_from_the_service_manager(start: Start, root: Path) -> None:
    write_power_modes(root, "tx2")
    path = root / "run/edge-power.sock"
    takes_over = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}\n"
        "os.execv(sys.executable, [sys.executable, '-IS', sys.argv[2]])\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        command = [sys.executable, "-IS", "-c", takes_over, str(listener.fileno()), str(MODULE)]
        with (root / "log").open("ab") as log:
            process = subprocess.Popen(command, pass_fds=[listener.fileno()], stderr=log)
        helper = Helper(root, process)
        try:
            assert helper.ask(verb="get")["name"] == "MAXP_CORE_ARM"  # waits in the queue until it is ready
            assert helper.stop() == 0
        finally:
            process.kill()
            process.wait()
    assert path.exists()  # it is the manager's
