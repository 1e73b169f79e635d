"""Admission of variants by what was measured, and the records of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import ModelError
from edge.inference.admission import FILE, Admission, PrecisionEntry, admit, fastest, read_entries, record
from edge.inference.model_variants import ModelFiles
from edge.inference.runtime_identity import RuntimeIdentity

HERE = RuntimeIdentity("ort-cpu", "onnxruntime 1.31.1", None, "x86_64 avx512_vnni", "EPYC, 2 cores")
ORIN = RuntimeIdentity("trt", "tensorrt 10.3.0.30", "Orin sm_87 8 SMs", None, "aarch64 0xd42, 6 cores")
INT8 = ModelFiles("int8", "a" * 64, "b" * 64, "c" * 64)
FP16 = ModelFiles("fp16", "a" * 64, "d" * 64, "c" * 64)
FP32 = ModelFiles("fp32", "a" * 64, "a" * 64, "c" * 64)


def entry(files: ModelFiles = INT8, runtime: RuntimeIdentity = HERE, **more: Any) -> PrecisionEntry:
    fields: dict[str, Any] = {
        "precision": files.precision,
        "against": "fp32",
        "onnx": "m.onnx",
        "onnx_sha256": files.onnx_sha256,
        "file": f"m.{files.precision}.onnx",
        "file_sha256": files.file_sha256,
        "reading_sha256": files.reading_sha256,
        **vars(runtime),
        "metric": "f1",
        "agreement": 0.97,
        "measured": {"f1": 0.97, "wanted": 40, "top1": None, "score_shift": -0.01},
        "frames": 64,
        "data_sha256": "e" * 64,
        "ms": 7.0,
        "against_ms": 9.0,
        "at": "2026-11-21T06:20:01.123456Z",
    }
    return PrecisionEntry(**fields | more)


def reason(
    *entries: PrecisionEntry, files: ModelFiles = INT8, runtime: RuntimeIdentity = HERE, min_agreement: float = 0.95
) -> str:
    found = admit(entries, files, runtime, min_agreement).reason
    assert found is not None
    assert "\n" not in found
    return found


def test_a_form_is_admitted_by_what_was_measured_with_it_here() -> None:
    assert admit([entry()], INT8, HERE, 0.95) == Admission(INT8, entry(), None)
    assert admit([entry(runtime=ORIN)], INT8, ORIN, 0.95).reason is None


def test_fp32_needs_no_proof() -> None:
    assert admit([], FP32, HERE, 1.0).reason is None


def test_a_form_that_was_never_measured_is_not_admitted() -> None:
    assert "int8 has not been compared with fp32 yet; verify it here: edge engines verify" in reason()
    assert "not been compared with fp32" in reason(entry(FP16))
    assert "not been compared with fp32" in reason(entry(against="fp16"))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (entry(replace(INT8, onnx_sha256="f")), "m.onnx has changed since int8 was verified on 2026-11-21"),
        (entry(replace(INT8, file_sha256="f")), "m.int8.onnx is not the file that was verified"),
        (entry(replace(INT8, reading_sha256="f")), "model.toml has changed"),
        (entry(runtime=ORIN), "was verified on trt, but ort-cpu runs here"),
        (
            entry(runtime=replace(HERE, library="onnxruntime 1.30.0")),
            "with onnxruntime 1.30.0, x86_64 avx512_vnni, but this machine has",
        ),
        (
            entry(runtime=replace(HERE, instructions="x86_64 avx2")),
            "with onnxruntime 1.31.1, x86_64 avx2, but this machine has",
        ),
        (entry(agreement=0.949), "int8 agrees with fp32 by f1 0.949 on 64 frames, wanted 0.95"),
        (entry(frames=3), "measured on too few frames: 3, wanted 4 or more"),
        (entry(measured={"score_shift": 0.3}), "scores of int8 are off by +0.300"),
        (entry(measured={"score_shift": -0.3}), "scores of int8 are off by -0.300"),
    ],
)
def test_what_is_not_the_same_or_not_good_enough_is_told(found: PrecisionEntry, told: str) -> None:
    assert told in reason(found)


def test_another_gpu_is_another_device_and_another_processor_is_not() -> None:
    assert "with tensorrt 10.3.0.30, Orin sm_87 8 SMs, but this machine has" in reason(
        entry(runtime=ORIN), runtime=replace(ORIN, gpu="Orin sm_87 16 SMs")
    )
    assert admit([entry()], INT8, replace(HERE, machine="another"), 0.95).reason is None


def test_the_bound_itself_is_enough() -> None:
    assert admit([entry(agreement=0.95)], INT8, HERE, 0.95).reason is None


def test_scores_of_classes_have_no_bound_of_their_own() -> None:
    found = entry(metric="top1", agreement=0.99, measured={"score_shift": 0.3})
    assert admit([found], INT8, HERE, 0.98).reason is None


def test_the_newest_measurement_counts() -> None:
    worse = entry(agreement=0.5, at="2026-11-22T00:00:00.000000Z", machine="another")
    assert "0.500" in reason(entry(), worse)
    assert "0.500" in reason(worse, entry())


FORMS = st.builds(ModelFiles, st.sampled_from(["fp16", "int8"]), *[st.sampled_from("ab")] * 3)
HERES = st.builds(
    RuntimeIdentity,
    st.sampled_from(["ort-cpu", "trt"]),
    st.sampled_from(["1", "2"]),
    st.sampled_from([None, "g"]),
    st.sampled_from([None, "i"]),
    st.sampled_from(["m", "n"]),
)
ENTRIES = st.builds(
    entry,
    FORMS,
    HERES,
    agreement=st.sampled_from([0.5, 0.96, 1.0]),
    frames=st.sampled_from([1, 64]),
    against=st.sampled_from(["fp32", "fp16"]),
    at=st.sampled_from(["1", "2", "3"]),
    ms=st.floats(0.1, 10),
    against_ms=st.floats(0.1, 10),
)


@given(st.lists(ENTRIES, max_size=6), FORMS, HERES)
def test_nothing_is_admitted_but_by_an_entry_of_all_the_same(
    entries: list[PrecisionEntry], files: ModelFiles, runtime: RuntimeIdentity
) -> None:
    found = admit(entries, files, runtime, 0.95)
    assert (found.reason is None) <= (found.entry is not None)
    if found.reason is None and found.entry is not None:
        by = found.entry
        assert ModelFiles(by.precision, by.onnx_sha256, by.file_sha256, by.reading_sha256) == files
        assert replace(by.runtime, machine="") == replace(runtime, machine="")
        assert (by.against, by.agreement >= 0.95, by.frames >= 4) == ("fp32", True, True)


@given(st.lists(ENTRIES, max_size=6), HERES)
def test_the_fastest_is_admitted_and_was_measured_faster_than_fp32_on_this_machine(
    entries: list[PrecisionEntry], runtime: RuntimeIdentity
) -> None:
    forms = [ModelFiles("fp16", "a", "a", "a"), ModelFiles("int8", "a", "b", "a")]
    chosen = fastest(entries, [admit(entries, form, runtime, 0.95) for form in forms], runtime)
    if chosen != "fp32":
        files = next(each for each in forms if each.precision == chosen)
        assert admit(entries, files, runtime, 0.95).reason is None
        assert any(each.runtime == runtime and each.ms < each.against_ms for each in entries)


def admissions(*entries: PrecisionEntry) -> list[Admission]:
    return [admit(entries, form, HERE, 0.95) for form in (INT8, FP16)]


def test_the_measurement_decides_and_not_the_name() -> None:
    slow, fast = entry(ms=18.0), entry(FP16, ms=8.5)
    assert fastest([slow], admissions(slow), HERE) == "fp32"
    assert fastest([slow, fast], admissions(slow, fast), HERE) == "fp16"
    assert fastest([entry(), fast], admissions(entry(), fast), HERE) == "int8"
    assert fastest([], admissions(), HERE) == "fp32"


def test_times_are_compared_with_those_of_fp32_in_the_same_run() -> None:
    busy = entry(ms=30.0, against_ms=45.0)  # the machine had other work
    fast = entry(FP16, ms=8.0, against_ms=9.0)
    assert fastest([busy, fast], admissions(busy, fast), HERE) == "int8"


def test_the_speed_of_another_machine_tells_nothing() -> None:
    elsewhere = entry(machine="another")
    assert admissions(elsewhere)[0].reason is None
    assert fastest([elsewhere], admissions(elsewhere), HERE) == "fp32"


def test_what_is_not_admitted_is_not_the_fastest() -> None:
    wrong = entry(agreement=0.3, ms=0.1)
    assert fastest([wrong], admissions(wrong), HERE) == "fp32"


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "m.onnx"
    path.write_bytes(b"model")
    path.chmod(0o640)
    return path


def test_what_is_recorded_is_read_again(onnx: Path, tmp_path: Path) -> None:
    path = record(entry(truth={"fp32": {"map50": 0.9}, "int8": {"map50": 0.8}}), onnx, tmp_path)
    assert path == onnx.with_name(FILE)
    assert read_entries(onnx, tmp_path) == [entry(truth={"fp32": {"map50": 0.9}, "int8": {"map50": 0.8}})]
    assert path.stat().st_mode & 0o777 == 0o640
    assert json.loads(path.read_text())["v"] == 1
    assert list(onnx.parent.iterdir()) == [onnx, path] or list(onnx.parent.iterdir()) == [path, onnx]


def test_a_measurement_replaces_the_one_before_of_the_same_and_no_other(onnx: Path, tmp_path: Path) -> None:
    for each in (entry(), entry(FP16), entry(runtime=ORIN), entry(against="fp16")):
        record(each, onnx, tmp_path)
    newer = entry(agreement=0.99, at="2026-11-22T00:00:00.000000Z")
    record(newer, onnx, tmp_path)
    found = read_entries(onnx, tmp_path)
    assert found[0] == newer
    assert len(found) == 4
    assert entry() not in found


def test_measurements_of_a_changed_model_go_and_those_of_its_neighbour_stay(onnx: Path, tmp_path: Path) -> None:
    record(entry(FP16), onnx, tmp_path)
    record(entry(onnx="other.onnx"), onnx, tmp_path)
    changed = entry(replace(INT8, onnx_sha256="f" * 64))
    record(changed, onnx, tmp_path)
    assert read_entries(onnx, tmp_path) == [changed]
    assert read_entries(onnx.with_name("other.onnx"), tmp_path) == [entry(onnx="other.onnx")]


def test_where_the_models_folder_cannot_be_written_the_state_keeps_it(onnx: Path, tmp_path: Path) -> None:
    onnx.with_name(FILE).mkdir()  # a name that no file can take, whoever tries
    path = record(entry(), onnx, tmp_path / "state")
    assert path.parent == tmp_path / "state" / "models"
    assert read_entries(onnx, tmp_path / "state") == [entry()]
    assert read_entries(onnx, tmp_path / "other state") == []


def test_the_newer_of_both_places_counts(onnx: Path, tmp_path: Path) -> None:
    onnx.with_name(FILE).mkdir()
    record(entry(at="2"), onnx, tmp_path)
    onnx.with_name(FILE).rmdir()
    for at in ("1", "3"):
        record(entry(at=at), onnx, tmp_path)
        assert read_entries(onnx, tmp_path) == [entry(at=max(at, "2"))]


def test_where_nothing_can_be_written_it_is_told(onnx: Path, tmp_path: Path) -> None:
    onnx.with_name(FILE).mkdir()
    (tmp_path / "state").touch()
    with pytest.raises(ModelError, match=r"cannot be saved to .*precision\.json or .*precision\.json "):
        record(entry(), onnx, tmp_path / "state")


GOOD = entry().model_dump()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"v": 2, "entries": []}',
        b'{"entries": []}',
        b'{"v": 1, "entries": 3}',
        b"[" * 100_000,
        *(
            json.dumps({"v": 1, "entries": [GOOD | wrong]}).encode()
            for wrong in (
                {"agreement": 1.5},
                {"agreement": "1"},
                {"ms": 0},
                {"frames": 0},
                {"precision": "int4"},
                {"gpu": 3},
            )
        ),
        json.dumps({"v": 1, "entries": [{**GOOD, "agreement": float("nan")}]}).encode(),
        json.dumps({"v": 1, "entries": ["x", {}]}).encode(),
    ],
)
def test_a_damaged_file_admits_nothing_and_is_written_anew(onnx: Path, tmp_path: Path, content: bytes) -> None:
    onnx.with_name(FILE).write_bytes(content)
    assert read_entries(onnx, tmp_path) == []
    record(entry(), onnx, tmp_path)
    assert read_entries(onnx, tmp_path) == [entry()]


def test_entries_with_keys_of_a_newer_version_are_read(onnx: Path, tmp_path: Path) -> None:
    onnx.with_name(FILE).write_text(json.dumps({"v": 1, "entries": [GOOD | {"psnr": 3}], "more": 1}))
    assert read_entries(onnx, tmp_path) == [entry()]


@given(st.lists(ENTRIES, max_size=5))
def test_reading_gives_the_newest_of_each_key(entries: list[PrecisionEntry]) -> None:
    with TemporaryDirectory() as folder:
        onnx = Path(folder) / "m.onnx"
        onnx.touch()
        onnx.with_name(FILE).write_text(json.dumps({"v": 1, "entries": [each.model_dump() for each in entries]}))
        found = read_entries(onnx, Path(folder) / "state")
    assert {each.key for each in found} == {each.key for each in entries}
    assert len(found) == len({each.key for each in entries})
    assert all(each.at == max(one.at for one in entries if one.key == each.key) for each in found)
