"""Identity of what runs a model here, as recorded with a measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.inference import runtime_identity

X86 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512bw avx512_vnni\n\nprocessor\t: 1\n"
ORIN = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd42\n\nprocessor\t: 1\n"


@pytest.mark.parametrize(
    ("text", "arch", "instructions", "named"),
    [
        (X86, "x86_64", "x86_64 avx512_vnni", "AMD EPYC, 2 cores"),
        (X86.replace("avx512_vnni", ""), "x86_64", "x86_64 avx512bw", "AMD EPYC, 2 cores"),
        (ORIN, "aarch64", "aarch64 asimddp", "aarch64 0xd42, 2 cores"),
        (None, "riscv64", "riscv64", "riscv64, 0 cores"),
    ],
)
def test_the_processor_is_told_by_what_int8_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, arch: str, instructions: str, named: str
) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(runtime_identity, "_CPU_INFO", path)
    monkeypatch.setattr("platform.machine", lambda: arch)
    runtime = runtime_identity.onnxruntime_identity()
    assert (runtime.backend, runtime.gpu) == ("ort-cpu", None)
    assert (runtime.instructions, runtime.machine) == (instructions, named)
    assert runtime.library.startswith("onnxruntime 1.")
