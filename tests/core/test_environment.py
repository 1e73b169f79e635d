"""References to the environment in a configuration → their values, none of which an error or a log shows."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge.core.config import Config, load_config
from edge.core.environment import expand
from edge.core.errors import ConfigError

STREAM = '[models.m]\npath = "conveyor"\n[streams.door]\nmodel = "m"\n'


def load(folder: Path, text: str) -> Config:
    (folder / "edge.toml").write_text(text, encoding="utf-8")
    return load_config(folder / "edge.toml")


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(folder, text)
    return str(raised.value)


@pytest.mark.parametrize(
    ("written", "expanded"),
    [
        ("${HOST}", "10.0.0.2"),
        ("a-${HOST}-${NAME}", "a-10.0.0.2-belt"),
        ("${AWAY:-other}${EMPTY:-other}", "otherother"),
        ("${EMPTY}${AWAY:-}", ""),
        ("$HOST $${HOST} 5$", "$HOST ${HOST} 5$"),
    ],
)
def test_references_are_replaced(written: str, expanded: str) -> None:
    environment = {"HOST": "10.0.0.2", "NAME": "belt", "EMPTY": ""}
    assert expand({"a": [written]}, environment) == {"a": [expanded]}


@pytest.mark.parametrize("written", ["${AWAY}", "x${AWAY}", "${", "${}", "${1}", "${A B}"])
def test_what_is_not_set_or_no_name_is_a_sentence_with_its_place(written: str) -> None:
    with pytest.raises(ValueError, match=r"^\[mqtt\] url: .*environment") as raised:
        expand({"mqtt": {"url": written}}, {"HOST": "S3cret"})
    assert "S3cret" not in str(raised.value)


def test_an_unset_name_is_told_with_file_and_key(tmp_path: Path) -> None:
    told = refusal(tmp_path, '[mqtt]\nurl = "mqtt://${AWAY_BROKER}"\n')
    assert told.startswith(f"{tmp_path}/edge.toml: [mqtt] url: ${{AWAY_BROKER}} is not set in the environment; ")


def test_credentials_from_the_environment_need_no_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "p@s/s#w?o:r%41[d")
    monkeypatch.setenv("BOTH", "viewer:p@s:s/")
    text = STREAM + 'source = "rtsp://viewer:${CAMERA_PASSWORD}@cam/main"\n[mqtt]\nurl = "mqtt://${BOTH}@h"\n'
    config = load(tmp_path, text)
    assert config.streams["door"].address().password == "p@s/s#w?o:r%41[d"
    assert config.mqtt.credentials() == ("viewer", "p@s:s/")


def test_a_password_from_the_environment_is_not_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "S3cret")
    with caplog.at_level(logging.DEBUG):
        load(tmp_path, STREAM + 'source = "rtsp://viewer:${CAMERA_PASSWORD}@cam/main"\n')
    assert caplog.text == ""


@pytest.mark.parametrize(
    "text",
    [
        '[mqtt]\nurl = "${SECRET}"\n',
        '[mqtt]\nversion = "${SECRET}"\n',
        '[mqtt]\npassword_file = "${SECRET}"\n',
        '[mqtt]\npassword_file = "/nowhere/${SECRET}"\n',
        '[mqtt]\nqueue_messages = "${SECRET}"\n',
        '[device]\nname = "a/${SECRET}"\n',
        STREAM + 'source = "${SECRET}"\nrequired = true\n',
        STREAM + 'source = "file:///x/${SECRET}"\nrequired = true\n',
        STREAM + 'source = "viewer:${SECRET}@10.0.0.7/main"\n',
        STREAM + 'source = "synthetic://conveyor"\nlabels = "${SECRET}"\n',
        STREAM.replace('"m"', '"${SECRET}"') + 'source = "synthetic://conveyor"\n',
        'nothing = "${SECRET}"\n',
    ],
)
def test_no_value_of_the_environment_is_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SECRET", "hunter2-" + "x" * 100)
    assert "hunter2" not in refusal(tmp_path, text)


def test_a_number_and_a_truth_value_can_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBER", "9000")
    monkeypatch.setenv("ENABLED", "true")
    text = '[http]\nport = "${NUMBER}"\nenabled = "${ENABLED}"\n[telemetry]\nexpiry_s = "${NUMBER}"\n'
    text += '[device]\nname = "${NUMBER}"\n'
    config = load(tmp_path, text)
    assert (config.http.port, config.http.enabled, config.telemetry.expiry_s) == (9000, True, 9000.0)
    assert config.device.name == "9000"
