"""Files of the preprocess kernel, and a target for it."""

from __future__ import annotations

import numpy as np

from edge.inference.backends.tensorrt.letterbox_kernel import (
    TargetSettings,
)
from tests.support.project import ROOT

KERNELS = ROOT / "edge" / "inference" / "backends" / "tensorrt" / "kernels"
UINT8 = TargetSettings(
    width=64,
    height=48,
    channels=3,
    planar=True,
    dtype=np.dtype(np.uint8),
    color="bgr",
    scale=(1.0, 1.0, 1.0),
    bias=(0.0, 0.0, 0.0),
    pad=114,
)


# In the header of a cubin: a byte for the version of its form, and the architecture among the flags.
def architecture_of(cubin: bytes) -> tuple[int, int]:
    form = cubin[8]
    flags = int.from_bytes(cubin[48:52], "little")
    return form, (flags >> 8 if form >= 8 else flags) & 0xFF
