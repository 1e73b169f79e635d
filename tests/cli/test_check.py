"""`edge check`, and the sample configuration."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from edge.cli import check_probes
from edge.cli.main import main
from edge.core.config import Config, load_config
from edge.core.errors import EdgeError
from tests.support.emulated_boards.emulated_power import board_environment
from tests.support.waiting import free_port

SAMPLE = Path(__file__).parents[2] / "systemd" / "edge.toml"
CONFIG = """
[mqtt]
url = "mqtt://127.0.0.1:{port}"
[models.conveyor]
path = "conveyor"
[streams.belt]
source = "{source}"
model = "conveyor"
"""


def findings_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return {finding["thing"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_without_a_configuration_the_machine_and_the_built_in_model_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check", "--json"]) == 0
    findings = findings_of(capsys)
    assert findings["engine of the built-in model"]["works"] is True
    assert findings["power sensors"]["works"] is None
    assert "there is no /etc/nvpmodel.conf" in findings["power modes"]["told"]


def test_a_board_tells_its_rails_and_its_power_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in board_environment("orin-nx", tmp_path).items():
        monkeypatch.setenv(name, value)
    assert main(["check", "--json"]) == 0
    findings = findings_of(capsys)
    assert "Jetson Orin NX 16GB" in findings["board"]["told"]
    assert "total VDD_IN" in findings["power sensors"]["told"]
    assert "15W, of MAXN, 10W, 15W, 25W (nvpmodel_p3767_0000.conf)" in findings["power modes"]["told"]


def test_each_part_is_looked_at_and_what_fails_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(CONFIG.format(port=free_port(), source="synthetic://conveyor"), encoding="utf-8")
    assert main(["check", str(config), "--json"]) == 1
    findings = findings_of(capsys)
    assert findings["engine conveyor"]["works"] is True
    assert "640×480" in findings["camera belt"]["told"]
    assert findings["broker"]["works"] is False
    assert "cannot be reached (Connection refused); check that it runs" in findings["broker"]["told"]


def test_config_only_asks_neither_camera_nor_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(CONFIG.format(port=free_port(), source="rtsp://127.0.0.1:1/none"), encoding="utf-8")
    assert main(["check", str(config), "--config-only", "--json"]) == 0
    assert set(findings_of(capsys)) == {"configuration", "model files conveyor"}


@pytest.mark.parametrize("options", [["--config-only"], []])
def test_a_label_that_run_refuses_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    config = tmp_path / "edge.toml"
    text = CONFIG.format(port=free_port(), source="synthetic://conveyor") + 'labels = ["bolt", "nutt"]\n'
    config.write_text(text, encoding="utf-8")
    assert main(["check", str(config), *options]) == 2
    told = capsys.readouterr().err
    assert "[streams.belt] labels: found 'nutt'" in told
    assert told.rstrip().endswith("did you mean 'nut'?")


@pytest.mark.parametrize("text", ["", "enabled = false\n"])
@pytest.mark.parametrize(("options", "works"), [([], False), (["--config-only"], None)])
def test_a_configuration_without_streams_is_reported(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    text: str,
    options: list[str],
    works: bool | None,
) -> None:
    config = tmp_path / "edge.toml"
    belt = CONFIG.format(port=free_port(), source="synthetic://conveyor") + text if text else ""
    config.write_text(belt, encoding="utf-8")
    main(["check", str(config), "--json", *options])
    found = findings_of(capsys)["streams"]
    assert found["works"] is works
    assert "no [streams.NAME] is enabled" in found["told"]


def test_cameras_and_broker_are_examined_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dead ones do not add up: each of these answers only once all three, and the broker, are being asked."""
    all_asked = threading.Barrier(4)

    def dead(*_: object) -> str:
        all_asked.wait(20)
        raise EdgeError("it is away")

    monkeypatch.setattr(check_probes, "open_source", dead)
    monkeypatch.setattr(check_probes, "try_connection", dead)
    config = tmp_path / "edge.toml"
    text = CONFIG.format(port=1, source="synthetic://conveyor")
    more = "".join(f"[streams.s{n}]\nsource = 'rtsp://127.0.0.1:1/{n}'\nmodel = 'conveyor'\n" for n in range(2))
    off = "[streams.off]\nsource = 'rtsp://127.0.0.1:1/off'\nmodel = 'conveyor'\nenabled = false\n"
    config.write_text(text + more + off, encoding="utf-8")
    assert main(["check", str(config), "--json"]) == 1
    findings = findings_of(capsys)
    away = [name for name, finding in findings.items() if finding["told"] == "it is away"]
    assert away == ["camera belt", "camera s0", "camera s1", "broker"]
    assert findings["camera off"]["works"] is None


def test_a_camera_that_never_answers_does_not_keep_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    released = threading.Event()
    monkeypatch.setattr(check_probes, "SPARE_S", -9.5)
    monkeypatch.setattr(check_probes, "open_source", lambda *_: released.wait(60))
    config = tmp_path / "edge.toml"
    config.write_text(CONFIG.format(port=free_port(), source="synthetic://conveyor"), encoding="utf-8")
    assert main(["check", str(config), "--json"]) == 1
    assert "no answer in 0.5 s" in findings_of(capsys)["camera belt"]["told"]
    released.set()


def test_a_camera_that_is_away_is_told_without_its_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "edge.toml"
    source = f"rtsp://viewer:hunter2@127.0.0.1:{free_port()}/main"
    config.write_text(CONFIG.format(port=free_port(), source=source), encoding="utf-8")
    assert main(["check", str(config), "--json"]) == 1
    printed = capsys.readouterr()
    assert "hunter2" not in printed.out + printed.err
    assert "cannot be opened" in printed.out


def test_a_wrong_configuration_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "edge.toml"
    config.write_text("[device]\nnmae = 'x'", encoding="utf-8")
    assert main(["check", str(config), "--config-only"]) == 2
    assert "did you mean 'name'?" in capsys.readouterr().err


def test_the_sample_configuration_loads() -> None:
    config = load_config(SAMPLE)
    assert set(config.streams) == {"belt"}


def test_the_sample_configuration_holds_every_key_of_every_table() -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    config = load_config(SAMPLE)
    tables = [
        config.device,
        config.mqtt,
        config.telemetry,
        config.governor,
        config.models["conveyor"],
        config.streams["belt"],
    ]
    for table in tables:
        for key in type(table).model_fields:
            assert f"\n{key} = " in text or f"\n# {key} = " in text, f"{key} is not explained"


def test_the_defaults_that_the_sample_shows_are_those_of_the_code(tmp_path: Path) -> None:
    """A commented key that says its default must say the true one."""
    shown = {"password_file", "ca", "cert", "key", "username", "state_dir", "labels", "score_threshold", "masks"}
    shown |= {"max_temperature_c", "target_p99_ms"}
    lines = []
    for line in SAMPLE.read_text(encoding="utf-8").splitlines():
        key = line.removeprefix("# ").partition(" = ")[0]
        commented = line.startswith("# ") and " = " in line and key.replace("_", "").isalpha()
        lines.append(line.removeprefix("# ") if commented and key not in shown else line)
    path = tmp_path / "edge.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    written: Config = load_config(path)
    assert written == load_config(SAMPLE)
