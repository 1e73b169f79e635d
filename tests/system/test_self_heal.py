"""The daemon on an emulated GPU: it serves at once, makes its engine by itself, and lives with whatever goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.configuration import Configure, Json, belt
from tests.support.emulated_engines import EMULATION
from tests.support.process import Child, StartEdge, clean_environment, edge_command
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

CPU, GPU = "ort-cpu/fp32/", "trt/fp16/"
STREAM: Mapping[str, Any] = {"streams.belt": belt(fps=25)}


def emulated(folder: Path, **controls: Any) -> dict[str, str]:
    """Return the environment of a process that finds the emulation in TensorRT's place."""
    controls = {"misuse_file": str(folder / "misuses")} | controls
    return {"PYTHONPATH": str(EMULATION), "EDGE_EMULATION": json.dumps(controls)}


def misuses(folder: Path) -> str:
    path = folder / "misuses"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def wait_for_engine(subscriber: Subscriber, label: str, model: str = "conveyor", after: int = 0) -> Json:
    """Wait until the status names an engine for a model, and is settled; return the status."""
    return subscriber.wait_for(
        lambda m: (
            m.schema == "status"
            and m.body["engines"].get(model, "").startswith(label)
            and (label == CPU) == (model in m.body["builds"])
        ),
        f"engine {label}",
        after=after,
    ).body


def wait_for_alarm(subscriber: Subscriber, state: str, text: str) -> Json:
    return subscriber.wait_for(
        lambda m: m.schema == "alarm" and m.body["state"] == state and text in m.body["reason"] + m.body["next"],
        f"an alarm {state} with {text!r}",
    ).body


def steps(subscriber: Subscriber) -> list[str]:
    """Return the steps of the making of the engine, as the status told them."""
    told = [m.body["builds"].get("conveyor", {}).get("step") for m in subscriber.messages if m.schema == "status"]
    return [step for number, step in enumerate(told) if step and (number == 0 or told[number - 1] != step)]


def end_well(edge: Child, subscriber: Subscriber, folder: Path) -> None:
    """End the daemon; nothing may be lost, and CUDA may not have been misused."""
    assert edge.end() == 0, edge.log
    subscriber.wait_for_state("stopped")
    seqs = subscriber.seqs("belt")
    assert seqs == list(range(len(seqs)))
    assert misuses(folder) == ""


@pytest.mark.broker
def test_it_serves_at_once_and_swaps_its_engine_in_and_finds_it_at_the_next_start(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    config, environment = configure(STREAM), emulated(tmp_path, build_seconds=1.0)
    edge = start_edge(config, environment=environment)
    first = wait_for_engine(subscriber, CPU)
    subscriber.wait_for_results("belt", 1)
    assert first["builds"]["conveyor"]["step"] == "building"
    assert [alarm["alarm"] for alarm in first["alarms"]] == ["engine_fallback"]
    raised = wait_for_alarm(subscriber, "raised", "no plan of this model is stored")
    assert raised["model"] == "conveyor"
    last = wait_for_engine(subscriber, GPU)
    assert (last["alarms"], last["builds"]) == ([], {})
    wait_for_alarm(subscriber, "cleared", "trt/fp16/")
    assert steps(subscriber) == ["building", "verifying", "swapping"]
    before = len(subscriber.messages)
    subscriber.wait_for_results("belt", 5, after=before)
    end_well(edge, subscriber, tmp_path)
    engines = [result["engine"] for result in subscriber.results("belt")]
    assert engines[0].startswith(CPU)
    assert engines[-1].startswith(GPU)
    found = [len(result["detections"]) for result in subscriber.results("belt")]
    assert sum(found) > 0

    alarms, before = len(subscriber.alarms()), len(subscriber.messages)
    again = start_edge(config, name="edge-again", state_dir=tmp_path / "edge-state", environment=environment)
    wait_for_engine(subscriber, GPU, after=before)
    subscriber.wait_for_results("belt", 3, after=before)
    assert again.end() == 0
    assert len(subscriber.alarms()) == alarms
    assert CPU not in again.log


@pytest.fixture
def built(tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge) -> tuple[Path, Path]:
    """Give a configuration, and a folder of state whose engine the daemon has built and served."""
    config, state = configure(STREAM), tmp_path / "state"
    edge = start_edge(config, state_dir=state, environment=emulated(tmp_path))
    wait_for_engine(subscriber, GPU)
    assert edge.end() == 0
    return config, state


@pytest.mark.broker
def test_after_an_update_of_tensorrt_the_engine_is_made_anew(
    tmp_path: Path, subscriber: Subscriber, built: tuple[Path, Path], start_edge: StartEdge
) -> None:
    config, state = built
    before = len(subscriber.messages)
    updated = start_edge(
        config, name="updated", state_dir=state, environment=emulated(tmp_path, tensorrt_version="10.16.2.10")
    )
    wait_for_engine(subscriber, CPU, after=before)
    wait_for_engine(subscriber, GPU, after=before)
    assert updated.end() == 0
    assert misuses(tmp_path) == ""


@pytest.mark.broker
def test_a_plan_that_was_tampered_with_is_never_loaded(
    tmp_path: Path, subscriber: Subscriber, built: tuple[Path, Path], start_edge: StartEdge
) -> None:
    config, state = built
    (plan,) = (state / "plans").glob("*.plan")
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    before = len(subscriber.messages)
    again = start_edge(config, name="again", state_dir=state, environment=emulated(tmp_path))
    told = wait_for_engine(subscriber, CPU, after=before)
    assert "SHA-256" in told["builds"]["conveyor"]["reason"]
    wait_for_engine(subscriber, GPU, after=before)
    assert again.end() == 0


WRONG = {
    "off by a factor": ({"output_factor": 1.3}, "the mean error of its outputs"),
    "not a number": ({"output_nan": True}, "its outputs are not finite"),
    "crashing builder": ({"builder": "abort"}, "signal 6"),
    "killed builder": ({"builder": "kill"}, "signal 9"),
    "failing builder": ({"builder": "fail"}, "Could not find any implementation"),
    "unknown operator": ({"unsupported_ops": ["Conv"]}, "Conv"),
    "plan refused": ({"deserialize_fails": True}, "failed while loading a plan"),
    "no memory for contexts": ({"context_fails": True}, "out of memory"),
}


@pytest.mark.broker
@pytest.mark.parametrize(("controls", "reason"), WRONG.values(), ids=WRONG.keys())
def test_an_engine_that_cannot_be_had_is_told_and_onnx_runtime_serves_on(
    tmp_path: Path,
    subscriber: Subscriber,
    configure: Configure,
    start_edge: StartEdge,
    controls: Json,
    reason: str,
) -> None:
    edge = start_edge(configure(STREAM), environment=emulated(tmp_path, **controls))
    alarm = wait_for_alarm(subscriber, "raised", reason)
    assert 'backend = "onnxruntime"' in alarm["next"]
    before = len(subscriber.messages)
    subscriber.wait_for_results("belt", 5, after=before)
    status = [m.body for m in subscriber.messages if m.schema == "status"][-1]
    assert status["engines"]["conveyor"].startswith(CPU)
    assert status["builds"]["conveyor"]["step"] == "failed"
    end_well(edge, subscriber, tmp_path)
    assert all(result["engine"].startswith(CPU) for result in subscriber.results("belt"))
    assert "Traceback" not in edge.log


@pytest.mark.broker
def test_an_engine_that_was_refused_is_not_tried_again_until_its_plan_is_removed(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    config, state = configure(STREAM), tmp_path / "state"
    wrong, right = emulated(tmp_path, output_factor=1.3), emulated(tmp_path)
    edge = start_edge(config, state_dir=state, environment=wrong)
    wait_for_alarm(subscriber, "raised", "the mean error of its outputs")
    assert edge.end() == 0
    before = len(subscriber.messages)
    again = start_edge(config, name="again", state_dir=state, environment=right)
    told = wait_for_engine(subscriber, CPU, after=before)["builds"]["conveyor"]
    (plan,) = (state / "plans").glob("*.plan")
    assert told["step"] == "failed"
    assert f"remove {plan}" in told["reason"]
    subscriber.wait_for_results("belt", 3, after=before)
    assert again.end() == 0
    plan.unlink()
    before = len(subscriber.messages)
    third = start_edge(config, name="third", state_dir=state, environment=right)
    wait_for_engine(subscriber, GPU, after=before)
    assert third.end() == 0


@pytest.mark.broker
def test_an_engine_that_was_built_by_hand_is_verified_before_it_serves(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    state, environment = tmp_path / "state", emulated(tmp_path, build_seconds=0.0)
    built = subprocess.run(
        edge_command("engines", "build", "conveyor", "--state-dir", state),
        env=clean_environment(environment),
        check=False,
        capture_output=True,
    )
    assert built.returncode == 0, built.stderr
    edge = start_edge(configure(STREAM), state_dir=state, environment=environment)
    first = wait_for_engine(subscriber, CPU)
    assert "has to be verified" in first["builds"]["conveyor"]["reason"]
    wait_for_engine(subscriber, GPU)
    end_well(edge, subscriber, tmp_path)
    assert len(list((state / "plans").glob("*.plan"))) == 1


@pytest.mark.broker
def test_an_engine_that_ends_the_process_whenever_it_is_tried_is_given_up(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    config, state = configure(STREAM), tmp_path / "state"
    environment = emulated(tmp_path, sticky_from_enqueue=2)
    for attempt in ("first", "second"):
        edge = start_edge(config, name=attempt, state_dir=state, environment=environment)
        assert edge.wait() == 3, edge.log
    before = len(subscriber.messages)
    third = start_edge(config, name="third", state_dir=state, environment=environment)
    told = wait_for_engine(subscriber, CPU, after=before)["builds"]["conveyor"]
    assert "the process ended 2 times during its trial" in told["reason"]
    subscriber.wait_for_results("belt", 3, after=before)
    assert third.end() == 0


@pytest.mark.broker
def test_a_plan_that_loads_and_cannot_be_run_gives_way_to_onnx_runtime(
    tmp_path: Path, subscriber: Subscriber, built: tuple[Path, Path], start_edge: StartEdge
) -> None:
    config, state = built
    before = len(subscriber.messages)
    again = start_edge(config, name="again", state_dir=state, environment=emulated(tmp_path, context_fails=True))
    told = wait_for_engine(subscriber, CPU, after=before)
    subscriber.wait_for_results("belt", 3, after=before)
    assert told["builds"]["conveyor"]["step"] == "failed"
    assert again.end() == 0


@pytest.mark.broker
@pytest.mark.parametrize("control", ["sticky_from_enqueue", "lost_from_enqueue"])
def test_a_gpu_that_is_lost_ends_the_process_with_code_3_and_everything_flushed(
    tmp_path: Path, subscriber: Subscriber, built: tuple[Path, Path], start_edge: StartEdge, control: str
) -> None:
    config, state = built
    before = len(subscriber.messages)
    faulty = start_edge(config, name="faulty", state_dir=state, environment=emulated(tmp_path, **{control: 60}))
    assert faulty.wait() == 3, faulty.log
    assert "only a new process can use it again" in faulty.log
    subscriber.wait_for_state("stopped", after=before)
    last = subscriber.telemetry()[-1]["streams"]["belt"]
    assert last["frames"] == last["results"] + last["in_flight"] + sum(last["dropped"].values())
    results = [m.body["seq"] for m in subscriber.messages[before:] if m.topic.endswith("/streams/belt/results")]
    assert results == list(range(last["results"]))
    subscriber.wait_for(lambda m: m.schema == "status", "a status")


@pytest.mark.broker
def test_an_engine_that_fails_again_and_again_is_opened_again_and_the_others_serve_on(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    """The fault outlasts the first new engine, so that a second one comes, after a pause."""
    tables: dict[str, Any] = {
        **STREAM,
        "models.cpu": {"path": "conveyor", "backend": "onnxruntime"},
        "streams.other": belt(fps=10) | {"model": "cpu"},
    }
    config, state = configure(tables), tmp_path / "state"
    edge = start_edge(config, state_dir=state, environment=emulated(tmp_path))
    wait_for_engine(subscriber, GPU)
    assert edge.end() == 0
    before = len(subscriber.messages)
    faulty = emulated(tmp_path, fail_enqueue=40, fail_until_engine=3)
    again = start_edge(config, name="again", state_dir=state, environment=faulty)
    raised = wait_for_alarm(subscriber, "raised", "fails on every batch of conveyor")
    assert (raised["alarm"], raised["model"]) == ("engine_failing", "conveyor")
    assert raised["next"] == "it is reopened now"
    wait_for_alarm(subscriber, "raised", "it is reopened in 5 s")
    wait_for_alarm(subscriber, "cleared", "serves conveyor again")
    after = len(subscriber.messages)
    subscriber.wait_for_results("belt", 10, after=after)
    assert again.end() == 0
    subscriber.wait_for_state("stopped", after=before)
    last = subscriber.telemetry()[-1]["streams"]
    assert last["belt"]["dropped"]["error"] >= 10
    assert last["other"]["dropped"]["error"] == 0
    for stream in ("belt", "other"):
        counts = last[stream]
        assert counts["frames"] == counts["results"] + counts["in_flight"] + sum(counts["dropped"].values())
    results = [m.body for m in subscriber.messages[before:] if m.topic.endswith("/streams/belt/results")]
    assert [result["seq"] for result in results] == list(range(last["belt"]["results"]))
    assert all(result["engine"].startswith(GPU) for result in results)
    assert again.log.count("its engine cannot be reopened") == 1
    assert again.log.count("starts serving in place of") == 1
    assert misuses(tmp_path) == ""


@pytest.mark.broker
def test_without_the_gpu_that_was_there_it_starts_on_the_cpu(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    """It is told, where TensorRT has worked before; on a machine that never had it there is nothing to tell."""
    config, state = configure(STREAM), tmp_path / "state"
    never = start_edge(config, name="never", environment=emulated(tmp_path, gpu_lost=True))
    subscriber.wait_for_results("belt", 3)
    end_well(never, subscriber, tmp_path)
    assert subscriber.alarms() == []
    edge = start_edge(config, state_dir=state, environment=emulated(tmp_path))
    wait_for_engine(subscriber, GPU)
    assert edge.end() == 0
    again = start_edge(config, name="again", state_dir=state, environment=emulated(tmp_path, gpu_lost=True))
    wait_for_alarm(subscriber, "raised", "no CUDA-capable device is detected")
    before = len(subscriber.messages)
    subscriber.wait_for_results("belt", 3, after=before)
    assert again.end() == 0


@pytest.mark.broker
def test_it_ends_in_the_middle_of_a_build_and_leaves_no_builder_behind(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    edge = start_edge(configure(STREAM), environment=emulated(tmp_path, build_seconds=120.0))
    subscriber.wait_for_results("belt", 1)
    daemon = psutil.Process(edge.process.pid)
    eventually(lambda: len(daemon.children()) == 1, "the builder runs")
    (builder,) = daemon.children()
    eventually(lambda: builder.nice() == 19, "the builder steps back")
    eventually(lambda: oom_score(builder.pid) == "1000", "the builder offers itself to the out-of-memory killer")
    end_well(edge, subscriber, tmp_path)
    eventually(lambda: not builder.is_running() or builder.status() == psutil.STATUS_ZOMBIE, "the builder has ended")
    assert list((tmp_path / "edge-state").rglob("*.tmp")) == []


def oom_score(pid: int) -> str:
    return Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii").strip()


@pytest.mark.broker
def test_a_builder_outlives_no_daemon_that_was_killed(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    edge = start_edge(configure(STREAM), environment=emulated(tmp_path, build_seconds=120.0))
    daemon = psutil.Process(edge.process.pid)
    eventually(lambda: len(daemon.children()) == 1, "the builder runs")
    (builder,) = daemon.children()
    edge.end(signal.SIGKILL)
    eventually(lambda: not builder.is_running() or builder.status() == psutil.STATUS_ZOMBIE, "the builder has ended")


@pytest.mark.broker
def test_a_reload_takes_a_model_out_whose_engine_is_being_built(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge
) -> None:
    config = configure(STREAM)
    edge = start_edge(config, environment=emulated(tmp_path, build_seconds=120.0))
    subscriber.wait_for_results("belt", 1)
    daemon = psutil.Process(edge.process.pid)
    eventually(lambda: len(daemon.children()) == 1, "the builder runs")
    configure({"models.conveyor": {"path": "conveyor", "backend": "onnxruntime"}, **STREAM})
    edge.send(signal.SIGHUP)
    cleared = wait_for_alarm(subscriber, "cleared", "the configuration has changed")
    assert cleared["model"] == "conveyor"
    eventually(lambda: daemon.children() == [], "the builder has ended")
    before = len(subscriber.messages)
    subscriber.wait_for_results("belt", 3, after=before)
    end_well(edge, subscriber, tmp_path)


@pytest.mark.broker
def test_two_models_get_their_engines_and_all_results_are_those_of_onnx_runtime(
    tmp_path: Path, subscriber: Subscriber, configure: Configure, start_edge: StartEdge, letterbox_library: str
) -> None:
    """The same frames, once all on the CPU, once with everything on the GPU: what is found agrees, frame by frame."""
    streams: dict[str, Json] = {
        "models.cpu": {"path": "conveyor", "backend": "onnxruntime"},
        "models.gpu": {"path": "conveyor", "precision": "fp32", "max_batch": 2},
        "streams.one": belt(frames=60, delivery="every") | {"model": "cpu"},
        "streams.two": belt(frames=60, delivery="every") | {"model": "gpu"},
    }
    state = tmp_path / "state"
    environment = emulated(tmp_path, letterbox_library=letterbox_library)
    warm = configure({"models.gpu": streams["models.gpu"], "streams.belt": belt() | {"model": "gpu"}}, name="warm.toml")
    edge = start_edge(warm, name="warm", state_dir=state, environment=environment)
    wait_for_engine(subscriber, "trt/fp32/", "gpu")
    assert edge.end() == 0
    both = start_edge(configure(streams), state_dir=state, environment=environment)
    assert both.wait() == 0, both.log
    eventually(lambda: len(subscriber.results("two")) == len(subscriber.results("one")) == 60, "all results")
    for one, two in zip(subscriber.results("one"), subscriber.results("two"), strict=True):
        assert two["engine"].startswith("trt/fp32/")
        assert sure(one), "the frame shows nothing"
        for wanted, others in ((one, two), (two, one)):
            assert all(any(is_same(each, other) for other in others["detections"]) for each in sure(wanted))
    assert misuses(tmp_path) == ""


def sure(result: Json) -> list[Json]:
    """Return what was found with a score that rounding cannot bring below the threshold."""
    return [each for each in result["detections"] if each["score"] > 0.45]


def is_same(one: Json, other: Json) -> bool:
    return bool(
        one["label"] == other["label"]
        and other["score"] == pytest.approx(one["score"], abs=0.02)
        and other["box"] == pytest.approx(one["box"], abs=1.0)
    )
