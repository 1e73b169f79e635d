"""JSON Schemas of all messages, as files of this package."""

from importlib.resources import files

from edge.core.errors import ConfigError
from edge.core.suggestion import did_you_mean

NAMES = ("result", "telemetry", "status", "stream-status", "alarm", "governor", "command", "ack", "counts")


def read(name: str) -> str:
    """Return a schema as JSON text; raise ConfigError for an unknown name."""
    if name not in NAMES:
        wanted = f"wanted one of {', '.join(NAMES)}{did_you_mean(name, NAMES)}"
        raise ConfigError(f"schema {name!r} does not exist; {wanted}")
    return (files(__package__) / f"{name}.json").read_text(encoding="utf-8")
