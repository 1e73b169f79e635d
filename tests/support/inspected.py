"""`edge inspect` of the built-in model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edge.cli.main import main
from edge.core.engine_file import MAGIC
from edge.host.board import board_name
from edge.inference import inspected_model
from edge.inference.backends.cuda import Gpu
from edge.inference.backends.tensorrt.build_protocol import BuildFacts, BuiltPlan
from edge.inference.backends.tensorrt.layers import Inspection, IoTensor
from edge.inference.backends.tensorrt.library import load_tensorrt
from edge.inference.backends.tensorrt.plan_store import PlanStore

SAMPLES = Path(__file__).parents[1] / "data" / "inspector"
GPU = Gpu(
    name="Orin",
    compute_capability=(8, 7),
    sm_count=8,
    memory_bytes=8 << 30,
    cuda_version="12.6",
    integrated=True,
    pageable_access=False,
)
TIMES_MS = {"/stem/Conv + /stem/Relu": 0.75, "/head/Sigmoid": 0.25}
NEEDS_A_GPU = {"device_memory_bytes", "layers", "layer_times_ms"}


def put_plan_on_gpu(
    model: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None, times: Mapping[str, float] | None
) -> None:
    """Store a plan for a GPU, which tells of itself what the inspector's sample tells."""
    monkeypatch.setattr(inspected_model, "find_gpu", lambda: GPU)
    subject = inspected_model.InspectedModel(model / "conveyor.onnx", "fp16", 4, "gpu", model / "state", board_name())
    version = load_tensorrt().__version__.split(".")
    plan = MAGIC[subject._key.library] + bytes(20) + bytes(int(part) % 256 for part in version[:4])
    facts = BuildFacts(("STRONGLY_TYPED",), 512, 3, {}, {}, {}, {"dla": 12, "gpu": ["/head/TopK"]}, 1.5)
    PlanStore(model / "state", 100).store(subject._key, BuiltPlan("conveyor", plan, facts))
    tensors = (IoTensor("images", "input", (None, 3, 320, 320), "FP16"),)

    def inspect_plan(loaded: bytes) -> Inspection:
        assert loaded == plan
        return Inspection(answer, tensors, 12_000_000, times)

    monkeypatch.setattr("edge.inference.backends.tensorrt.inspector.inspect_plan", inspect_plan)


def answer_of(sample: str) -> str:
    return json.dumps(json.loads((SAMPLES / f"{sample}.json").read_text(encoding="utf-8"))["answer"])


def look(model: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Return the JSON document; whatever is null in it has a reason, and nothing else has."""
    capsys.readouterr()
    assert main(["engines", "inspect", str(model), "--state-dir", str(model / "state"), "--json", *options]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {name for name, found in report.items() if found is None} == set(report["why"])
    return report
