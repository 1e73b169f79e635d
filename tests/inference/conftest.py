"""A CUDA device for tests: emulated boards, and the GPU of this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge.core.errors import EngineError
from edge.inference.backends.cuda import CudaDevice, open_device
from tests.support.emulated_engines import emulated_gpu


@pytest.fixture(params=["orin-nano", "thor", "discrete", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[CudaDevice]:
    """Give a device that is active on this thread."""
    if request.param == "gpu":
        try:
            opened = open_device()
        except EngineError as error:
            pytest.skip(str(error))
        with opened.active():
            yield opened
        return
    with emulated_gpu(device=request.param):
        opened = open_device()
        with opened.active():
            yield opened
