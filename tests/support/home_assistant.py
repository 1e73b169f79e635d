"""What Home Assistant documents of MQTT discovery, and how it reads messages: the rules that ours are held against.

The keys are those of its pages "MQTT" (device discovery payload, availability, origin), "MQTT Sensor", "Binary sensor",
"Switch" and "Select". Home Assistant ignores a key that it does not know; here it is an error.
"""

from __future__ import annotations

import json
import re
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from jsonschema import Draft202012Validator

from tests.support.configuration import Json

TOPIC = re.compile(r"[a-zA-Z0-9_]+(/[^/+#]+)*/device/[a-zA-Z0-9_-]+/config")
NAMED_TOPIC = {"type": "string", "minLength": 1, "not": {"pattern": "[+#\\u0000]"}}
TEMPLATE = {"type": "string", "minLength": 1}
TEXT = {"type": "string", "minLength": 1}
AVAILABILITY: Json = {
    "availability": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {
                "topic": NAMED_TOPIC,
                "payload_available": TEXT,
                "payload_not_available": TEXT,
                "value_template": TEMPLATE,
            },
            "required": ["topic"],
            "additionalProperties": False,
        },
    },
    "availability_mode": {"enum": ["all", "any", "latest"]},
}
ENTITY: Json = AVAILABILITY | {
    "unique_id": TEXT,
    "name": {"type": ["string", "null"]},
    "qos": {"enum": [0, 1, 2]},
    "encoding": {"type": "string"},
    "icon": {"type": "string", "pattern": "^mdi:"},
    "entity_category": {"enum": ["config", "diagnostic"]},
    "enabled_by_default": {"type": "boolean"},
    "json_attributes_topic": NAMED_TOPIC,
    "json_attributes_template": TEMPLATE,
}
SENSOR_CLASSES = {
    "power": ["mW", "W", "kW"],
    "temperature": ["°C", "°F", "K"],
    "duration": ["µs", "ms", "s", "min", "h", "d"],
}
COMMANDED: Json = {
    "command_topic": NAMED_TOPIC,
    "command_template": TEMPLATE,
    "optimistic": {"type": "boolean"},
    "retain": {"type": "boolean"},
}


def _platform(name: str, own: Json, required: list[str]) -> Json:
    keys = {"platform": {"const": name}, "state_topic": NAMED_TOPIC, "value_template": TEMPLATE}
    whole = {
        "type": "object",
        "properties": ENTITY | keys | own,
        "required": ["platform", "unique_id", *required],
        "additionalProperties": False,
    }
    removed = {
        "type": "object",
        "properties": {"platform": {"const": name}},
        "required": ["platform"],
        "additionalProperties": False,
    }
    return {"anyOf": [whole, removed]}


_SENSOR: Json = {
    "device_class": {"enum": list(SENSOR_CLASSES)},
    "state_class": {"enum": ["measurement", "total", "total_increasing"]},
    "unit_of_measurement": TEXT,
    "suggested_display_precision": {"type": "integer"},
    "expire_after": {"type": "integer", "minimum": 0},
    "force_update": {"type": "boolean"},
}
_BINARY: Json = {
    "device_class": {"enum": ["problem", "running", "heat"]},
    "expire_after": {"type": "integer", "minimum": 0},
    "payload_on": TEXT,
    "payload_off": TEXT,
}
_SWITCH: Json = COMMANDED | {"payload_on": TEXT, "payload_off": TEXT, "state_on": TEXT, "state_off": TEXT}
_SELECT: Json = COMMANDED | {"options": {"type": "array", "items": TEXT, "uniqueItems": True}}
PLATFORMS = {
    "sensor": _platform("sensor", _SENSOR, []),
    "binary_sensor": _platform("binary_sensor", _BINARY, []),
    "switch": _platform("switch", _SWITCH, ["command_topic"]),
    "select": _platform("select", _SELECT, ["command_topic", "options"]),
}
DEVICE: Json = {
    "type": "object",
    "properties": AVAILABILITY
    | {
        "device": {
            "type": "object",
            "properties": {
                "identifiers": {"type": "array", "items": TEXT, "minItems": 1},
                **dict.fromkeys(("name", "manufacturer", "model", "model_id"), TEXT),
                "configuration_url": {"type": "string", "pattern": "^(https?|homeassistant)://"},
                **dict.fromkeys(("hw_version", "sw_version", "serial_number"), TEXT),
            },
            "required": ["identifiers"],
            "additionalProperties": False,
        },
        "origin": {
            "type": "object",
            "properties": {
                "name": TEXT,
                "sw_version": TEXT,
                "support_url": {"type": "string", "pattern": "^https?://"},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
        "components": {"type": "object", "additionalProperties": {"type": "object", "required": ["platform"]}},
        "state_topic": NAMED_TOPIC,
        "command_topic": NAMED_TOPIC,
        "qos": {"enum": [0, 1, 2]},
        "encoding": {"type": "string"},
    },
    "required": ["device", "origin", "components"],
    "additionalProperties": False,
}


def violations_of_discovery(body: Json) -> list[str]:
    """Tell what in a discovery message is not as it is documented."""
    found = [error.message for error in Draft202012Validator(DEVICE).iter_errors(body)]
    unique = [each["unique_id"] for each in body["components"].values() if "unique_id" in each]
    found += ["two components have one unique_id"] if len(set(unique)) < len(unique) else []
    for key, component in body["components"].items():
        rules = PLATFORMS.get(component["platform"], {"not": {}})
        found += [f"{key}: {error.message}" for error in Draft202012Validator(rules).iter_errors(component)]
        found += [f"{key}: {told}" for told in _contradictions(component, body)]
    return found


def _contradictions(component: Json, body: Json) -> list[str]:
    """Tell what no schema can say: a class of a sensor and its unit, a state that comes from nowhere."""
    told = []
    wanted = SENSOR_CLASSES.get(component.get("device_class", ""))
    if component["platform"] == "sensor" and wanted and component["unit_of_measurement"] not in wanted:
        told.append(f"its class wants a unit of {wanted}")
    if "unit_of_measurement" in component and "state_class" not in component:
        told.append("a unit without state_class: no statistics")
    if len(component) > 1 and "state_topic" not in component and "state_topic" not in body:
        told.append("it has no state_topic")
    return told


ENVIRONMENT = ImmutableSandboxedEnvironment()


def rendered(template: str, raw: bytes) -> str:
    """Return what Home Assistant makes of a message by a template: a text, "None" where the value is not known."""
    text = raw.decode()
    variables: dict[str, Any] = {"value": text}
    if text:
        variables["value_json"] = json.loads(text)
    return ENVIRONMENT.from_string(template).render(variables)


def commanded(component: Json, value: str) -> bytes:
    """Return what Home Assistant sends to choose a value."""
    template = component.get("command_template")
    return (value if template is None else ENVIRONMENT.from_string(template).render(value=value)).encode()
