"""Fallback of a model whose plan a builder process made."""

from __future__ import annotations

from pathlib import Path

from edge.core.config import EnginesSettings, ModelSettings
from edge.core.manifest import read_manifest
from edge.inference.engine_provider import EngineEnvironment, Fallback, OpenedEngine
from edge.pipeline.served_model import make_provider
from tests.support.emulated_engines import emulated_gpu
from tests.support.project import CONVEYOR

REFERENCE, GPU = "ort-cpu/fp32/", "trt/fp16/"


def test_a_fallback_is_the_plan_that_is_kept_of_it_else_the_model_as_it_was_exported(tmp_path: Path) -> None:
    settings = ModelSettings.model_validate({"path": str(CONVEYOR), "max_batch": 1})
    provider = make_provider(
        settings, read_manifest(CONVEYOR), EngineEnvironment(tmp_path, "board", EnginesSettings()), 1
    )

    def opened(label: str, *tried: str) -> OpenedEngine:
        fallback = Fallback("why", {"conveyor": frozenset(tried)}, {"conveyor": label} if label else {})
        return provider.open_fallback(fallback, "conveyor")

    with emulated_gpu():
        kept = provider.open_or_build("fp16").label
        assert kept.startswith("trt/fp16/")
        assert opened(kept).engine.label == kept
        for gone in ("", kept.replace("fp16", "fp32"), kept[:-1] + "x", "ort-cpu/int8/0123"):
            found = opened(gone)
            assert found.engine.label.startswith(REFERENCE)
            assert (found.missing_reason, found.can_build) == ("why", False)
        assert opened("", found.engine.label).missing_reason is None, "it is no fallback where nothing else was there"
