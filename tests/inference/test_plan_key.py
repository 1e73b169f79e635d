"""Keys of plans: everything that must be equal for a plan to be used again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.inference.backends.tensorrt import plan_key as plan_key_module
from edge.inference.backends.tensorrt.build_protocol import BuildSettings
from edge.inference.backends.tensorrt.plan_key import plan_key
from tests.support import stand_in_tensorrt
from tests.support.plan_samples import KEY, ORIN

SETTINGS = BuildSettings("fp16", "gpu", 4, 3, 512)


def test_the_key_holds_machine_library_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_key_module, "load_tensorrt", lambda: stand_in_tensorrt)
    assert plan_key("c0ffee", SETTINGS, ORIN, "Jetson Orin Nano") == KEY


def test_the_key_tells_the_flags_that_a_dla_is_built_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_key_module, "load_tensorrt", lambda: stand_in_tensorrt)
    key = plan_key("c0ffee", replace(SETTINGS, device="dla0"), None, "board")
    assert key.flags == ("FP16", "GPU_FALLBACK", "PREFER_PRECISION_CONSTRAINTS")
    assert (key.gpu, key.cuda, key.compute_capability, key.sm_count) == (None, None, None, None)
