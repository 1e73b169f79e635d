"""Files of a model that is added: an ONNX file with its external data, or a TensorRT engine file, opened."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge.core.engine_file import EngineFile, is_engine_file, read_engine_file
from edge.core.errors import EngineError, ModelError
from edge.core.manifest import InputSettings
from edge.core.onnx_file import OnnxFile
from edge.core.process import usable_cores
from edge.inference.backends.engine import Engine
from edge.inference.backends.ort import OrtEngine

_READABLE = 0o644  # permissions of a copied engine file: no one else may write it


@dataclass(frozen=True)
class AddedFiles:
    """A model's files, and an engine on which it was opened."""

    engine: Engine
    metadata: Mapping[str, str]
    keys: Mapping[str, str]  # of the manifest, which name the files
    onnx: OnnxFile | None
    engine_file: EngineFile | None = None
    size: tuple[int, int] | None = None  # width, height that an engine file is optimised for
    notes: Sequence[str] = field(default_factory=list)  # for people

    @property
    def name(self) -> Path:
        """The file that was added."""
        return self.engine_file.path if self.engine_file is not None else self.onnx.path if self.onnx else Path()

    def open(self, settings: InputSettings) -> Engine:
        """Open the model with settings of its input: the ONNX file, where there is one, else the engine file."""
        if self.onnx is None:
            return self.engine
        return OrtEngine(self.onnx.path, threads=usable_cores(), inputs=settings)

    def copy_to(self, folder: Path) -> None:
        """Copy the files; raise OSError where the folder cannot be written, ModelError if one changes meanwhile."""
        if self.onnx is not None:
            shutil.copyfile(self.onnx.path, folder / self.onnx.path.name)
            for name, path in zip(self.onnx.external_data, self.onnx.external_paths(), strict=True):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / name)
        if self.engine_file is not None:
            copy = folder / self.engine_file.path.name
            shutil.copyfile(self.engine_file.path, copy)
            copy.chmod(_READABLE)
            read_engine_file(copy, self.engine_file.sha256)


def open_files(path: Path, onnx: Path | None) -> AddedFiles:
    """Open an ONNX file, or an engine file with the ONNX file of the same model, if that is given.

    Raises ModelError if it cannot be opened here.
    """
    if not is_engine_file(path):
        file = OnnxFile(path)
        return AddedFiles(OrtEngine(path, threads=1), file.metadata, {"onnx": path.name}, file)
    engine_file = read_engine_file(path)
    keys = {"engine": path.name, "engine_sha256": engine_file.sha256}
    notes = [f"engine file: built by {engine_file.built_by}{_for_gpu(engine_file)}, bound by its SHA-256"]
    source = OnnxFile(onnx) if onnx is not None else None
    if source is not None:
        keys["onnx"] = source.path.name
    metadata = {**(source.metadata if source else {}), **engine_file.metadata}
    try:
        engine, size = _open(engine_file)
    except (EngineError, ModelError) as error:
        if source is None:
            raise ModelError(
                f"engine file {path} ({engine_file.built_by}{_for_gpu(engine_file)}) cannot be opened here: {error}; "
                "add it on the machine that it was built for, or with --onnx FILE.onnx, from which its tensors are read"
            ) from None
        notes.append(f"the engine file cannot be opened here ({error}): its tensors are those of {source.path.name}")
        engine, size = OrtEngine(source.path, threads=1), None
    return AddedFiles(engine, metadata, keys, source, engine_file, size, notes)


def _for_gpu(file: EngineFile) -> str:
    found = file.compute_capability
    return f" for compute capability {found}" if found else ""


def _open(file: EngineFile) -> tuple[Engine, tuple[int, int] | None]:
    """Open an engine file; return with it the width and height that it is optimised for, where it leaves them open."""
    from edge.inference.backends.cuda import open_device
    from edge.inference.backends.tensorrt.library import check_installed
    from edge.inference.engine_file_provider import check_version, open_engine_file

    check_installed()
    check_version(file)  # first: it is told also where there is no GPU
    open_device()
    engine = open_engine_file(file, "trt/engine/added")
    for spec in engine.inputs:
        axes = [axis for axis, side in enumerate(spec.shape) if axis and side is None]
        if len(axes) == len(("height", "width")):
            height, width = (engine.profile_shape(spec.name)[axis] for axis in axes)
            return engine, (width, height)
    return engine, None
