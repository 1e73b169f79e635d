"""`edge tune` with the built-in model on this CPU, and a board whose power is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import ConfigError, EdgeError
from edge.core.process import usable_cores
from edge.core.state_dir import state_lock
from edge.core.tuned_profile import TunedProfile, profile_path
from edge.host.board import board_name
from edge.inference.engine_provider import EngineEnvironment
from edge.perf.tune import session, trial
from edge.perf.tune.plan import TunePlan, default_devices
from edge.perf.tune.trial import TrialSensors
from edge.pipeline.served_model import ServedModel
from edge.power.mode_guard import Power
from tests.support.configuration import belt, write_toml
from tests.support.emulated_boards import boards
from tests.support.project import CONVEYOR
from tests.support.tuned_board import IDLE_W, IMAGE_J, MODEL, STREAM, KnownPower, KnownSensors

Tune = Callable[..., Any]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SLICE_S", 0.25)
    monkeypatch.setattr(trial, "IDLE_S", 0.1)
    monkeypatch.setattr(trial, "SETTLE_S", 3.0)


@pytest.fixture
def plan(tmp_path: Path) -> TunePlan:
    config = write_toml(tmp_path / "edge.toml", MODEL | STREAM)
    return TunePlan(config, seconds=1.0, batches=(1,), lanes=(1,), precisions=("fp32",), state_dir=tmp_path / "state")


@pytest.fixture
def tuned(capsys: pytest.CaptureFixture[str]) -> Tune:
    def run(plan: TunePlan, power: Power | None = None, sensors: TrialSensors | None = None) -> Any:
        assert session.tune(plan, power, sensors, as_json=True) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_power_and_energy_of_each_mode_are_those_that_are_known(plan: TunePlan, tuned: Tune) -> None:
    power = KnownPower()
    sensors = KnownSensors(power)
    told = tuned(replace(plan, power_modes=("HIGH", "LOW", "MID"), target_p99_ms=5000.0), power, sensors)
    points = {each["point"]["power_mode"]: each["point"] for each in told["points"]}
    assert list(points) == ["HIGH", "MID", "LOW"], "the fastest first"
    for mode, point in points.items():
        rate = point["images_per_s"]
        assert point["power_w"] == pytest.approx(IDLE_W[mode] + IMAGE_J[mode] * rate, rel=0.1)
        assert point["energy_j_per_image"] == pytest.approx(point["power_w"] / rate, rel=0.01)
        assert point["idle_w"] == pytest.approx(IDLE_W[mode])
        assert point["temperature_c"] == 51.0
        assert point["device"] == "cpu"
    assert told["max_q"] == min(points.values(), key=lambda each: each["energy_j_per_image"])
    assert told["max_q"]["power_mode"] == "MID", (
        "3 W and 0.02 J an image are the least of the three from 1 to 500 a second"
    )
    assert told["max_p"] in points.values()
    assert power.mode == "MID"
    assert not sensors.running


def test_profile_is_written_for_max_q_max_p_and_lanes(plan: TunePlan, tuned: Tune, tmp_path: Path) -> None:
    power = KnownPower()
    told = tuned(replace(plan, power_modes=("LOW", "MID")), power, KnownSensors(power))
    path = profile_path(tmp_path / "state", "conveyor")
    assert told["profile"] == str(path)
    profile = TunedProfile.model_validate_json(path.read_bytes())
    assert [each.power_mode for each in profile.points] == ["MID", "LOW"]
    assert profile.max_q is not None
    assert profile.max_q.power_mode == "MID"


def test_what_cannot_be_measured_is_null_and_said(plan: TunePlan, tuned: Tune, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    told = tuned(replace(plan, plot=tmp_path / "plot.svg"))
    energy, latency = (tmp_path / "plot.svg").read_text(encoding="utf-8").split('id="axes_2"')
    assert ("tick_" in energy, "tick_" in latency) == (False, True)  # nothing is measured on an empty scale
    point = told["points"][0]["point"]
    assert [point[key] for key in ("power_mode", "power_w", "energy_j_per_image", "idle_w", "is_throttled")] == [
        None
    ] * 5
    assert told["max_q"] is None
    assert told["max_p"] == point
    assert "power cannot be measured here" in told["notes"][0]
    assert point["images_per_s"] > 0


def test_samples_of_a_throttling_board_are_left_out_and_told(plan: TunePlan, tuned: Tune) -> None:
    power = KnownPower()
    sensors = KnownSensors(power)
    seen: dict[str, int] = {}

    def throttled(mode: str) -> bool:
        seen[mode] = seen.get(mode, 0) + 1
        return mode == "HIGH" or (mode == "MID" and seen[mode] % 4 == 0)

    sensors.throttled = throttled
    told = tuned(replace(plan, power_modes=("HIGH", "MID")), power, sensors)
    high, mid = told["points"]
    assert high["point"]["is_throttled"] is True
    assert mid["point"]["is_throttled"] is False
    assert mid["discarded_s"] > 0
    assert (told["max_q"]["power_mode"], told["max_p"]["power_mode"]) == ("MID", "MID")
    assert not high["on_front"]
    assert any("throttled in 2 settings" in note for note in told["notes"])


def interrupt_in(power: KnownPower, mode: str) -> KnownSensors:
    """Return sensors at whose second reading in a mode somebody presses Ctrl-C."""
    readings = iter(range(1000))

    def at_read() -> None:
        if power.mode == mode and next(readings) == 1:
            raise KeyboardInterrupt

    return KnownSensors(power, at_read)


def test_interrupted_search_puts_the_mode_back_and_goes_on_where_it_was(plan: TunePlan, tuned: Tune) -> None:
    plan = replace(plan, power_modes=("HIGH", "LOW"))
    power = KnownPower()
    with pytest.raises(KeyboardInterrupt):
        session.tune(plan, power, interrupt_in(power, "LOW"), as_json=True)
    assert power.switched == ["HIGH", "LOW", "MID"]
    power.switched.clear()
    told = tuned(plan, power, KnownSensors(power))
    assert power.switched == ["LOW", "MID"], "HIGH is not measured again"
    assert len(told["points"]) == 2
    power.switched.clear()
    again = tuned(plan, power, KnownSensors(power))
    assert (power.switched, again["points"]) == ([], told["points"])
    tuned(replace(plan, fresh=True), power, KnownSensors(power))
    assert power.switched == ["HIGH", "LOW", "MID"]


def test_mode_behind_a_reboot_is_left_out_and_told_unless_it_is_allowed(plan: TunePlan, tuned: Tune) -> None:
    power = KnownPower()
    told = tuned(replace(plan, power_modes=("OTHER", "LOW")), power, KnownSensors(power))
    assert [each["point"]["power_mode"] for each in told["points"]] == ["LOW"]
    assert any("OTHER needs a reboot" in note and "--allow-reboot" in note for note in told["notes"])


def test_search_goes_on_after_the_reboot_and_puts_the_first_mode_back(
    plan: TunePlan, tuned: Tune, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = replace(plan, power_modes=("OTHER", "LOW"), allow_reboot=True)
    power = KnownPower()
    assert session.tune(plan, power, KnownSensors(power), as_json=True) == 0
    out, told = capsys.readouterr()
    assert (out, power.mode) == ("", "OTHER")
    assert "is rebooting into OTHER; run the same command again" in " ".join(told.split())
    after = KnownPower("OTHER")
    told = tuned(plan, after, KnownSensors(after))
    assert {each["point"]["power_mode"] for each in told["points"]} == {"LOW", "OTHER"}
    assert after.switched == ["MID"], "LOW was measured before the reboot; MID is what the user had set"


def test_end_after_a_reboot_that_is_no_longer_allowed_says_how_to_put_the_mode_back(plan: TunePlan) -> None:
    power = KnownPower()
    session.tune(replace(plan, power_modes=("OTHER",), allow_reboot=True), power, KnownSensors(power), as_json=True)
    after = KnownPower("OTHER")
    with pytest.raises(EdgeError, match=r"stays in OTHER.*edge power set MID --allow-reboot"):
        session.tune(replace(plan, power_modes=("OTHER",)), after, KnownSensors(after), as_json=True)
    assert after.mode == "OTHER"


def test_mode_that_somebody_set_meanwhile_is_the_one_that_stays(plan: TunePlan, tuned: Tune) -> None:
    power = KnownPower()
    plan = replace(plan, power_modes=("HIGH",))
    with pytest.raises(KeyboardInterrupt):
        session.tune(plan, power, interrupt_in(power, "HIGH"), as_json=True)
    state = json.loads((plan.state_dir or Path()).joinpath("tune/conveyor.json").read_text())
    state |= {"mode_before": "MID", "mode_set": "HIGH"}  # as where the power was lost in between
    (plan.state_dir or Path()).joinpath("tune/conveyor.json").write_text(json.dumps(state))
    by_hand = KnownPower("LOW")
    tuned(plan, by_hand, KnownSensors(by_hand))
    assert by_hand.mode == "LOW"


def test_mode_that_cannot_be_set_is_left_out_with_the_reason(plan: TunePlan, tuned: Tune) -> None:
    power = KnownPower(fails="HIGH")
    told = tuned(plan, power, KnownSensors(power))
    assert [each["point"]["power_mode"] for each in told["points"]] == ["MID", "LOW"]
    assert [each["reason"] for each in told["left_out"]] == ["mode HIGH cannot be set"]
    with pytest.raises(EdgeError, match="HIGH cannot be set"):
        session.tune(replace(plan, power_modes=("HIGH",)), power, KnownSensors(power), as_json=True)


def test_precision_that_the_model_does_not_have_is_left_out_at_once(
    plan: TunePlan, tuned: Tune, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.toml", "conveyor.onnx", "labels.txt"):
        folder.joinpath(name).write_bytes((CONVEYOR / name).read_bytes())
    write_toml(plan.config, {"models.conveyor": {"path": str(folder)}} | STREAM)
    told = tuned(replace(plan, precisions=("fp32", "int8"), lanes=(1, 2)))
    assert [each["point"]["precision"] for each in told["points"]] == ["fp32", "fp32"]
    assert {each["precision"] for each in told["left_out"]} == {"int8"}


def test_saturated_source_gives_what_is_taken(plan: TunePlan, tuned: Tune) -> None:
    # A slow camera, so that a busy machine outpaces it as well.
    write_toml(plan.config, MODEL | {"streams.a": belt(size="160x120", fps=4)})
    told = tuned(replace(plan, saturate=True, batches=(2,)))
    measured = told["points"][0]
    assert measured["point"]["images_per_s"] > 4.4, "the camera alone would give 4"
    assert measured["batch_most"] == 2
    assert measured["dropped_share"] == 0
    # Two batches wait ahead of the lane, which is the source's doing and not the engine's.
    assert measured["point"]["latency_p50_ms"] < 2 * measured["service_ms"] + 10


@pytest.mark.parametrize(
    ("changes", "tables", "told"),
    [
        ({}, MODEL, "no enabled .streams.NAME. to measure with"),
        ({}, {"models.conveyor": {"path": "/nowhere"}} | STREAM, "/nowhere does not exist"),
        ({"model": "nobody"}, MODEL | STREAM, "--model: found 'nobody', wanted one that a stream uses: conveyor"),
        ({"power_modes": ("TURBO",)}, MODEL | STREAM, "found 'TURBO', wanted some of HIGH, MID, LOW, OTHER"),
        ({"plot": Path("plot.pdf")}, MODEL | STREAM, "found suffix '.pdf', wanted one of .png, .svg"),
        ({"plot": Path("nowhere/plot.png")}, MODEL | STREAM, "folder nowhere does not exist"),
        (
            {},
            MODEL | {"models.other": {"path": str(CONVEYOR)}} | STREAM | {"streams.b": belt() | {"model": "other"}},
            "uses 2 models; name one with --model: conveyor, other",
        ),
        (
            {"saturate": True},
            MODEL | {"streams.a": {"source": "rtsp://127.0.0.1:9/x", "model": "conveyor"}},
            "is a rtsp:// source, whose frame rate is",
        ),
    ],
)
def test_wrong_input_is_one_sentence_before_anything_is_measured(
    plan: TunePlan, changes: dict[str, Any], tables: dict[str, Any], told: str
) -> None:
    write_toml(plan.config, tables)
    power = KnownPower()
    with pytest.raises(ConfigError, match=told):
        session.tune(replace(plan, **changes), power, KnownSensors(power), as_json=True)
    assert power.switched == []


def test_machine_without_power_modes_takes_none(plan: TunePlan) -> None:
    with pytest.raises(ConfigError, match="no power modes that edge can set"):
        session.tune(replace(plan, power_modes=("MAXN",)), None, None, as_json=True)


def test_target_that_nothing_meets_is_exit_code_4_with_the_nearest_setting(
    plan: TunePlan, capsys: pytest.CaptureFixture[str]
) -> None:
    power = KnownPower()
    plan = replace(plan, power_modes=("MID",), target_p99_ms=0.001)
    assert session.tune(plan, power, KnownSensors(power), as_json=False) == 4
    out = " ".join(capsys.readouterr().out.split())
    assert "no Max-Q or Max-P; the nearest is MID cpu fp32 batch 1 1 lane with" in out


def test_table_fits_its_terminal(
    plan: TunePlan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    power = KnownPower()
    for columns in (80, 150):  # the second shows what the first measured
        monkeypatch.setenv("COLUMNS", str(columns))
        session.tune(replace(plan, power_modes=("HIGH", "MID")), power, KnownSensors(power), as_json=False)
        head, *rest = capsys.readouterr().out.splitlines()
        assert "conveyor on" in head
        table = [line for line in rest if "fp32" in line]
        assert any("Max-Q" in line for line in table)
        assert all(len(line) <= columns for line in rest if "profile for" not in line)
        assert "images/s" in "".join(rest)


def test_lanes_that_are_left_open_are_those_of_the_profile(plan: TunePlan, tuned: Tune, tmp_path: Path) -> None:
    lanes = usable_cores() + 1  # not what is chosen without a profile
    told = tuned(replace(plan, lanes=(lanes,)))
    assert told["max_p"]["lanes"] == lanes
    environment = EngineEnvironment(tmp_path / "state", board_name(), EnginesSettings())

    def lanes_of(**settings: Any) -> int:
        model = ServedModel("conveyor", ModelSettings.model_validate({"path": str(CONVEYOR)} | settings), environment)
        model.close()
        return model.lane_count

    assert lanes_of() == lanes
    assert lanes_of(lanes=1) == 1
    assert lanes_of(precision="int8") == usable_cores(), "the profile is of FP32"
    path = profile_path(tmp_path / "state", "conveyor")
    path.write_text(path.read_text(encoding="utf-8").replace(told["machine"]["engine"], "another"), encoding="utf-8")
    assert lanes_of() == usable_cores()


@pytest.mark.parametrize(
    ("board", "configured", "on_cpu", "devices"),
    [
        ("agx-orin", "auto", False, ("gpu", "dla0")),
        ("orin-nano", "auto", False, ("gpu",)),  # has none
        ("agx-orin", "auto", True, ("cpu",)),
        ("agx-orin", "gpu", False, ("gpu",)),
        ("agx-orin", "dla1", False, ("dla1",)),
    ],
)
def test_dla_is_tried_where_there_is_one_and_the_device_is_left_open(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    board: str,
    configured: str,
    *,
    on_cpu: bool,
    devices: tuple[str, ...],
) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(boards.build(board, tmp_path / "board")))
    assert default_devices(configured, on_cpu=on_cpu) == devices


def test_source_that_ends_is_named(plan: TunePlan) -> None:
    write_toml(plan.config, MODEL | {"streams.a": belt(size="160x120", frames=20)})
    with pytest.raises(EdgeError, match="stream a has ended; use a source that lasts as long"):
        session.tune(plan, None, None, as_json=True)


def test_settings_none_of_which_can_be_had_are_told(plan: TunePlan) -> None:
    with pytest.raises(EdgeError, match=r"could not be measured in any setting.*TensorRT"):
        session.tune(replace(plan, devices=("dla0",), precisions=("fp16",)), None, None, as_json=True)


def test_daemon_beside_is_refused(plan: TunePlan, tmp_path: Path) -> None:
    with state_lock(tmp_path / "state"), pytest.raises(EdgeError, match="another edge process holds"):
        session.tune(plan, None, None, as_json=True)


def test_plot_without_matplotlib_is_refused_with_what_to_install(
    plan: TunePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install '.\[all\]'"):
        session.tune(replace(plan, plot=Path("plot.png")), None, None, as_json=True)


def test_plot_is_drawn(plan: TunePlan, tuned: Tune, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    several = replace(plan, power_modes=("LOW", "MID"), batches=(1, 2), target_p99_ms=5000.0)
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):  # the second is of what the first measured
        path = tmp_path / f"plot{suffix}"
        power = KnownPower()
        tuned(replace(several, plot=path), power, KnownSensors(power))
        assert path.read_bytes().startswith(start)
