"""Configuration of the daemon: one TOML file, read once; each key declares its limits."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from edge.core.environment import expand
from edge.core.errors import ConfigError
from edge.core.manifest import built_in_model, built_in_models
from edge.core.network_url import NetworkUrl, parse_network_url
from edge.core.redaction import redact_address, shown
from edge.core.secret_files import CREDENTIAL, check_private, credential_path, read_secret
from edge.core.source_address import SourceAddress, expand_home, parse_address
from edge.core.suggestion import did_you_mean
from edge.core.validation import FROM_LIST, Table, as_table, read_toml

log = logging.getLogger(__name__)

MQTT_PORT = {"mqtt": 1883, "mqtts": 8883}
MOST_CLIENT_ID_BYTES = 256
MIN_MASK_POINTS = 3
VERSION = 1  # of the configuration format; raised when a key is removed or changes its meaning
MAX_PIXEL = 65_535

# Names become topic levels and file names.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")]
TopicPrefix = Annotated[str, Field(pattern=r"^[^/+#$\x00-\x1f][^+#\x00-\x1f]*$")]
AutoOrCount = Literal["auto"] | Annotated[int, Field(ge=1, le=256)]


def _existing_path(value: Any, info: ValidationInfo) -> Any:
    """Resolve a path, which must exist; relative ones start at the config file."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"found {shown(value)}, wanted a path")
    if value.startswith(CREDENTIAL):
        return credential_path(value.removeprefix(CREDENTIAL))
    path = _folder(info) / expand_home(value)
    if not os.path.exists(path):  # noqa: PTH110 -- Path.exists raises for a name that is too long
        raise ValueError(f"{path} does not exist; wanted an existing path (relative ones start at the config file)")
    return path


def _model_folder(value: Any, info: ValidationInfo) -> Any:
    """Resolve a model folder: a path, or the name of a model that comes with the package."""
    try:
        return _existing_path(value, info)
    except ValueError as error:
        if not isinstance(value, str):
            raise
        if folder := built_in_model(value):
            return folder
        if meant := did_you_mean(value, [each.name for each in built_in_models()]):
            raise ValueError(f"{error}{meant}") from None
        raise


def _folder(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", "."))


def _secret_path(value: Any, info: ValidationInfo) -> Any:
    try:
        path = _existing_path(value, info)
    except ValueError:
        if not isinstance(value, str) or value.startswith(CREDENTIAL) or "/" in value or "\0" in value or not value:
            raise
        # It may be the secret itself, so it is not shown.
        raise ValueError(
            f"{_folder(info)} contains no file of this name; wanted the path of a file that contains the secret, "
            "not the secret itself"
        ) from None
    check_private(path)
    return path


ExistingPath = Annotated[Path, BeforeValidator(_existing_path)]
SecretPath = Annotated[Path, BeforeValidator(_secret_path)]


class DeviceSettings(Table):
    """This device: its name, power mode and state directory."""

    name: Name = Field(default_factory=lambda: socket.gethostname() or "edge")
    power_mode: str = Field("keep", min_length=1, max_length=64)  # its modes are known only on the board itself
    state_dir: str | None = None
    picture_memory_mb: Literal["auto"] | Annotated[int, Field(ge=16, le=1_000_000)] = "auto"


class MqttSettings(Table):
    """MQTT broker and credentials; `mqtts://` for TLS."""

    url: str = "mqtt://127.0.0.1:1883"
    prefix: str = Field("edge", pattern=r"^[^/+#\x00-\x1f][^+#\x00-\x1f]*$")
    client_id: str = "edge-{prefix}-{device}"
    username: str | None = None
    password_file: SecretPath | None = None
    ca: ExistingPath | None = None
    cert: ExistingPath | None = None
    key: SecretPath | None = None
    version: Literal["auto", "5", "3.1.1"] = "auto"
    queue_messages: int = Field(10_000, ge=10, le=1_000_000)
    in_flight: int = Field(64, ge=1, le=1000)

    @field_validator("url")
    @classmethod
    def _broker_url(cls, url: str) -> str:
        wanted = "wanted mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"
        if url.partition("://")[0].lower() not in MQTT_PORT or parse_network_url(url).target.strip("/"):
            raise ValueError(f"found {redact_address(url, is_url=True)!r}, {wanted}")
        return url

    @field_validator("client_id")
    @classmethod
    def _client_id_can_be_sent(cls, client_id: str) -> str:
        literal = client_id.replace("{device}", "").replace("{prefix}", "")
        is_sound = client_id.isprintable() and not set(literal) & set("{}")
        if not is_sound or not 0 < len(client_id.encode(errors="replace")) <= MOST_CLIENT_ID_BYTES:
            raise ValueError(
                f"found {client_id!r:.80}, wanted 1 to {MOST_CLIENT_ID_BYTES} bytes of printable text, in which "
                "{device} and {prefix} stand for the device's name and the prefix"
            )
        return client_id

    def client_id_of(self, device: str) -> str:
        """Return the client id of a device of this name."""
        return self.client_id.replace("{prefix}", self.prefix).replace("{device}", device)

    @model_validator(mode="after")
    def _settings_agree(self) -> MqttSettings:
        if self.password_file is not None and self.username is None and self._parsed.username is None:
            raise ValueError("password_file is set without username; wanted both")
        files = {"ca": self.ca, "cert": self.cert, "key": self.key}
        if not self.tls and (found := [name for name, path in files.items() if path is not None]):
            raise ValueError(f"found {', '.join(found)} and {self.shown}, which is not encrypted; wanted mqtts://")
        if (self.cert is None) != (self.key is None):
            found_one, missing = ("cert", "key") if self.key is None else ("key", "cert")
            raise ValueError(f"{found_one} is set without {missing}; wanted both, as two PEM files")
        return self

    @property
    def _parsed(self) -> NetworkUrl:
        return parse_network_url(self.url)

    @property
    def host(self) -> str:
        return self._parsed.host

    @property
    def tls(self) -> bool:
        return self._parsed.scheme == "mqtts"

    @property
    def port(self) -> int:
        return self._parsed.port or MQTT_PORT[self._parsed.scheme]

    @property
    def shown(self) -> str:
        """Broker address without credentials."""
        return f"{self._parsed.scheme}://{self.host}:{self.port}"

    def credentials(self) -> tuple[str | None, str | None]:
        """Return user name and password; those in the URL serve as defaults."""
        in_url = self._parsed
        password = read_secret(self.password_file) if self.password_file else in_url.password
        return self.username or in_url.username, password


class OutboxSettings(Table):
    """Limits and durability of the queue of unacknowledged messages."""

    memory_s: float = Field(2.0, ge=0, le=3600)
    commit_s: float = Field(1.0, ge=0.01, le=3600)
    sync: Literal["commit", "checkpoint", "never"] = "commit"
    max_mb: int = Field(256, ge=0, le=1_000_000)
    max_age_s: float = Field(604_800.0, ge=1, le=31_536_000)
    foreign: Literal["hold", "send", "discard"] = "hold"


class TelemetrySettings(Table):
    """Period and expiry of telemetry messages."""

    period_s: float = Field(5.0, ge=0.2, le=3600)
    expiry_s: float = Field(300.0, ge=1, le=31_536_000)


class EnginesSettings(Table):
    """Engine building, and the size of the plan cache."""

    builder_level: int = Field(3, ge=0, le=5)
    workspace_mb: Literal["auto"] | Annotated[int, Field(ge=16, le=65_536)] = "auto"
    cache_mb: int = Field(4096, ge=64, le=1_000_000)


class AccuracySettings(Table):
    """Shadow comparison of the serving engine with the exported model."""

    shadow: float = Field(0.0, ge=0, le=1)
    window: int = Field(200, ge=20, le=100_000)
    fallback: bool = False


class ModelSettings(Table):
    """One model: its folder, and how it is served."""

    path: Annotated[Path, BeforeValidator(_model_folder)]
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    max_batch: int = Field(4, ge=1, le=1024)
    max_wait_ms: float = Field(0.0, ge=0, le=10_000)
    lanes: AutoOrCount = "auto"
    threads: AutoOrCount = "auto"
    backend: Literal["auto", "tensorrt", "onnxruntime"] = "auto"
    device: Literal["auto", "gpu", "dla0", "dla1", "cpu"] = "auto"
    memory: Literal["auto", "mapped", "registered", "pinned"] = "auto"
    wait: Literal["block", "spin"] = "block"


class GovernorSettings(Table):
    """Power modes open to the governor, and the limits of its switching."""

    enabled: bool = False
    modes: Annotated[tuple[str, ...], FROM_LIST] = ()  # names or ids; empty: all without a reboot
    min_dwell_s: float = Field(60.0, ge=1, le=86_400)
    switch_cost_j: float = Field(5.0, ge=0, le=10_000)
    max_switches_per_h: int = Field(12, ge=1, le=3600)
    max_temperature_c: float | None = Field(None, ge=20, le=120)
    low_battery: float = Field(0.2, ge=0, le=1)
    hold_s: float = Field(3600.0, ge=0, le=604_800)


CommandName = Literal[
    "power_mode",
    "reload",
    "stream_on",
    "stream_off",
    "stream_add",
    "stream_remove",
    "snapshot",
    "log_level",
    "restart",
]


class CommandsSettings(Table):
    """Commands accepted over MQTT; none by default."""

    allow: Annotated[tuple[CommandName, ...], FROM_LIST] = ()
    max_per_min: int = Field(60, ge=1, le=6000)
    answer_prefixes: Annotated[tuple[TopicPrefix, ...], FROM_LIST] = ()  # beside that of [mqtt]


class HomeAssistantSettings(Table):
    """Home Assistant discovery over MQTT."""

    enabled: bool = False
    prefix: str = Field("homeassistant", pattern=r"^[^/+#\x00-\x1f][^+#\x00-\x1f]*$")


class HttpSettings(Table):
    """Prometheus endpoint."""

    enabled: bool = False
    host: str = Field("127.0.0.1", min_length=1, max_length=255)
    port: int = Field(9469, ge=1, le=65_535)


def _address(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        camera = f', such as "/dev/video{value}"' if type(value) is int else ""
        raise ValueError(f"found {shown(value)}, wanted a path or URL in quotes{camera}")  # noqa: TRY004 -- pydantic's protocol
    address = replace(parse_address(value, _folder(info)), show_path=info.data.get("show_path", False))
    if address.scheme == "file" and not _can_be(address.location):
        raise ValueError(f"{address.shown} cannot be the path of a file; wanted a file or folder of pictures")
    is_local = address.scheme in ("file", "v4l2")
    if is_local and info.data.get("required") and not os.path.exists(address.location):  # noqa: PTH110 -- as above
        raise ValueError(
            f"{address.shown} does not exist and is required; wanted an existing file, folder of pictures or device"
        )
    return address


def _can_be(path: str) -> bool:
    """Return whether a path exists, or may exist some day; `user:password@host` without its scheme never will."""
    try:
        os.stat(path)  # noqa: PTH116 -- for the number of the error
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG and path.isprintable() and ":" not in path.rpartition("@")[0]
    return True


def _authority_path(value: Any, info: ValidationInfo) -> Any:
    path = _existing_path(value, info)
    if any(sign in str(path) for sign in "|;"):
        raise ValueError(f"found {str(path)!r}, wanted a path without | and ;, which the camera library cannot read")
    return path


def _polygons(value: Any) -> Any:
    try:
        return tuple(_polygon(points) for points in value)
    except (TypeError, ValueError):
        raise ValueError(
            f"found {shown(value)}, wanted polygons of 3 points or more in source pixels: [[[x, y], [x, y], [x, y]]]"
        ) from None


def _polygon(points: Any) -> tuple[tuple[int, int], ...]:
    polygon = tuple((x, y) for x, y in points)
    if len(polygon) < MIN_MASK_POINTS or any(type(n) is not int or not 0 <= n <= MAX_PIXEL for p in polygon for n in p):
        raise ValueError
    return polygon


class StreamSettings(Table):
    """One camera or file: its capture, and the filter of its results."""

    show_path: bool = False  # before the source, which is read with it, as the next
    required: bool = False
    source: Annotated[SourceAddress, BeforeValidator(_address)]
    model: Name
    delivery: Literal["live", "every"] = "live"
    max_age_ms: float = Field(0.0, ge=0, le=3_600_000)
    loop: bool = False
    fps: float = Field(0.0, ge=0, le=1000)
    stall_s: float = Field(10.0, ge=1, le=3600)
    max_mpx: float = Field(50.0, gt=0, le=1000)
    target_p99_ms: float | None = Field(None, gt=0, le=60_000)
    username: str | None = None
    password_file: SecretPath | None = None
    ca: Annotated[Path, BeforeValidator(_authority_path)] | None = None
    labels: Annotated[tuple[str, ...], FROM_LIST] = ()
    score_threshold: float | None = Field(None, ge=0, le=1)
    min_size: float = Field(0.0, ge=0, le=MAX_PIXEL)
    masks: Annotated[tuple[tuple[tuple[int, int], ...], ...], BeforeValidator(_polygons)] = ()
    qos: Literal[0, 1] = 1
    max_results_per_s: float = Field(0.0, ge=0, le=1000)
    only_changes: bool = False
    enabled: bool = True

    @field_validator("delivery")
    @classmethod
    def _source_can_wait(cls, delivery: str, info: ValidationInfo) -> str:
        source = info.data.get("source")
        if delivery == "every" and source is not None and source.is_live:
            raise ValueError(f"found 'every' on a {source.scheme}:// source, which cannot wait; wanted 'live'")
        return delivery

    @model_validator(mode="after")
    def _password_has_a_user(self) -> StreamSettings:
        if self.password_file is not None and self.username is None and self.source.username is None:
            raise ValueError("password_file is set without username; wanted both")
        return self

    @model_validator(mode="after")
    def _authority_has_its_camera(self) -> StreamSettings:
        if self.ca is not None and self.source.scheme != "rtsps":
            raise ValueError(f"ca is set and the source is {self.source.scheme}://, not encrypted; wanted rtsps://")
        return self

    def address(self) -> SourceAddress:
        """Return the source with its credentials; username and password_file override those in the URL."""
        return replace(
            self.source,
            username=self.username or self.source.username,
            password=read_secret(self.password_file) if self.password_file else self.source.password,
            ca=str(self.ca) if self.ca else None,
        )


class Config(Table):
    """The complete configuration file."""

    version: int = Field(VERSION, ge=1)
    device: DeviceSettings = Field(default_factory=DeviceSettings)
    mqtt: MqttSettings = MqttSettings()
    outbox: OutboxSettings = OutboxSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    engines: EnginesSettings = EnginesSettings()
    accuracy: AccuracySettings = AccuracySettings()
    governor: GovernorSettings = GovernorSettings()
    commands: CommandsSettings = CommandsSettings()
    homeassistant: HomeAssistantSettings = HomeAssistantSettings()
    http: HttpSettings = HttpSettings()
    models: dict[Name, ModelSettings] = Field(default_factory=dict)
    streams: dict[Name, StreamSettings] = Field(default_factory=dict)

    # Before anything else is validated: a newer format cannot be judged here.
    @model_validator(mode="before")
    @classmethod
    def _version_is_known(cls, values: Any) -> Any:
        version = values.get("version") if isinstance(values, dict) else None
        if type(version) is int and version > VERSION:
            raise ValueError(
                f"version: found {version}, wanted {VERSION}: this file was written for a newer edge; install that "
                "version, or restore the file of this one"
            )
        return values

    @model_validator(mode="after")
    def _streams_name_their_models(self) -> Config:
        for name, stream in self.streams.items():
            if stream.model not in self.models:
                known = ", ".join(self.models) or "none: add a [models.NAME] table"
                raise ValueError(f"[streams.{name}] model: found {stream.model!r}, wanted one of the models ({known})")
        return self


def load_config(path: Path) -> Config:
    """Read and validate the configuration; raise ConfigError if it cannot be used."""
    written = read_toml(path, ConfigError)
    try:
        values = expand(written, os.environ)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    config = as_table(values, Config, ConfigError, str(path), path.parent.resolve())
    for place in _passwords(config, written):
        log.warning("%s contains a password in its URL, where others may read it; use password_file instead", place)
    return config


def _passwords(config: Config, written: dict[str, Any]) -> Iterator[str]:
    """Yield the places of URLs whose passwords are written in the file itself."""
    if parse_network_url(config.mqtt.url).password is not None and "${" not in written["mqtt"]["url"]:
        yield "[mqtt] url"
    for name, stream in config.streams.items():
        if stream.source.password is not None and "${" not in written["streams"][name]["source"]:
            yield f"[streams.{name}] source"
