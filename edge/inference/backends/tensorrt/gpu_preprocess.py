"""Preprocessing on the GPU: pictures of any size into rows of an engine's input, one launch per batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge.core.records import Image
from edge.inference.backends.cuda import Buffer, CudaDevice, MemoryKind
from edge.inference.backends.tensorrt.letterbox_kernel import (
    PICTURE,
    TARGET,
    TargetSettings,
    kernel_file,
    launch_shape,
    picture_record,
    target_record,
)

KERNEL = "letterbox"
Box = tuple[int, int, int, int]  # x, y, width, height


class PictureStage:
    """One lane's memory for the pictures of a batch; each row's memory grows to its largest picture and is kept."""

    def __init__(
        self, device: CudaDevice, memory: MemoryKind, settings: TargetSettings, address: int, max_batch: int
    ) -> None:
        """Prepare to write rows at `address` on the GPU; raise EngineError if the kernel cannot be loaded."""
        self._device = device
        # Neighbouring threads read the same bytes of a picture, which needs a cache; mapped memory is uncached.
        self._memory: MemoryKind = "pinned" if memory == "mapped" else memory
        self._kernel = device.load_kernel(kernel_file(device.gpu.architecture), KERNEL)
        self._settings = settings
        self._rows: list[Buffer | None] = [None] * max_batch
        self._used_bytes = [0] * max_batch
        self._records = device.make_buffer((max_batch,), PICTURE, memory)
        self._target = device.make_buffer((1,), TARGET, memory)
        self._target.host[0] = target_record(settings, address)
        self._target_is_sent = not self._target.is_copied

    def put(self, row: int, image: Image, region: Box, place: Box) -> None:
        """Copy a picture (H×W×3, BGR); the kernel scales its `region` to `place` in the row, each in its own pixels."""
        buffer = self._rows[row]
        if buffer is None or buffer.host.nbytes < image.nbytes:
            buffer = self._grow(row, image.nbytes)
        np.copyto(buffer.host[: image.nbytes].reshape(image.shape), image)
        self._used_bytes[row] = image.nbytes
        height, width = image.shape[:2]
        self._records.host[row] = picture_record(
            buffer.address, "bgr", (width, height), pitch_bytes=3 * width, region=region, place=place
        )

    def _grow(self, row: int, size_bytes: int) -> Buffer:
        if (old := self._rows[row]) is not None:
            self._rows[row] = None
            old.free()
        buffer = self._rows[row] = self._device.make_buffer((size_bytes,), np.uint8, self._memory)
        return buffer

    def queue(self, stream: Any, batch_size: int) -> None:
        """Queue the copies and the kernel for the first `batch_size` rows."""
        device = self._device
        if not self._target_is_sent:
            device.upload(self._target.address, self._target.host, stream)
            self._target_is_sent = True
        for buffer, used_bytes in zip(self._rows[:batch_size], self._used_bytes, strict=False):
            if buffer is not None and buffer.is_copied:
                device.upload(buffer.address, buffer.host[:used_bytes], stream)
        if self._records.is_copied:
            device.upload(self._records.address, self._records.host[:batch_size], stream)
        grid, block = launch_shape(self._settings.width, self._settings.height, batch_size)
        self._kernel.launch(grid, block, stream, self._records.address, self._target.address)

    def free(self) -> None:
        """Free all memory."""
        for buffer in (*self._rows, self._records, self._target):
            if buffer is not None:
                buffer.free()
