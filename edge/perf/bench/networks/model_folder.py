"""Model folder of a built-in network: model.toml, the ONNX file, and the file of its weights."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edge.core.errors import EdgeError
from edge.perf.bench.networks.catalog import Network, graph_of
from edge.perf.bench.networks.onnx_writer import describe
from edge.perf.bench.networks.weights import Placed, layout, size_bytes, write_weights

_RULES = 1  # incremented when the same description and seed give other weights
_NAME_DIGITS = 12
_FOLDER_MODE = 0o755

# The usual mean and deviation of ImageNet's channels turn pixels into about the Gaussian of mean 0 and deviation 1
# that the weights are scaled for.
_COLOUR_INPUT = """color = "rgb"
resize = "stretch"
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]"""
_GREY_INPUT = """color = "gray"
resize = "stretch"
mean = [128]
std = [64]"""
# Part of the folder's hash: another text would orphan the folders that earlier versions wrote.
_MANIFEST = """# {name} with weights drawn at random (seed {seed}): for measuring; what it finds means nothing.
task = "classify"
onnx = "{onnx}"

[input]
{input}

[output]
decoder = "topk"
softmax = false                      # the network ends with it
"""


def write(network: Network, folder: Path, seed: int = 0) -> Path:
    """Write a network's model folder into `folder`, unless it exists, and return its path.

    The weights are Gaussian and reproducible by `seed`. The folder's name contains a hash of its contents, so other
    layers or another seed get a folder of their own. It needs a few MB of memory besides the description. Raises
    ModelError if the package onnx is missing, and EdgeError if the disk is full or cannot be written.
    """
    draft = _draft(network, seed)
    place = folder / draft.folder_name
    if draft.is_complete_at(place):
        return place
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(network, folder, draft.size_bytes)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{draft.folder_name}.") as made:
            draft.write_to(Path(made) / "whole")
            _move(Path(made) / "whole", place, draft)
    except OSError as error:
        raise EdgeError(
            f"network {network.name} cannot be written to {place} ({error.strerror}); wanted a writable folder with "
            f"{_mb(draft.size_bytes)} of free space: choose another --state-dir or free some"
        ) from None
    return place


@dataclass(frozen=True)
class _FolderDraft:
    """Contents of a model folder to be written."""

    stem: str
    seed: int
    onnx: bytes
    manifest: str
    places: list[Placed]

    @property
    def folder_name(self) -> str:
        digest = hashlib.sha256(f"{_RULES}:{self.seed}:{self.manifest}".encode() + self.onnx)
        return f"{self.stem}-{digest.hexdigest()[:_NAME_DIGITS]}"

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes().values())

    def _sizes(self) -> dict[str, int]:
        return {
            f"{self.stem}.onnx": len(self.onnx),
            f"{self.stem}.weights": size_bytes(self.places),
            "model.toml": len(self.manifest.encode()),
        }

    def is_complete_at(self, place: Path) -> bool:
        """Return whether all files exist with their sizes."""
        try:
            return all((place / name).stat().st_size == size for name, size in self._sizes().items())
        except OSError:
            return False

    def write_to(self, place: Path) -> None:
        place.mkdir(_FOLDER_MODE)
        with (place / f"{self.stem}.weights").open("wb") as file:
            write_weights(file, self.places, self.seed)
            file.flush()
            os.fsync(file.fileno())  # or the disk would still be writing during a measurement
        (place / f"{self.stem}.onnx").write_bytes(self.onnx)
        (place / "model.toml").write_text(self.manifest, encoding="utf-8")


def _draft(network: Network, seed: int) -> _FolderDraft:
    graph, stem = graph_of(network.name), network.name.casefold()
    places = layout(graph.weights)
    onnx = describe(graph, network.name, seed, places, f"{stem}.weights").SerializeToString(deterministic=True)
    reading = _COLOUR_INPUT if network.unit == "images" else _GREY_INPUT
    manifest = _MANIFEST.format(name=network.name, seed=seed, onnx=f"{stem}.onnx", input=reading)
    return _FolderDraft(stem, seed, onnx, manifest, places)


def _check_space(network: Network, folder: Path, wanted_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < wanted_bytes:
        raise EdgeError(
            f"network {network.name} needs {_mb(wanted_bytes)} in {folder}, but only {_mb(free_bytes)} are free there; "
            "free some, or choose another --state-dir"
        )


def _move(made: Path, place: Path, draft: _FolderDraft) -> None:
    """Move a finished folder into place atomically; another process may have done so meanwhile."""
    if place.exists() and not draft.is_complete_at(place):
        shutil.rmtree(place)
    try:
        made.rename(place)
    except OSError:
        if not draft.is_complete_at(place):
            raise


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
