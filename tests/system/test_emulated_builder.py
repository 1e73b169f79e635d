"""Builders in processes of their own, on the emulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.emulated_engines import EMULATION
from tests.support.one_node_model import model

# In a child process


BUILD = """if True:
    import sys
    import tensorrt as trt
    builder = trt.Builder(trt.Logger())
    network = builder.create_network(0)
    assert trt.OnnxParser(network, trt.Logger()).parse(sys.stdin.buffer.read())
    print(trt.__version__, builder.build_serialized_network(network, builder.create_builder_config()) is not None)
"""


def child(program: str, given: bytes = b"", **controls: Any) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(EMULATION), "EDGE_EMULATION": json.dumps(controls)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, input=given, env=environment, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize(("builder", "code"), [("abort", -6), ("kill", -9), ("", 0)])
def test_a_builder_takes_its_process_down(builder: str, code: int) -> None:
    done = child(BUILD, model(shape=(2, 4)), builder=builder, tensorrt_version="11.4.0.106")
    assert done.returncode == code, done.stderr
    assert done.stdout == (b"" if builder else b"11.4.0.106 True\n")


def test_misuses_of_a_child_reach_the_test(tmp_path: Path) -> None:
    program = """if True:
        import pycuda.driver as driver
        driver.init()
        driver.Device(0).retain_primary_context().push()
    """
    child(program, misuse_file=str(tmp_path / "misuses"))
    assert "the real pycuda aborts it" in (tmp_path / "misuses").read_text(encoding="utf-8")
