"""Paths of derived files, and the hash of their source."""

from __future__ import annotations

from pathlib import Path

import onnx

from edge.inference.derived_files import derived_folder, derived_paths, source_sha256
from tests.inference.test_fp16_convert import float32, make_model, node, row


def test_a_derived_file_lies_beside_its_model_or_in_the_state_under_a_name_of_its_place(tmp_path: Path) -> None:
    first, second, state = tmp_path / "a" / "net.onnx", tmp_path / "b" / "net.onnx", tmp_path / "state"
    beside, in_state = derived_paths(first, state, "int8-cpu.onnx")
    assert beside == tmp_path / "a" / "net.int8-cpu.onnx"
    assert in_state.parent == state / "models"
    assert in_state.name == f"{derived_folder(first, state).name}.int8-cpu.onnx"
    assert in_state != derived_paths(second, state, "int8-cpu.onnx")[1]


def test_one_file_for_all_precisions_has_the_same_name_beside_every_model(tmp_path: Path) -> None:
    beside, in_state = derived_paths(tmp_path / "net.onnx", tmp_path, "precision.json", beside="precision.json")
    assert beside == tmp_path / "precision.json"
    assert in_state.name == f"{derived_folder(tmp_path / 'net.onnx', tmp_path).name}.precision.json"


def test_a_model_with_dots_in_its_name_keeps_them_and_a_link_is_the_model_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "yolo.v8.n.onnx").touch()
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "yolo.v8.n.onnx").symlink_to(tmp_path / "yolo.v8.n.onnx")
    beside, in_state = derived_paths(tmp_path / "yolo.v8.n.onnx", tmp_path, "fp16.onnx")
    assert beside.name == "yolo.v8.n.fp16.onnx"
    assert in_state == derived_paths(tmp_path / "link" / "yolo.v8.n.onnx", tmp_path, "fp16.onnx")[1]


def test_the_hash_of_a_source_tells_long_names_of_number_files_apart(tmp_path: Path) -> None:
    name = "n" * 200  # two bytes of length in the file
    model = make_model([node("Mul", ["x", "w"], ["y"])], [row("x")], [row("y")], {"w": float32(0.5)})
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location=name, size_threshold=0)
    before = source_sha256(tmp_path / "net.onnx")
    (tmp_path / name).write_bytes(b"\0\0\0\0")
    assert source_sha256(tmp_path / "net.onnx") != before
