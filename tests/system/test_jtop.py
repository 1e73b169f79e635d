"""The real service of jetson-stats, and the bridge to its client library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge.core.errors import EdgeError
from edge.power.jtop import JtopClient, JtopError, JtopRefusedError
from tests.support.jtop_service.machine import OUTSIDER, Machine, jtop_machine, reply
from tests.support.jtop_stand_in import MakeClient, stand_in_clients

# One process runs jtop's service.
pytestmark = pytest.mark.xdist_group("jtop")
DRIVE = Path(__file__).parents[1] / "support" / "jtop_service" / "drive.py"
STATE = "/var/lib/nvpmodel/fake_mode"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with jtop_machine() as running:
        yield running


def driven(machine: Machine, *arguments: str, user: int | None = None) -> Any:
    command: list[str | Path] = [sys.executable, DRIVE, machine.python, *arguments]
    return reply(machine.run(command) if user is None else machine.run(command, user))


def test_real_service_changes_the_mode_of_the_board_for_a_member_of_its_group(machine: Machine) -> None:
    before = driven(machine, "state")
    assert before == {
        "available": True,
        "mode": "MODE_50W",
        "modes": ["MAXN", "MODE_15W", "MODE_30W", "MODE_50W"],
    }
    assert driven(machine, "set", "MAXN")["mode"] == "MAXN"
    assert machine.run(["cat", STATE], 0).out == "0\n", "nvpmodel itself says that the mode is set"
    assert driven(machine, "set", "MODE_50W")["mode"] == "MODE_50W"


def test_silent_refusal_of_the_real_service_is_reported_as_a_refusal(machine: Machine) -> None:
    before = machine.run(["cat", STATE], 0).out
    message = driven(machine, "set", "MODE_15W")
    assert message["error"] == "JtopRefusedError"
    assert "MODE_15W" in message["message"]
    assert "needs a reboot" in message["message"]
    assert machine.run(["cat", STATE], 0).out == before
    assert "different mask" in machine.run(["cat", "/run/service.log"], 0).out, "the service alone has said why"


def test_change_that_nvpmodel_itself_refuses_behind_the_real_service_is_a_refusal_too(machine: Machine) -> None:
    driven(machine, "set", "MODE_50W")
    machine.run(["touch", f"{STATE}.drifted"], 0)
    message = driven(machine, "set", "MAXN")
    machine.run(["rm", f"{STATE}.drifted"], 0)
    assert message["error"] == "JtopRefusedError"
    assert "MODE_50W" in message["message"], "the mode that is still set"


def test_mode_that_the_board_does_not_have_is_named_with_those_it_has(machine: Machine) -> None:
    message = driven(machine, "set", "TURBO")
    assert message["error"] == "JtopError"
    assert "'TURBO'" in message["message"]
    assert "MODE_30W" in message["message"]


def test_real_service_is_closed_to_a_user_outside_of_its_group(machine: Machine) -> None:
    message = driven(machine, "set", "MAXN", user=OUTSIDER)
    assert message["available"] is False
    assert f"user number {OUTSIDER} may not use jtop's service" in message["message"]
    assert "usermod -aG jtop" in message["message"]
    # The client's own look at the rights is not what keeps the outsider away.
    bridge = ["sh", "-c", f"""echo '{{"verb": "get"}}' | {machine.python} -m edge.power.jtop_bridge"""]
    assert reply(machine.run(bridge, OUTSIDER))["error"] == "forbidden"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    with stand_in_clients(tmp_path, monkeypatch) as make:
        yield make


def test_mode_is_set_and_read_back_whatever_jtop_prints(client: MakeClient) -> None:
    made = client()
    assert made.available()
    assert (made.current(), made.modes()[1]) == ("MODE_50W", "MODE_15W")
    made.set_mode("MAXN")
    made.set_mode("MODE_50W")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("version", "restart the service"),
        ("forbidden", "usermod -aG jtop"),
        ("silent", "sends no samples"),
        ("no nvpmodel", "no nvpmodel on this machine"),
        ("dies", "exit code -6"),
        ("gaps", "gaps"),
    ],
)
def test_what_keeps_jtop_from_setting_a_mode_is_told_in_one_line(client: MakeClient, fault: str, message: str) -> None:
    with pytest.raises(JtopError) as raised:
        client(fault).set_mode("MAXN")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_mode_that_stays_as_it_was_is_a_refusal(client: MakeClient) -> None:
    with pytest.raises(JtopRefusedError, match=r"MAXN.*refused.*mode is still MODE_50W"):
        client("refuses").set_mode("MAXN")


def test_service_that_hangs_costs_its_time_limit_and_leaves_no_process(client: MakeClient) -> None:
    before = psutil.Process().children(recursive=True)
    with pytest.raises(JtopError, match="hangs"):
        client("hangs", reply_s=2.0).current()
    assert psutil.Process().children(recursive=True) == before


def test_interpreter_that_is_not_there_is_named(client: MakeClient) -> None:
    client()
    with pytest.raises(JtopError, match="/nowhere/python cannot be started"):
        JtopClient("/nowhere/python").current()


def test_python_without_jetson_stats_is_told_what_to_install(
    client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EdgeError, match="pip install"):
        JtopClient().current()
