"""Home Assistant discovery: the message that describes this device, and the switches it sends back; pure.

Home Assistant reads our messages by templates. A value that is null or missing renders as None, which it shows as
unknown.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.core.config import CommandName
from edge.core.records import Classes, Findings, label_of
from edge.mqtt.topics import Topics

# Each label is an entity of its own, and a home wants to see only a few; a stream's `labels` selects them.
MOST_LABELS = 20
# A figure of telemetry is unknown after so many periods without a new one, and after so many seconds at the least.
EXPIRY_PERIODS, LEAST_EXPIRY_S = 3, 30
ORIGIN = "edge"

Component = dict[str, Any]


@dataclass(frozen=True)
class DeviceIdentity:
    """The properties of the device that Home Assistant shows of itself."""

    board: str
    manufacturer: str | None = None
    page: str | None = None  # its address


@dataclass(frozen=True)
class DiscoveredStream:
    """The properties of a stream that determine its entities."""

    name: str
    labels: tuple[str, ...]  # that it may publish
    classifies: bool  # else it finds boxes


@dataclass(frozen=True)
class DiscoveredDevice:
    """The properties of the device that determine its entities."""

    streams: tuple[DiscoveredStream, ...]
    models: tuple[str, ...]
    power_modes: tuple[str, ...]  # that can be chosen
    allow: tuple[CommandName, ...]
    period_s: float  # of telemetry


class Discovery:
    """The discovery message of one device, as Home Assistant documents it for devices."""

    def __init__(self, prefix: str, topics: Topics, version: str, identity: DeviceIdentity) -> None:
        self.birth_topic = f"{prefix}/status"
        self._id = object_id(f"{topics.prefix}_{topics.device}")
        self.topic = discovery_topic(prefix, topics)
        self._topics = topics
        shown = {"name": topics.device, "model": identity.board, "sw_version": version}
        shown["manufacturer"] = identity.manufacturer or ORIGIN
        if identity.page is not None:
            shown["configuration_url"] = identity.page
        self._head = {
            "device": {"identifiers": [self._id], **shown},
            "origin": {"name": ORIGIN, "sw_version": version},
            "availability": [_available(topics.status, "online")],
            "state_topic": topics.telemetry,
            "qos": 1,
        }

    def body(self, device: DiscoveredDevice, former: Mapping[str, Component] | None = None) -> dict[str, Any]:
        """Return the message; components of the `former` one that are gone are listed, so that they disappear."""
        components = self._of_device(device)
        for stream in device.streams:
            components |= self._of_stream(stream, device.allow)
        expire_after_s = max(LEAST_EXPIRY_S, math.ceil(EXPIRY_PERIODS * device.period_s))
        for key, component in components.items():
            # What is published only when it changes does not expire: counts, a class, states.
            if "state_topic" not in component:
                component["expire_after"] = expire_after_s
            component["unique_id"] = f"{self._id}_{key}"
        gone = {key: {"platform": each["platform"]} for key, each in (former or {}).items() if key not in components}
        return self._head | {"components": components | gone}

    def _of_device(self, device: DiscoveredDevice) -> dict[str, Component]:
        hottest = f"{_path('board', 'temperature_c')} or {{}}"
        throttled = _path("board", "throttled")
        components = {
            "power": _sensor("power", _value("board", "power_w"), "W", device_class="power"),
            "efficiency": _sensor("images per second per watt", _value("board", "images_per_s_per_w"), "1/s/W"),
            "temperature": _sensor(
                "temperature",
                f"{{{{ ({hottest}).values() | select('number') | max | default(none) }}}}",
                "°C",
                device_class="temperature",
            ),
            "throttled": {
                "platform": "binary_sensor",
                "name": "throttled",
                "device_class": "problem",
                "entity_category": "diagnostic",
                "value_template": f"{{{{ none if {throttled} is none else ('ON' if {throttled} else 'OFF') }}}}",
            },
        }
        for model in device.models:
            energy = _value("models", model, "energy_j_per_image")
            components[f"model_{model}_energy"] = _sensor(f"{model} energy per inference", energy, "J")
        if "power_mode" in device.allow and device.power_modes:
            components["power_mode"] = self._power_mode(device.power_modes)
        return components

    def _power_mode(self, modes: Sequence[str]) -> Component:
        return {
            "platform": "select",
            "name": "power mode",
            "entity_category": "config",
            "options": list(modes),
            "state_topic": self._topics.status,
            "value_template": _value("power_mode"),
            "command_topic": self._topics.command("power_mode"),
            "command_template": '{"args":{"mode":{{ value | tojson }}}}',
        }

    def _of_stream(self, stream: DiscoveredStream, allow: Sequence[str]) -> dict[str, Component]:
        name, key = stream.name, f"stream_{stream.name}"
        latency = _value("streams", name, "latency_ms", "total", "p99")
        components = {
            f"{key}_rate": _sensor(f"{name} frames per second", _value("streams", name, "results_per_s"), "1/s"),
            f"{key}_latency": _sensor(f"{name} latency p99", latency, "ms", device_class="duration"),
        }
        if stream.classifies:
            top = {"platform": "sensor", "name": f"{name} class", "value_template": _value("top")}
            components[f"{key}_class"] = top | {"state_topic": self._topics.counts(name)}
        else:
            components |= self._counts(stream)
        running = [_available(self._topics.status, "online"), _available(self._topics.stream_status(name), "running")]
        for component in components.values():
            component |= {"availability": running, "availability_mode": "all"}
        if {"stream_on", "stream_off"} <= set(allow):
            components[f"{key}_switch"] = self._switch(name)
        return components

    def _counts(self, stream: DiscoveredStream) -> dict[str, Component]:
        """Return one sensor for all objects, and one for each label."""
        counts = f"({_path('counts')} or {{}})"
        key, topic = f"stream_{stream.name}", self._topics.counts(stream.name)
        found = {f"{key}_objects": _sensor(f"{stream.name} objects", f"{{{{ {counts}.values() | sum }}}}", None)}
        for label in stream.labels[:MOST_LABELS]:
            template = f"{{{{ {counts}.get({_literal(label)}, 0) }}}}"
            found[f"{key}_label_{object_id(label)}"] = _sensor(f"{stream.name} {label}", template, None)
        for component in found.values():
            component["state_topic"] = topic
        return found

    def _switch(self, stream: str) -> Component:
        return {
            "platform": "switch",
            "name": stream,
            "state_topic": self._topics.stream_status(stream),
            "value_template": "{{ 'OFF' if value_json is not defined or value_json.state == 'off' else 'ON' }}",
            "command_topic": self._topics.switch(stream),
            "payload_on": "ON",
            "payload_off": "OFF",
        }


def discovery_topic(prefix: str, topics: Topics) -> str:
    """Return the topic of a device's discovery message."""
    return f"{prefix}/device/{object_id(f'{topics.prefix}_{topics.device}')}/config"


def counts_of(findings: Findings, labels: Sequence[str]) -> dict[str, Any]:
    """Return the count of each label, and the best class of a classified picture."""
    names = [label_of(each, labels) for each in findings.class_ids.tolist()]
    top = names[0] if names and isinstance(findings, Classes) else None
    return {"counts": dict(Counter(names)), "top": top}


def switch_command(body: bytes) -> CommandName | None:
    """Return the command for a switch's ON or OFF."""
    return {b"ON": "stream_on", b"OFF": "stream_off"}.get(body)  # type: ignore[return-value]


def object_id(name: str) -> str:
    """Return a name in the characters that an object id may have; different names stay different."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return plain if plain == name else f"{plain[:64]}_{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:6]}"


def _sensor(name: str, template: str, unit: str | None, *, device_class: str | None = None) -> Component:
    component = {"platform": "sensor", "name": name, "value_template": template, "state_class": "measurement"}
    if unit is not None:
        component["unit_of_measurement"] = unit
    if device_class is not None:
        component["device_class"] = device_class
    return component


def _available(topic: str, state: str) -> dict[str, str]:
    is_it = f"value_json is defined and value_json.state == '{state}'"
    return {"topic": topic, "value_template": f"{{{{ 'online' if {is_it} else 'offline' }}}}"}


def _value(*keys: str) -> str:
    return f"{{{{ {_path(*keys)} }}}}"


def _path(*keys: str) -> str:
    """Return an expression for a value deep in a message; none if anything on the path is missing or null."""
    expression = "value_json"
    for key in keys[:-1]:
        expression = f"({expression}.get({_literal(key)}) or {{}})"
    return f"{expression}.get({_literal(keys[-1])})"


def _literal(text: str) -> str:
    """Return any text as a string literal of a template."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
