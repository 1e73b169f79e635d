"""Inspection of a model that is not serving: its ONNX file, the network parsed from it, and its plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edge.core.config import EnginesSettings
from edge.core.engine_file import HEADER_BYTES, EngineFile, is_engine_file, read_engine_file
from edge.core.errors import EdgeError, EngineError, ModelError
from edge.core.manifest import InputSettings
from edge.inference.backends.cuda import Gpu, find_gpu
from edge.inference.backends.input_tensors import open_sizes_set
from edge.inference.backends.tensorrt.layers import (
    EngineLayer,
    Inspection,
    IoTensor,
    OnnxFacts,
    count,
    onnx_facts,
    parse_network,
    read_layers,
    with_times,
)
from edge.inference.backends.tensorrt.library import load_tensorrt
from edge.inference.backends.tensorrt.plan_key import PlanKey, plan_key
from edge.inference.backends.tensorrt.plan_store import PlanStore, read_header
from edge.inference.engine_file_provider import check_version
from edge.inference.engine_provider import build_settings
from edge.inference.model_variants import Precision, plan_sha256, variant_file


@dataclass(frozen=True)
class InspectedModel:
    """A model and its plan under inspection: each method returns one aspect, or raises EdgeError."""

    onnx: Path  # FP32
    precision: Precision
    max_batch: int
    device: str
    state_dir: Path
    board: str
    inputs: InputSettings | None = None  # the manifest's
    engine_file: tuple[Path, str] | None = None  # with its SHA-256; served in place of a plan that was built here

    def tensors(self) -> tuple[IoTensor, ...]:
        """Return inputs and outputs of the plan; of the ONNX file if no plan can be inspected."""
        try:
            return self.inspection.tensors
        except EdgeError:
            return self.onnx_facts.tensors

    def network(self) -> tuple[EngineLayer, ...]:
        """Return the layers of the network as TensorRT reads it, before fusion."""
        self._require_onnx()
        trt = load_tensorrt()
        return parse_network(trt, variant_file(self.onnx, self.precision, "trt", self.state_dir))

    def header(self) -> dict[str, str]:
        """Return magic number and version of the plan file."""
        path, facts = self.plan
        if self.engine_file is not None:
            return {"magic": facts["magic"], "version": facts["version"]}
        try:
            with path.open("rb") as file:
                magic, version = read_header(file.read(HEADER_BYTES))
        except OSError as error:
            raise EngineError(f"{path} cannot be read ({error.strerror})") from None
        return {"magic": magic.decode("ascii", "replace"), "version": ".".join(map(str, version))}

    def layers(self) -> list[tuple[EngineLayer, float | None]]:
        """Return the plan's layers, after fusion, with the time of each in milliseconds."""
        inspection = self.inspection
        if inspection.layers_json is None:
            raise EngineError("the engine inspector gave no answer; build the plan again: `edge engines build`")
        return with_times(read_layers(inspection.layers_json), inspection.layer_times_ms or {})

    def layer_times_ms(self) -> dict[str, float]:
        """Return the time of each layer of the plan in milliseconds."""
        times_ms = self.inspection.layer_times_ms
        if times_ms is None:
            raise EngineError("TensorRT reported no layer times for this plan")
        return dict(times_ms)

    @cached_property
    def onnx_facts(self) -> OnnxFacts:
        """Facts of the ONNX file; raise ModelError where there is none beside an engine file."""
        self._require_onnx()
        return onnx_facts(self.onnx)

    def _require_onnx(self) -> None:
        if is_engine_file(self.onnx):
            raise ModelError(f"{self.onnx} is an engine file, and there is no ONNX file of the model beside it")

    @cached_property
    def _gpu(self) -> Gpu | EngineError:
        try:
            return find_gpu()
        except EngineError as error:
            return error

    @cached_property
    def _store(self) -> PlanStore:
        return PlanStore(self.state_dir, EnginesSettings().cache_mb)

    @cached_property
    def _key(self) -> PlanKey:
        """Key of the plan that `edge engines build` makes here."""
        gpu = self._gpu if isinstance(self._gpu, Gpu) else None
        settings = build_settings(
            self.precision, self.device, self.max_batch, EnginesSettings(), gpu, open_sizes_set(self.onnx, self.inputs)
        )
        return plan_key(plan_sha256(self.onnx, self.precision, self.state_dir), settings, gpu, self.board)

    @cached_property
    def plan(self) -> tuple[Path, Mapping[str, Any]]:
        """The plan's file and its manifest; of an engine file, what its header says."""
        if self.engine_file is not None:
            return self.engine_file[0], self._file_facts
        path, manifest = self._store.path(self._key), self._store.manifest(self._key)
        if path is None or manifest is None:
            raise EngineError(
                f"no plan of this model with precision {self.precision}, device {self.device} and batches up to "
                f"{self.max_batch} is stored in {self._store.folder}; build one with `edge engines build`"
            )
        return path, manifest

    @cached_property
    def _file(self) -> EngineFile:
        """The engine file, if it is the one that was added."""
        if self.engine_file is None:
            raise EngineError("the model is no engine file")
        return read_engine_file(*self.engine_file)

    @property
    def _file_facts(self) -> Mapping[str, Any]:
        file = self._file
        return {
            "size": len(file.plan),
            "sha256": file.sha256,
            "magic": file.plan[:4].decode(),
            "version": ".".join(map(str, file.version)),
            "built_by": file.built_by,
            "compute_capability": file.compute_capability,
            "metadata": dict(file.metadata),
        }

    @property
    def inspection(self) -> Inspection:
        """Inspection of the plan on this machine's GPU."""
        if isinstance(self._inspected, EdgeError):
            raise self._inspected
        return self._inspected

    @cached_property
    def _inspected(self) -> Inspection | EdgeError:
        """Inspection of the loaded plan, attempted once."""
        if isinstance(self._gpu, EngineError):
            return self._gpu
        try:
            _ = self.plan  # if there is none, its error says what to do
            from edge.inference.backends.tensorrt.inspector import inspect_plan  # noqa: PLC0415 -- only with a GPU

            if self.engine_file is None:
                return inspect_plan(self._store.load(self._key))
            check_version(self._file)
            return inspect_plan(self._file.plan)
        except EdgeError as error:
            return error


def describe_layers(layers: Iterable[tuple[EngineLayer, float | None]]) -> dict[str, Any]:
    """Return layers and their counts for the JSON document."""
    timed = list(layers)
    counts = asdict(count([found for found, _ in timed]))
    total = counts.pop("layers")
    return {"count": total, **counts, "layers": [{**asdict(found), "time_ms": time_ms} for found, time_ms in timed]}
