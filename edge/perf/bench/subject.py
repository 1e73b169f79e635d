"""Subject of a benchmark: a model folder, a model of a configuration, or a published network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from edge.capture import open_source
from edge.core.config import Config, EnginesSettings, ModelSettings
from edge.core.engine_file import is_engine_file
from edge.core.errors import ConfigError, ModelError, SourceError
from edge.core.manifest import built_in_model, built_in_models, find_model, read_manifest
from edge.core.records import Image
from edge.core.source_address import SourceAddress, parse_address
from edge.core.suggestion import did_you_mean
from edge.perf.bench.networks import NAMES, Network, find, write
from edge.perf.bench.system_serving import PICTURES

NETWORKS = "networks"  # folder of the written networks in the state directory
# Of the built-in model of that name; half a second between two pictures, as neighbours are nearly alike.
_SCENE = parse_address("synthetic://conveyor?fps=2", Path())


@dataclass(frozen=True)
class Subject:
    """Model to measure."""

    name: str  # as in rows
    settings: ModelSettings
    engines: EnginesSettings = field(default_factory=EnginesSettings)
    sources: tuple[SourceAddress, ...] = ()  # of its images; without any, they are random
    scenes: tuple[SourceAddress, ...] = ()  # that show what the model finds: INT8 is verified on them
    is_random: bool = False  # random weights, so that INT8 needs no verification: the results mean nothing

    @cached_property
    def is_engine_file(self) -> bool:
        """True if a TensorRT engine file is served as it is."""
        return read_manifest(self.settings.path).engine is not None


def of_name(what: str, state_dir: Path) -> Subject:
    """Return a network by name, writing it if needed, or a model by name or folder.

    Raises ConfigError for an unknown name, with the known ones, and EdgeError if a network cannot be written.
    """
    if (network := _network(what)) is not None:
        folder = write(network, state_dir / NETWORKS)
        return Subject(network.name, _settings(folder), is_random=True)
    try:
        folder = find_model(what)
    except ModelError as error:
        folder = _by_other_case(what, str(error))
    built_in = built_in_model(_SCENE.location)
    is_built_in = built_in is not None and folder.resolve() == built_in.resolve()
    scenes = (_SCENE,) if is_built_in else ()
    return Subject(folder.resolve().name, _settings(folder), scenes=scenes)


def _settings(folder: Path) -> ModelSettings:
    return ModelSettings.model_validate({"path": str(folder.resolve())})


def of_config(config: Config, name: str) -> Subject:
    """Return one model of a configuration, with the sources of its streams."""
    streams = [each for each in config.streams.values() if each.enabled and each.model == name]
    sources = tuple(stream.address() for stream in streams)
    return Subject(name, config.models[name], config.engines, sources, scenes=sources)


def is_config(what: str) -> bool:
    """Return whether a name is that of a configuration."""
    return what.casefold().endswith(".toml")


def check_name(what: str) -> None:
    """Raise ConfigError for a name that is neither a network nor a model."""
    if _network(what) is None:
        try:
            find_model(what)
        except ModelError as error:
            _by_other_case(what, str(error))


def pictures(sources: tuple[SourceAddress, ...]) -> list[Image]:
    """Return the first pictures of each source; raise SourceError if one has none."""
    found: list[Image] = []
    for address in sources:
        found += _first(address, -(-PICTURES // len(sources)))
    return found


def _first(address: SourceAddress, count: int) -> Iterator[Image]:
    source = open_source(address)
    try:
        for number in range(count):
            if source.grab() is None:
                if not number:
                    raise SourceError(f"{address.shown} gave no picture; wanted at least one", permanent=True)
                return
            yield np.array(source.retrieve(None))  # a source may reuse its memory
    finally:
        source.close()


def _network(what: str) -> Network | None:
    if os.path.exists(what):  # noqa: PTH110 -- Path.exists raises for a name that is too long
        return None  # a folder of that name takes precedence
    try:
        return find(what)
    except ConfigError:
        return None


def _by_other_case(what: str, reason: str) -> Path:
    """Return the model with this name in any case; raise ConfigError if there is none, for a file with the reason."""
    if is_engine_file(Path(what)) or what.casefold().endswith(".onnx"):
        raise ConfigError(reason)
    here = sorted(path.parent for path in Path("engines").glob("*/model.toml"))
    models = {folder.name: folder for folder in (*built_in_models(), *here)}
    for name, folder in models.items():
        if name.casefold() == what.casefold():
            return folder
    raise ConfigError(
        f"{what!r} is not a network, model or configuration; wanted a network ({', '.join(NAMES)}), a model "
        f"({', '.join(sorted(models)) or 'none here'}), a folder with a model.toml, or a configuration's .toml file"
        f"{did_you_mean(what, (*NAMES, *models))}"
    )
