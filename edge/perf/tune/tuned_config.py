"""Configurations for tuning: one model, its streams, and the setting of a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge.core.config import Config
from edge.core.errors import ConfigError
from edge.perf.tune.setting import Setting


def model_to_tune(config: Config, path: Path, named: str | None) -> str:
    """Return the named model, or the only one that a stream uses; raise ConfigError if neither exists."""
    used = list(dict.fromkeys(each.model for each in config.streams.values() if each.enabled))
    if not used:
        raise ConfigError(f"{path} has no enabled [streams.NAME] to measure with; wanted at least one")
    if named is not None and named not in used:
        raise ConfigError(f"--model: found {named!r}, wanted one that a stream uses: {', '.join(used)}")
    if named is None and len(used) > 1:
        raise ConfigError(f"{path} uses {len(used)} models; name one with --model: {', '.join(used)}")
    return named or used[0]


def config_of_model(config: Config, name: str, *, saturate: bool) -> Config:
    """Return the configuration reduced to one model and its streams; files loop, and every result counts."""
    streams = {}
    for stream, settings in config.streams.items():
        if not settings.enabled or settings.model != name:
            continue
        # Every frame is measured, even if its result would not be published.
        changes: dict[str, Any] = {"max_results_per_s": 0.0, "only_changes": False}
        changes["loop"] = settings.source.scheme == "file"
        if saturate:
            if settings.source.is_live:
                raise ConfigError(
                    f"--saturate: [streams.{stream}] is a {settings.source.scheme}:// source, whose frame rate is "
                    "fixed; use files or synthetic sources"
                )
            changes |= {"delivery": "every", "fps": 0.0}
        streams[stream] = settings.model_copy(update=changes)
    return config.model_copy(update={"models": {name: config.models[name]}, "streams": streams})


def config_under(config: Config, setting: Setting) -> Config:
    """Return the configuration of one model with a setting applied."""
    changes = {
        "precision": setting.precision,
        "max_batch": setting.max_batch,
        "lanes": setting.lanes,
        "device": setting.device,
    }
    models = {name: each.model_copy(update=changes) for name, each in config.models.items()}
    return config.model_copy(update={"models": models})
