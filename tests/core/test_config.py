"""The daemon's configuration: its defaults, its limits, its sentences, and that no file gets anything else."""

from __future__ import annotations

import copy
import json
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.config import Config, MqttSettings, load_config
from edge.core.errors import ConfigError

MINIMAL: dict[str, Any] = {
    "models": {"detector": {"path": "."}},
    "streams": {"door": {"source": "clip.mp4", "model": "detector"}},
}
FULL: dict[str, Any] = {
    "device": {"name": "bench-01", "power_mode": "keep", "state_dir": "/var/lib/edge"},
    "mqtt": {
        "url": "mqtts://127.0.0.1:1883", "prefix": "edge", "username": "u", "password_file": "secret.txt",
        "ca": "secret.txt", "cert": "secret.txt", "key": "secret.txt", "queue_messages": 100, "in_flight": 8,
    },
    "telemetry": {"period_s": 5},
    "models": {
        "detector": {
            "path": ".", "precision": "auto", "max_batch": 4, "max_wait_ms": 0, "lanes": "auto", "threads": 2,
            "backend": "auto", "device": "auto",
        }
    },
    "streams": {
        "door": {
            "source": "clip.mp4", "model": "detector", "delivery": "every", "max_age_ms": 200, "loop": False, "fps": 0,
            "stall_s": 10, "username": "viewer", "password_file": "secret.txt", "labels": ["person"],
            "score_threshold": 0.5, "min_size": 10, "masks": [[[0, 0], [10, 0], [10, 10]]], "qos": 1, "enabled": True,
        }
    },
}  # fmt: skip

NASTY_TEXTS = st.sampled_from(
    [
        "~nobody-of-this-name", "x" * 300, "a\nb", "a\u2028b", "\0", "", ".", "clip.mp4", "rtsp://u:S3cret@cam/main",
        "rtsp://", "rtsp://[", "mqtt://h:0", "mqtt://h:99999", "synthetic://conveyor", "detector", "every", "auto", "é",
    ]
)  # fmt: skip
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -1, 0, 1, 1e305, 2**63]))
SCALARS = st.one_of(st.booleans(), NUMBERS, NASTY_TEXTS, st.text(max_size=20))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


def to_toml(value: Any) -> str:
    """Write a value as TOML; what is special in a JSON string is so in a TOML string."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{to_toml(key)} = {to_toml(each)}' for key, each in value.items())}}}"
    return repr(value)


def document(values: dict[str, Any]) -> str:
    return "".join(f"{to_toml(key)} = {to_toml(value)}\n" for key, value in values.items())


def load(folder: Path, values: dict[str, Any] | str | bytes) -> Config:
    (folder / "clip.mp4").touch()
    (folder / "secret.txt").write_text("S3cret\n", encoding="utf-8")
    (folder / "secret.txt").chmod(0o600)
    text = document(values) if isinstance(values, dict) else values
    (folder / "edge.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(folder / "edge.toml")


def refusal(folder: Path, values: dict[str, Any] | str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(folder, values)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def changed(values: dict[str, Any], *path: str, to: Any) -> dict[str, Any]:
    """Return a copy with one key set."""
    values = copy.deepcopy(values)
    table = values
    for part in path[:-1]:
        table = table.setdefault(part, {})
    table[path[-1]] = to
    return values


def key_paths(values: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of each table and key."""
    paths = []
    for key, value in values.items():
        paths.append((*before, key))
        if isinstance(value, dict):
            paths += key_paths(value, (*before, key))
    return paths


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a valid document with a few keys changed, taken out or renamed."""
    values = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(key_paths(values)))
        table = values
        for part in path[:-1]:
            table = table[part]
        value = table.pop(path[-1])
        match draw(st.sampled_from(["change", "take out", "rename"])):
            case "change":
                table[path[-1]] = draw(VALUES)
            case "rename":
                table[draw(st.one_of(st.text(max_size=10), st.just(path[-1] + "s")))] = value
    return values


def test_the_documented_defaults_hold(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    assert config.device.name == socket.gethostname()
    assert config.device.power_mode == "keep"
    assert (config.mqtt.url, config.mqtt.prefix) == ("mqtt://127.0.0.1:1883", "edge")
    assert config.telemetry.period_s == 5
    model = config.models["detector"]
    assert (model.precision, model.max_batch, model.max_wait_ms) == ("auto", 4, 0)
    assert (model.lanes, model.threads, model.backend) == ("auto", "auto", "auto")
    stream = config.streams["door"]
    assert (stream.delivery, stream.loop, stream.fps, stream.stall_s) == ("live", False, 0, 10)
    assert (stream.labels, stream.score_threshold, stream.min_size, stream.masks) == ((), None, 0, ())
    assert (stream.qos, stream.enabled) == (1, True)


def test_every_key_can_be_set(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    assert config.models["detector"].threads == 2
    assert config.streams["door"].masks == (((0, 0), (10, 0), (10, 10)),)
    assert config.streams["door"].labels == ("person",)


def test_an_empty_file_is_a_configuration(tmp_path: Path) -> None:
    assert load(tmp_path, "").streams == {}


def test_relative_paths_start_at_the_file_wherever_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load(Path("../etc"), MINIMAL)
    assert config.models["detector"].path == tmp_path / "etc"
    assert config.streams["door"].source.location == str(tmp_path / "etc/clip.mp4")


@pytest.mark.parametrize(
    ("client_id", "sent"),
    [
        (None, "edge-site/7-dev-1"),
        ("{device}", "dev-1"),
        ("thing:{device}@{prefix}", "thing:dev-1@site/7"),
        ("fixed", "fixed"),
        ("{device}{device}", "dev-1dev-1"),
    ],
)
def test_the_client_id_is_a_template_of_device_and_prefix(client_id: str | None, sent: str) -> None:
    keys = {"prefix": "site/7"} | ({} if client_id is None else {"client_id": client_id})
    assert MqttSettings.model_validate(keys).client_id_of("dev-1") == sent


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("device", "nam"), "x", "[device] nam: unknown key; did you mean 'name'?"),
        (("stream",), {}, "stream: unknown key; did you mean 'streams'?"),
        (("streams", "door", "max_age"), 1, "[streams.door] max_age: unknown key; did you mean 'max_age_ms'?"),
        (("device", "name"), "a/b", "[device] name: found 'a/b', wanted text of the form"),
        (("device", "name"), "a\n", "[device] name: found 'a\\n', wanted text of the form"),
        (("mqtt", "prefix"), "a/+/b", "[mqtt] prefix: found 'a/+/b', wanted text of the form"),
        (("mqtt", "url"), "http://h", "[mqtt] url: found 'http://h', wanted mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"),
        (("mqtt", "url"), "mqtt://h/topic", "[mqtt] url: found 'mqtt://h/…', wanted mqtt://HOST[:PORT]"),
        (("mqtt", "url"), "mqtt://h:0", "[mqtt] url: found port 0 in this address; wanted mqtt://HOST[:PORT]"),
        (("mqtt", "url"), "mqtt://h:x", "[mqtt] url: no valid host and port in this address; "),
        (("mqtt", "client_id"), "", "[mqtt] client_id: found '', wanted 1 to 256 bytes of printable text"),
        (("mqtt", "client_id"), "x" * 257, "wanted 1 to 256 bytes of printable text"),
        (("mqtt", "client_id"), "é" * 129, "wanted 1 to 256 bytes of printable text"),
        (("mqtt", "client_id"), "a\0b", "[mqtt] client_id: found 'a\\x00b', wanted 1 to 256 bytes"),
        (("mqtt", "client_id"), "edge-{name}", "in which {device} and {prefix} stand for the device's name and the"),
        (("mqtt", "client_id"), "edge-{device", "[mqtt] client_id: found 'edge-{device', wanted"),
        (("mqtt", "client_id"), 7, "[mqtt] client_id: found 7, wanted a string"),
        (("mqtt", "ca"), "none.pem", "none.pem does not exist; wanted an existing path"),
        (("telemetry", "period_s"), 0, "[telemetry] period_s: found 0, wanted greater than or equal to 0.2"),
        (("models", "detector", "max_batch"), "4", "[models.detector] max_batch: found '4', wanted a whole number"),
        (("models", "detector", "lanes"), 0, "[models.detector] lanes: found 0, wanted 'auto' or"),
        (("models", "detector", "path"), "none", "none does not exist; wanted an existing path"),
        (("models", "detector", "path"), "conveyer", "start at the config file); did you mean 'conveyor'?"),
        (("models", "detector", "path"), 3, "[models.detector] path: found 3, wanted a path"),
        (("streams", "door", "delivery"), "all", "[streams.door] delivery: found 'all', wanted 'live' or 'every'"),
        (("streams", "door", "max_mpx"), 0, "[streams.door] max_mpx: found 0, wanted greater than 0"),
        (("streams", "door", "ca"), "none.pem", "none.pem does not exist; wanted an existing path"),
        (("device", "picture_memory_mb"), 1, "[device] picture_memory_mb: found 1, wanted 'auto' or"),
        (("streams", "door", "source"), "http://cam", "[streams.door] source: scheme 'http' is not known; wanted"),
        (("streams", "door", "source"), 3, "[streams.door] source: found 3, wanted a path or URL in quotes"),
        (("streams", "door", "score_threshold"), 1.5, "[streams.door] score_threshold: found 1.5, wanted less than"),
        (("streams", "door", "fps"), float("inf"), "[streams.door] fps: found inf, wanted"),
        (("streams", "door", "qos"), 2, "[streams.door] qos: found 2, wanted 0 or 1"),
        (("streams", "door", "masks"), [[[0, 0], [1, 1]]], "wanted polygons of 3 points or more"),
        (("streams", "door", "masks"), [[[0, 0], [1, 1], [True, 2]]], "wanted polygons of 3 points or more"),
        (("streams", "door", "masks"), [[[0, 0], [1, 1], [-1, 2]]], "wanted polygons of 3 points or more"),
        (("streams", "door", "model"), "x", "[streams.door] model: found 'x', wanted one of the models (detector)"),
        (("streams", "a b"), MINIMAL["streams"]["door"], "wanted text of the form"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_section_key_and_what_is_wanted(
    tmp_path: Path, path: tuple[str, ...], value: Any, told: str
) -> None:
    refused = refusal(tmp_path, changed(MINIMAL, *path, to=value))
    assert refused.startswith(f"{tmp_path / 'edge.toml'}: ")
    assert told in refused


@pytest.mark.parametrize("twice", ["[device]\n[device]\n", "[streams.a]\n[streams.a]\n", "a = 1\na = 1\n"])
def test_what_stands_twice_is_refused(tmp_path: Path, twice: str) -> None:
    assert "is not valid TOML" in refusal(tmp_path, twice)


def test_a_stream_without_any_model_is_told_what_to_add(tmp_path: Path) -> None:
    told = refusal(tmp_path, {"streams": MINIMAL["streams"]})
    assert "[streams.door] model: found 'detector', wanted one of the models (none: add a [models.NAME] table)" in told


@pytest.mark.parametrize("source", ["rtsp://cam/main", "rtsps://cam/main", "v4l2:///dev/video0"])
def test_a_camera_cannot_be_asked_for_every_frame(tmp_path: Path, source: str) -> None:
    values = changed(MINIMAL, "streams", "door", "source", to=source)
    told = refusal(tmp_path, changed(values, "streams", "door", "delivery", to="every"))
    assert "[streams.door] delivery: found 'every' on a " in told
    assert told.endswith("source, which cannot wait; wanted 'live'")


@pytest.mark.parametrize(
    "path", [("models", "detector", "path"), ("streams", "door", "source"), ("mqtt", "password_file")]
)
@pytest.mark.parametrize("value", ["~nobody-of-this-name/x", "x" * 300, "a\nb", "a\u2028b", "a\0b", ""])
def test_a_path_that_cannot_be_is_a_sentence(tmp_path: Path, path: tuple[str, ...], value: str) -> None:
    assert f"[{'.'.join(path[:-1])}] {path[-1]}: " in refusal(tmp_path, changed(MINIMAL, *path, to=value))


@pytest.mark.parametrize("key", ["max_age_ms", "fps", "stall_s"])
def test_durations_and_rates_are_bounded(tmp_path: Path, key: str) -> None:
    told = refusal(tmp_path, changed(MINIMAL, "streams", "door", key, to=1e305))
    assert f"[streams.door] {key}: found 1e+305, wanted less than or equal to" in told


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("mqtt", "url"), "http://u:S3cret@h"),
        (("mqtt", "url"), "http://u:p@S3cret@h"),
        (("mqtt", "url"), "http://u:a S3cret@h"),
        (("mqtt", "url"), "mqtt://u:12/S3cret@h"),
        (("mqtt", "url"), "mqtt://u:S3cret@h:port"),
        (("mqtt",), "mqtt://u:S3cret@h"),
        (("streams", "door", "source"), "http://u:S3cret@h"),
        (("streams", "door", "source"), "rtsp://u:S3cret@h:port/main"),
        (("streams", "door", "source"), "rtsp://u:S3cret@"),
        (("streams", "door", "source"), ["rtsp://u:S3cret@h"]),
        (("streams", "door"), ["rtsp://u:S3cret@h"]),
        (("streams", "door", "delivery"), "rtsp://u:S3cret@h"),
    ],
)
def test_a_password_in_a_url_reaches_no_error(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    assert "S3cret" not in refusal(tmp_path, changed(MINIMAL, *path, to=value))


@pytest.mark.parametrize(
    "url", ["mqtt:u:S3cret@h", "mqtt:/u:S3cret@h", "mqttu:S3cret@h", "u:S3cret@h", "mqtt:://u:S3'cret@h", "S3cret://h@"]
)
def test_a_broker_url_with_a_mistake_shows_no_password(tmp_path: Path, url: str) -> None:
    told = refusal(tmp_path, {"mqtt": {"url": url}})
    assert "S3" not in told
    assert "cret" not in told


@pytest.mark.parametrize("sign", "#/?")
def test_a_sign_in_the_brokers_password_is_told_with_how_to_write_it(tmp_path: Path, sign: str) -> None:
    told = refusal(tmp_path, {"mqtt": {"url": f"mqtt://u:S3{sign}cret@h"}})
    assert f"%{ord(sign):02X}" in told
    assert "password_file" in told
    assert "cret" not in told


def test_a_password_in_place_of_the_path_of_its_file_is_not_shown(tmp_path: Path) -> None:
    told = refusal(tmp_path, {"mqtt": {"username": "u", "password_file": "hunter2"}})
    assert "hunter2" not in told
    assert "not the secret itself" in told


def test_the_path_of_a_camera_is_shown_on_request(tmp_path: Path) -> None:
    values = changed(MINIMAL, "streams", "door", "source", to="rtsp://viewer:S3cret@cam/main")
    assert load(tmp_path, values).streams["door"].source.shown == "rtsp://cam"
    values = changed(values, "streams", "door", "show_path", to=True)
    assert load(tmp_path, values).streams["door"].address().shown == "rtsp://cam/main"


def test_credentials_of_the_file_stand_before_those_of_the_url(tmp_path: Path) -> None:
    door = {
        "source": "rtsp://old:older@cam/main",
        "model": "detector",
        "username": "new",
        "password_file": "secret.txt",
    }
    stream = load(tmp_path, changed(MINIMAL, "streams", "door", to=door)).streams["door"]
    assert (stream.address().username, stream.address().password) == ("new", "S3cret")
    assert stream.address().shown == "rtsp://cam"


def test_credentials_of_a_url_work(tmp_path: Path) -> None:
    values = changed(MINIMAL, "streams", "door", "source", to="rtsp://viewer:S3cret@cam/main")
    stream = load(tmp_path, values).streams["door"]
    assert (stream.address().username, stream.address().password) == ("viewer", "S3cret")
    assert "S3cret" not in repr(stream)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("mqtt://h", "h", 1883, False),
        ("mqtts://h", "h", 8883, True),
        ("mqtt://u:S3cret@h:1884", "h", 1884, False),
        ("mqtt://[::1]:1885/", "::1", 1885, False),
    ],
)
def test_a_broker_address_is_taken_apart(tmp_path: Path, url: str, host: str, port: int, tls: bool) -> None:  # noqa: FBT001
    mqtt = load(tmp_path, {"mqtt": {"url": url}}).mqtt
    assert (mqtt.host, mqtt.port, mqtt.tls) == (host, port, tls)
    assert "S3cret" not in mqtt.shown
    assert mqtt.shown.endswith(f"{port}")


def test_the_brokers_credentials_come_from_the_url_or_the_file(tmp_path: Path) -> None:
    in_url = {"url": "mqtt://u%40:p%2F@h"}
    assert load(tmp_path, {"mqtt": in_url}).mqtt.credentials() == ("u@", "p/")
    in_file = in_url | {"username": "v", "password_file": "secret.txt"}
    assert load(tmp_path, {"mqtt": in_file}).mqtt.credentials() == ("v", "S3cret")
    assert load(tmp_path, {"mqtt": {}}).mqtt.credentials() == (None, None)


@settings(max_examples=300)
@given(mutated())
def test_any_mutation_is_a_configuration_or_one_line(values: dict[str, Any]) -> None:
    loads_or_says_one_line(document(values))


@given(st.dictionaries(st.one_of(st.sampled_from(list(FULL)), st.text(max_size=8)), VALUES, max_size=4))
def test_any_document_is_a_configuration_or_one_line(values: dict[str, Any]) -> None:
    loads_or_says_one_line(document(values))


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_bytes_are_a_configuration_or_one_line(content: bytes) -> None:
    loads_or_says_one_line(content)


def loads_or_says_one_line(content: str | bytes) -> None:
    told = "no word"
    with TemporaryDirectory() as folder:
        try:
            config = load(Path(folder), content)
        except ConfigError as error:
            told = str(error)
        else:
            assert all(stream.model in config.models for stream in config.streams.values())
    assert len(told.splitlines()) == 1
    assert "S3cret" not in told


@pytest.mark.parametrize("version", [{}, {"version": 1}])
def test_the_first_version_need_not_be_named(tmp_path: Path, version: dict[str, Any]) -> None:
    assert load(tmp_path, version | MINIMAL).version == 1


def test_a_newer_version_is_refused_whatever_else_the_file_holds(tmp_path: Path) -> None:
    told = refusal(tmp_path, {"version": 2, "flux": {"level": 3}} | changed(MINIMAL, "device", "name", to=5))
    assert "version: found 2, wanted 1: this file was written for a newer edge; install that version" in told
    assert "flux" not in told


@pytest.mark.parametrize("version", [0, -1, 1.0, "1", True])
def test_what_is_no_version_is_refused(tmp_path: Path, version: Any) -> None:
    assert f"version: found {version!r}, wanted " in refusal(tmp_path, {"version": version} | MINIMAL)


@pytest.mark.parametrize("place", ["mnt/clip.mp4", "v4l2:///dev/video-none"])
def test_a_source_that_is_not_there_yet_is_accepted_unless_it_is_required(tmp_path: Path, place: str) -> None:
    late = changed(MINIMAL, "streams", "door", "source", to=place)
    assert not load(tmp_path, late).streams["door"].required
    refused = refusal(tmp_path, changed(late, "streams", "door", "required", to=True))
    assert "[streams.door] source: " in refused
    assert "does not exist and is required; wanted an existing file, folder of pictures or device" in refused


def test_an_authority_is_for_encrypted_cameras_alone(tmp_path: Path) -> None:
    (tmp_path / "camera.pem").touch()
    plain = changed(
        MINIMAL, "streams", "door", to={"source": "rtsp://cam/main", "model": "detector", "ca": "camera.pem"}
    )
    encrypted = changed(plain, "streams", "door", "source", to="rtsps://cam/main")
    assert load(tmp_path, encrypted).streams["door"].address().ca == str(tmp_path / "camera.pem")
    assert "[streams.door]: ca is set and the source is rtsp://, not encrypted; wanted rtsps://" in refusal(
        tmp_path, plain
    )


def test_an_authority_that_the_camera_library_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a;b.pem").touch()
    stream = {"source": "rtsps://cam/main", "model": "detector", "ca": "a;b.pem"}
    assert "wanted a path without | and ;" in refusal(tmp_path, changed(MINIMAL, "streams", "door", to=stream))
