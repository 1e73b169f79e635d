"""What is known of the GPU: all that the choice of memory and the validity of a plan depend on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU, as its attributes tell."""

    name: str
    compute_capability: tuple[int, int]
    sm_count: int
    memory_bytes: int
    cuda_version: str  # of the driver: "12.6"
    integrated: bool  # shares its memory with the CPU
    pageable_access: bool  # reads ordinary memory of the CPU coherently (Thor)

    @property
    def architecture(self) -> str:
        """The name that compilers give it: `sm_87`."""
        return f"sm_{self.compute_capability[0]}{self.compute_capability[1]}"
