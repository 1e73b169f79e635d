"""Provider of a model that is a TensorRT engine file: served as it is, else from the ONNX file beside it."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.core.config import ModelSettings
from edge.core.engine_file import COMPARED_NUMBERS, NAMES, EngineFile, read_engine_file, version_numbers
from edge.core.errors import EngineError, GpuLostError, ModelError
from edge.inference.backends.cuda import open_device
from edge.inference.backends.engine import LABEL_HASH_DIGITS, Engine
from edge.inference.backends.ort import OrtEngine
from edge.inference.backends.tensorrt.library import library_name, load_tensorrt
from edge.inference.engine_provider import EngineProvider, Fallback, OpenedEngine
from edge.inference.model_variants import ModelFiles, Precision, model_files

if TYPE_CHECKING:
    from edge.inference.backends.tensorrt.engine import TrtEngine

log = logging.getLogger(__name__)

_OTHER_GPU = re.compile(r"expecting compute ([\d.]+) got compute ([\d.]+)")
_BUILD_AGAIN = (
    "build the engine again on this machine, or give its ONNX file with `edge engines add FILE --onnx FILE.onnx`"
)


class EngineFileProvider(EngineProvider):
    """Opens an engine file that its owner added; builds nothing of it."""

    def __init__(self, engine_file: Path, sha256: str, onnx: Path | None, *args: Any, **kwargs: Any) -> None:
        """Take the file, the hash in model.toml, and the ONNX file of the same model; the rest as EngineProvider."""
        super().__init__(onnx or engine_file, *args, **kwargs)
        self._engine_file = engine_file
        self._sha256 = sha256
        self.has_reference = onnx is not None

    def open(self) -> OpenedEngine:
        is_refused = self.settings.backend == "onnxruntime" or self.settings.device == "cpu"
        reason = self.why_not_tensorrt()
        if reason is None:
            try:
                return OpenedEngine(self._open_file())
            except GpuLostError:
                raise
            except (EngineError, ModelError) as error:
                reason = str(error)
        if not self.has_reference:
            raise ModelError(f"engine file {self._engine_file} cannot be served: {reason}; {_BUILD_AGAIN}")
        log.log(
            logging.INFO if is_refused else logging.WARNING,
            "engine file %s cannot be served, and its ONNX file is: %s",
            self._engine_file,
            reason,
        )
        provider = self._of_onnx()
        opened = provider.open()
        self.target = provider.target
        if is_refused or opened.missing_reason is not None:
            return opened
        return replace(opened, missing_reason=f"its engine file cannot be served: {reason}", can_build=False)

    def open_fallback(self, fallback: Fallback, name: str) -> OpenedEngine:
        return self._of_onnx().open_fallback(fallback, name) if self.has_reference else self.open()

    def open_reference(self) -> OrtEngine:
        if not self.has_reference:
            raise ModelError(f"engine file {self._engine_file} has no ONNX file beside it, so there is no reference")
        return super().open_reference()

    def open_or_build(self, precision: Precision) -> Engine:
        if precision == "engine":
            return self._open_file()
        # What an engine file is compared with is the model as exported, and no other engine of TensorRT's.
        return self.open_reference() if precision == "fp32" else self._of_onnx().open_or_build(precision)

    def variant(self, precision: Precision) -> tuple[ModelFiles, Path]:
        if precision != "engine":
            return self._of_onnx().variant(precision)
        return model_files(self.onnx, self._engine_file, precision, self._chooser.reading_sha256), self._engine_file

    def with_settings(self, **changes: str) -> EngineProvider:
        settings = self._onnx_settings().model_copy(update=changes)
        onnx = self.onnx if self.has_reference else None
        return EngineFileProvider(self._engine_file, self._sha256, onnx, settings, **self._parts)

    def _of_onnx(self) -> EngineProvider:
        """Return the provider of the ONNX file's own engines."""
        return EngineProvider(self.onnx, self._onnx_settings(), **self._parts)

    def _onnx_settings(self) -> ModelSettings:
        is_engine = str(self.settings.precision) == "engine"  # as the benchmark asks for it
        return self.settings.model_copy(update={"precision": "auto"}) if is_engine else self.settings

    def _open_file(self) -> Engine:
        """Read and check the file, and load it."""
        file = read_engine_file(self._engine_file, self._sha256)
        core = int(self.device[-1]) if self.device.startswith("dla") else None
        return open_engine_file(
            file,
            f"trt/engine/{file.sha256[:LABEL_HASH_DIGITS]}",
            memory=self.settings.memory,
            spin=self.settings.wait == "spin",
            dla_core=core,
            inputs=self.inputs,
        )


def open_engine_file(file: EngineFile, label: str, **settings: Any) -> TrtEngine:
    """Load an engine file that was read and checked; raise EngineError or ModelError if it was built for another."""
    from edge.inference.backends.tensorrt.engine import TrtEngine, TrtSettings  # noqa: PLC0415 -- only if TensorRT is installed

    check_version(file)
    try:
        return TrtEngine(file.plan, open_device(), TrtSettings(label, **settings))
    except EngineError as error:
        raise _translated(file, error) from None


def check_version(file: EngineFile) -> None:
    """Raise ModelError for a plan of another library or version than the one installed, before that reads it."""
    trt = load_tensorrt()
    library, installed = library_name(trt), trt.__version__
    if file.library != library or file.version[:COMPARED_NUMBERS] != version_numbers(installed):
        raise ModelError(
            f"{file.path} was built by {file.built_by}, and {NAMES[library]} {installed} is installed; wanted one "
            "built by that version"
        )


def _translated(file: EngineFile, error: EngineError) -> EngineError:
    """Return TensorRT's refusal in a sentence that names both GPUs, if it is about them."""
    found = _OTHER_GPU.search(str(error))
    if found is None:
        return error
    gpu = open_device().gpu
    return EngineError(
        f"{file.path} was built for a GPU of compute capability {found[2]}, and this machine's {gpu.name} has "
        f"{found[1]}"
    )
