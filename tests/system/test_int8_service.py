"""The daemon and INT8: it serves only where it was measured to agree, here; what is told where it was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.cli.engines.frame_source import open_frames
from edge.inference.derived_files import source_sha256
from edge.precision.calibration_frames import store_frames, stored_folder
from tests.support.configuration import Configure, Json, belt
from tests.support.process import StartEdge
from tests.support.project import CONVEYOR
from tests.support.subscriber import Subscriber
from tests.system.test_self_heal import emulated, end_well, wait_for_alarm

FP32, INT8 = "ort-cpu/fp32/", "ort-cpu/int8/"


def model_folder(folder: Path, factor: float | None, name: str = "int8-cpu", min_agreement: float = 0.95) -> Path:
    """Copy the built-in model; beside it, as its INT8 form, put the same model with its output multiplied."""
    copied = shutil.copytree(
        CONVEYOR, folder / "model", ignore=shutil.ignore_patterns("*.fp16.onnx", "*.int8*", "precision.json")
    )
    with (copied / "model.toml").open("a", encoding="utf-8") as manifest:
        manifest.write(f"\n[accuracy]\nmin_agreement = {min_agreement}\n")
    if factor is not None:
        write_form(copied, factor, name)
    return copied


def write_form(folder: Path, factor: float, name: str) -> None:
    source = folder / "conveyor.onnx"
    model = onnx.load(source)
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if each == output.name else each for each in node.output]
        node.input[:] = ["before" if each == output.name else each for each in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
    model.graph.node.append(helper.make_node("Mul", ["before", "factor"], [output.name]))
    helper.set_model_props(model, {"edge.source_sha256": source_sha256(source)})
    onnx.save(model, folder / f"conveyor.{name}.onnx")


def tables(folder: Path, precision: str = "int8", **stream: Any) -> dict[str, Json]:
    return {"models.conveyor": {"path": str(folder), "precision": precision}, "streams.belt": belt(**stream)}


def wait_for_label(subscriber: Subscriber, label: str, after: int = 0) -> Json:
    return subscriber.wait_for(
        lambda m: m.schema == "status" and m.body["engines"].get("conveyor", "").startswith(label),
        f"engine {label}",
        after=after,
    ).body


@pytest.mark.broker
def test_int8_is_measured_on_frames_before_it_serves_and_that_is_kept(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    folder = model_folder(tmp_path, 1.0)
    config = configure(tables(folder))
    edge = start_edge(config)
    raised = wait_for_alarm(subscriber, "raised", "has not been compared with fp32 yet")
    assert raised["alarm"] == "engine_fallback"
    wait_for_label(subscriber, INT8)
    wait_for_alarm(subscriber, "cleared", INT8)
    before = len(subscriber.messages)
    subscriber.wait_for_results("belt", 3, after=before)
    end_well(edge, subscriber, tmp_path)
    engines = [result["engine"] for result in subscriber.results("belt")]
    assert engines[0].startswith(FP32)
    assert engines[-1].startswith(INT8)
    (entry,) = json.loads((folder / "precision.json").read_text())["entries"]
    assert (entry["precision"], entry["metric"], entry["agreement"]) == ("int8", "f1", 1.0)
    before, alarms = len(subscriber.messages), len(subscriber.alarms())
    again = start_edge(config, name="again")
    wait_for_label(subscriber, INT8, after=before)
    subscriber.wait_for_results("belt", 2, after=before)
    assert again.end() == 0
    assert len(subscriber.alarms()) == alarms


@pytest.mark.broker
def test_int8_is_measured_on_kept_calibration_frames_where_a_camera_shows_too_little(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    folder = model_folder(tmp_path, 1.0)
    config = configure(tables(folder, fps=0.01))
    kept = stored_folder(folder / "conveyor.onnx", tmp_path / "edge-state")
    store_frames(kept, [shown.picture for shown in open_frames("synthetic://conveyor?frames=60", 12, "frames").frames])
    edge = start_edge(config)
    wait_for_label(subscriber, INT8)
    end_well(edge, subscriber, tmp_path)
    (entry,) = json.loads((folder / "precision.json").read_text())["entries"]
    assert entry["frames"] >= 12


@pytest.mark.broker
def test_int8_that_does_not_agree_is_refused_now_and_at_the_next_start(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    config = configure(tables(model_folder(tmp_path, 0.5)))
    edge = start_edge(config)
    alarm = wait_for_alarm(subscriber, "raised", "is refused: int8 agrees with fp32 by f1 0.000")
    assert alarm["alarm"] == "int8_refused"
    assert "quantize again" in alarm["next"]
    end_well(edge, subscriber, tmp_path)
    before = len(subscriber.messages)
    again = start_edge(config, name="again")
    status = subscriber.wait_for(lambda m: m.schema == "status" and m.body["alarms"] != [], "an alarm", after=before)
    assert status.body["alarms"][0]["alarm"] == "int8_refused"
    assert "agrees with fp32 by f1 0.000" in status.body["alarms"][0]["reason"]
    subscriber.wait_for_results("belt", 2, after=before)
    assert again.end() == 0
    assert all(result["engine"].startswith(FP32) for result in subscriber.results("belt"))


@pytest.mark.broker
def test_without_an_int8_form_it_is_told_how_to_make_one(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    edge = start_edge(configure(tables(model_folder(tmp_path, None))))
    alarm = wait_for_alarm(subscriber, "raised", "edge engines quantize")
    assert alarm["alarm"] == "int8_refused"
    subscriber.wait_for_results("belt", 2)
    end_well(edge, subscriber, tmp_path)


@pytest.mark.broker
def test_auto_never_serves_int8_that_was_not_measured_here(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    edge = start_edge(configure(tables(model_folder(tmp_path, 1.0), precision="auto")))
    subscriber.wait_for_results("belt", 3)
    end_well(edge, subscriber, tmp_path)
    assert subscriber.alarms() == []
    assert all(result["engine"].startswith(FP32) for result in subscriber.results("belt"))


@pytest.mark.broker
@pytest.mark.parametrize(("ms", "label"), [(1.0, INT8), (9.0, FP32)])
def test_auto_takes_int8_only_where_it_was_measured_to_be_faster(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge, ms: float, label: str
) -> None:
    folder = model_folder(tmp_path, 1.0)
    edge = start_edge(configure(tables(folder)))
    wait_for_label(subscriber, INT8)
    assert edge.end() == 0
    path = folder / "precision.json"
    document = json.loads(path.read_text())
    document["entries"][0] |= {"ms": ms, "against_ms": 3.0}
    path.write_text(json.dumps(document))
    before = len(subscriber.messages)
    auto = start_edge(configure(tables(folder, precision="auto"), name="auto.toml"), name="auto")
    wait_for_label(subscriber, label, after=before)
    assert auto.end() == 0


@pytest.mark.broker
def test_by_force_int8_serves_unproven_and_an_alarm_says_so(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    edge = start_edge(configure(tables(model_folder(tmp_path, 0.9))), options=["--force"])
    alarm = wait_for_alarm(subscriber, "raised", "it is forced")
    assert alarm["alarm"] == "int8_refused"
    wait_for_label(subscriber, INT8)
    end_well(edge, subscriber, tmp_path)
    assert "INT8 serves unverified" in edge.log


@pytest.mark.broker
@pytest.mark.parametrize(("factor", "label"), [(1.0, "trt/int8/"), (0.5, "trt/fp16/")])
def test_on_a_gpu_int8_is_built_and_measured_and_fp16_serves_where_it_is_refused(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge, factor: float, label: str
) -> None:
    folder = model_folder(tmp_path, factor, "int8")
    config, environment = configure(tables(folder)), emulated(tmp_path)
    edge = start_edge(config, environment=environment)
    wait_for_label(subscriber, label)
    if factor == 1.0:
        wait_for_alarm(subscriber, "cleared", label)
    else:
        assert (
            wait_for_alarm(subscriber, "raised", "is refused: int8 agrees with fp32 by f1 0.000")["alarm"]
            == "int8_refused"
        )
    end_well(edge, subscriber, tmp_path)
    (entry,) = json.loads((folder / "precision.json").read_text())["entries"]
    assert entry["backend"] == "trt"
    before = len(subscriber.messages)
    again = start_edge(config, name="again", state_dir=tmp_path / "edge-state", environment=environment)
    wait_for_label(subscriber, label, after=before)
    subscriber.wait_for_results("belt", 2, after=before)
    assert again.end() == 0
    assert "ort-cpu" not in again.log
