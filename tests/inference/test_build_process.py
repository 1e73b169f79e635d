"""Memory that a builder may take on each board."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.inference.backends.tensorrt.build_process import (
    MAX_WORKSPACE_MB,
    MIN_WORKSPACE_MB,
    default_workspace_mb,
)


@pytest.mark.parametrize(
    ("memory_bytes", "workspace_mb"),
    [(3_900_000_000, 256), (7_600_000_000, 512), (15_600_000_000, 1024), (64_000_000_000, 4096)],
    ids=["Orin Nano 4 GB", "Orin Nano 8 GB", "Orin NX 16 GB", "AGX Orin 64 GB"],
)
def test_the_workspace_fits_the_board(memory_bytes: int, workspace_mb: int) -> None:
    assert default_workspace_mb(memory_bytes) == workspace_mb


@given(st.integers(0, 2**40))
def test_the_workspace_is_bounded_and_leaves_most_of_the_memory(memory_bytes: int) -> None:
    workspace_mb = default_workspace_mb(memory_bytes)
    assert MIN_WORKSPACE_MB <= workspace_mb <= MAX_WORKSPACE_MB
    assert workspace_mb == MIN_WORKSPACE_MB or workspace_mb * 10**6 < memory_bytes / 10
