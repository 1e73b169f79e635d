"""Which precision a model is served in: INT8 only where it was measured to agree with FP32, with this very backend."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from edge.core.errors import ModelError
from edge.inference.admission import admitted, fastest, read_entries
from edge.inference.model_variants import Precision, model_files, variant_file
from edge.inference.runtime_identity import RuntimeIdentity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrecisionChoice:
    """What serves, and what is the matter with INT8 where that was asked for."""

    serve: Precision  # without further proof
    refused: str | None = None  # why it is not INT8
    may_verify: bool = False  # whether measuring it here could admit it
    forced: bool = False  # INT8 serves in spite of `refused`


@dataclass(frozen=True)
class Chooser:
    """Knows a model's files, and how it is read."""

    onnx: Path  # FP32
    state_dir: Path
    reading_sha256: str
    min_agreement: float
    force: bool  # INT8 serves without proof

    def choose(self, asked: str, runtime: RuntimeIdentity) -> PrecisionChoice:
        """Return what serves for the `precision` of the configuration."""
        plain: Precision = "fp32" if runtime.backend == "ort-cpu" else "fp16"
        if asked in ("fp32", "fp16"):
            return PrecisionChoice("fp32" if asked == "fp32" else "fp16")
        try:
            file = variant_file(self.onnx, "int8", runtime.backend, self.state_dir)
        except ModelError as error:
            return PrecisionChoice(plain) if asked == "auto" else PrecisionChoice(plain, str(error))
        files = model_files(self.onnx, file, "int8", self.reading_sha256)
        entries = read_entries(self.onnx, self.state_dir)
        admission = admitted(entries, files, runtime, self.min_agreement)
        if asked == "auto":
            # What is not faster here has nothing to give, whatever its name promises.
            return PrecisionChoice("int8" if fastest(entries, [admission], runtime) == "int8" else plain)
        if admission.reason is None:
            return PrecisionChoice("int8")
        if self.force:
            return PrecisionChoice("int8", f"{admission.reason}; it is forced", forced=True)
        return PrecisionChoice(plain, admission.reason, may_verify=admission.entry is None)
