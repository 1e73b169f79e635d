"""The daemon on an emulated board: power and energy in telemetry, results stamped, what slows the board in alarms."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.configuration import Configure, Json, belt
from tests.support.emulated_boards.emulated_power import board_environment
from tests.support.emulated_boards.tree import value_files
from tests.support.process import StartEdge
from tests.support.subscriber import Subscriber

pytestmark = [pytest.mark.broker, pytest.mark.skipif(os.geteuid() != 0, reason="only root changes power modes")]

VDD_IN_W = 5.016 * 1.5


@pytest.fixture
def board(tmp_path: Path) -> tuple[Path, Mapping[str, str]]:
    """Give an emulated Orin Nano (super), and the environment in which a daemon is on it."""
    environment = board_environment("orin-nano-super", tmp_path)
    return Path(environment["EDGE_ROOT"]), environment


def wait_for_telemetry(subscriber: Subscriber, wanted: Callable[[Json], bool], what: str, after: int = 0) -> Json:
    return subscriber.wait_for(lambda m: m.schema == "telemetry" and wanted(m.body), what, after=after).body


def wait_for_cleared(subscriber: Subscriber, alarm: str) -> None:
    subscriber.wait_for(
        lambda m: m.schema == "alarm" and (m.body["alarm"], m.body["state"]) == (alarm, "cleared"), f"{alarm} cleared"
    )


def write(file: Path, value: Any) -> None:
    file.write_text(f"{value}\n", encoding="utf-8")


def is_measured(body: Json) -> bool:
    return body["board"]["gap_s"] == 0 and body["models"]["conveyor"]["energy_j_per_image"] is not None


def test_power_energy_and_the_mode_are_told(
    board: tuple[Path, Mapping[str, str]], configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    _, environment = board
    edge = start_edge(
        configure({"device": {"power_mode": "max-q"}, "streams.belt": belt(fps=20)}), environment=environment
    )
    body = wait_for_telemetry(
        subscriber, lambda body: is_measured(body) and body["board"]["power_mode"] == "15W", "energy an image"
    )
    seen = subscriber.wait_for(
        lambda m: m.schema == "result" and m.body["power_mode"] == "15W" and "energy_mj" in m.body, "a stamped result"
    ).body
    assert edge.end() == 0
    told = body["board"]
    assert told["name"] == "Jetson Orin Nano 8GB"
    assert (told["power_rail"], told["power_mode"]) == ("VDD_IN", "15W")
    assert told["power_w"] == pytest.approx(VDD_IN_W, rel=0.01)
    assert set(told["rails_w"]) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    # Board and message end their periods a moment apart.
    assert told["energy_j"] == pytest.approx(VDD_IN_W * body["period_s"], rel=0.2)
    model = body["models"]["conveyor"]
    images = model["images_per_s"] * body["period_s"]
    assert model["energy_j_per_image"] == pytest.approx(told["energy_j"] / images, rel=0.02)
    assert told["images_per_s_per_w"] == pytest.approx(model["images_per_s"] / VDD_IN_W, rel=0.2)
    assert told["throttled"] is False
    assert seen["throttled"] is False
    assert seen["energy_mj"] > 0
    status = [m.body for m in subscriber.messages if m.schema == "status"][-1]
    assert status["power_mode"] == "15W"


def test_a_rail_that_goes_away_is_null_and_told_as_a_gap_and_comes_back(
    board: tuple[Path, Mapping[str, str]], configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    root, environment = board
    edge = start_edge(configure({"streams.belt": belt(fps=20)}), environment=environment)
    wait_for_telemetry(subscriber, is_measured, "energy an image")
    files = value_files(root, "VDD_IN")
    texts = [file.read_text() for file in files]
    for file in files:
        file.write_text("")
    gone = wait_for_telemetry(
        subscriber, lambda body: body["board"]["energy_j"] is None, "a period without", len(subscriber.messages)
    )
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    wait_for_telemetry(subscriber, is_measured, "energy again", len(subscriber.messages))
    assert edge.end() == 0
    assert gone["board"]["power_w"] is None
    assert gone["board"]["gap_s"] == pytest.approx(gone["period_s"], rel=0.2)
    assert gone["board"]["rails_w"]["VDD_SOC"] > 0
    assert gone["models"]["conveyor"]["energy_j_per_image"] is None
    assert gone["models"]["conveyor"]["images_per_s"] > 0


def test_over_current_and_throttling_are_alarms_and_stamped(
    board: tuple[Path, Mapping[str, str]], configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    root, environment = board
    edge = start_edge(configure({"streams.belt": belt(fps=20)}), environment=environment)
    wait_for_telemetry(subscriber, is_measured, "energy an image")
    (counter,) = root.glob("sys/devices/**/oc2_event_cnt")
    counts = iter(range(7, 1000))

    def raised(alarm: str) -> bool:
        write(counter, next(counts))
        return any(each["alarm"] == alarm and each["state"] == "raised" for each in subscriber.alarms())

    subscriber.wait_for(lambda _: raised("over_current") and raised("throttled"), "both alarms")
    subscriber.wait_for(lambda m: m.schema == "result" and m.body["throttled"] is True, "a result while throttled")
    for alarm in ("over_current", "throttled"):
        wait_for_cleared(subscriber, alarm)
    assert edge.end() == 0
    assert any("over-current" in each["reason"] for each in subscriber.alarms())


def test_idle_power_is_measured_where_no_frames_flow(
    board: tuple[Path, Mapping[str, str]], configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    _, environment = board
    config = configure({"telemetry": {"period_s": 2}, "streams.belt": belt(fps=0.1)})
    edge = start_edge(config, environment=environment)
    body = wait_for_telemetry(subscriber, lambda body: body["board"]["idle_w"] is not None, "idle power")
    assert edge.end() == 0
    assert body["board"]["idle_w"] == pytest.approx(VDD_IN_W, rel=0.01)


def test_a_sensor_that_blocks_slows_nothing(
    board: tuple[Path, Mapping[str, str]], configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    root, environment = board
    for file in value_files(root, "VDD_IN"):
        file.unlink()
        os.mkfifo(file)
    edge = start_edge(configure({"streams.belt": belt(fps=20)}), environment=environment)
    body = wait_for_telemetry(subscriber, lambda body: body["streams"]["belt"]["results"] >= 30, "results")
    assert edge.end() == 0
    assert body["board"]["power_w"] is None
    assert body["board"]["temperature_c"]["cpu"] == pytest.approx(49.5)


def test_the_governor_steers_and_tells_why(
    board: tuple[Path, Mapping[str, str]], configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    root, environment = board
    config = configure(
        {
            "device": {"power_mode": "15W"},
            "governor": {"enabled": True, "min_dwell_s": 1, "modes": ["15W", "25W", "MAXN_SUPER"]},
            "streams.belt": belt(fps=30, target_p99_ms=0.5),
        }
    )
    edge = start_edge(config, environment=environment)
    subscriber.wait_for(lambda m: m.schema == "result" and m.body["power_mode"] == "MAXN_SUPER", "the strongest mode")
    alarm = subscriber.wait_for(lambda m: m.schema == "alarm" and m.body["alarm"] == "target_missed", "an alarm").body
    assert edge.end() == 0
    assert "cannot be sustained" in alarm["reason"]
    decisions = [m.body for m in subscriber.messages if m.schema == "governor"]
    assert [each["power_mode"] for each in decisions if each["power_mode"]][-1] == "MAXN_SUPER"
    assert all(each["reason"] for each in decisions)
    assert "pmode:0002" in (root / "var/lib/nvpmodel/status").read_text()
