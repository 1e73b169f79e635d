"""TensorRT's answers, read alike by the builder and the engine."""

from __future__ import annotations

import pytest

from edge.inference.backends.tensorrt.library import is_out_of_memory


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("[defaultAllocator.cpp] Requested size could not be allocated", True),
        ("CUDA runtime error: out of memory", True),
        ("OutOfMemory (Requested size was 4096)", True),
        ("std::bad_alloc", True),
        ("no implementation for node conv", False),
        ("", False),
    ],
)
def test_out_of_memory_is_recognised_in_each_of_its_wordings(reason: str, *, expected: bool) -> None:
    assert is_out_of_memory(reason) is expected
