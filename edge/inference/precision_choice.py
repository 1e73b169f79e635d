"""Choice of the precision that serves: INT8 only if it was measured to agree with FP32 on this backend."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from edge.core.errors import ModelError
from edge.inference.admission import admit, fastest, read_entries
from edge.inference.model_variants import Precision, model_files, variant_file
from edge.inference.runtime_identity import RuntimeIdentity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision that serves, and why it is not INT8 if that was requested."""

    precision: Precision  # serves without further proof
    refusal: str | None = None  # why it is not INT8
    can_verify: bool = False  # whether a measurement here could admit INT8
    is_forced: bool = False  # INT8 serves despite `refusal`


@dataclass(frozen=True)
class PrecisionChooser:
    """A model's files and limits, from which its precision is chosen."""

    onnx: Path  # FP32
    state_dir: Path
    reading_sha256: str
    min_agreement: float
    force: bool  # INT8 serves without proof

    def choose(self, requested: str, runtime: RuntimeIdentity) -> PrecisionChoice:
        """Return the precision that serves for the configuration's `precision`."""
        plain: Precision = "fp32" if runtime.backend == "ort-cpu" else "fp16"
        if requested in ("fp32", "fp16"):
            return PrecisionChoice("fp32" if requested == "fp32" else "fp16")
        try:
            file = variant_file(self.onnx, "int8", runtime.backend, self.state_dir)
        except ModelError as error:
            return PrecisionChoice(plain) if requested == "auto" else PrecisionChoice(plain, str(error))
        files = model_files(self.onnx, file, "int8", self.reading_sha256)
        entries = read_entries(self.onnx, self.state_dir)
        admission = admit(entries, files, runtime, self.min_agreement)
        if requested == "auto":
            # INT8 that is not faster here offers nothing.
            return PrecisionChoice("int8" if fastest(entries, [admission], runtime) == "int8" else plain)
        if admission.reason is None:
            return PrecisionChoice("int8")
        if self.force:
            return PrecisionChoice("int8", f"{admission.reason}; it is forced", is_forced=True)
        return PrecisionChoice(plain, admission.reason, can_verify=admission.entry is None)
