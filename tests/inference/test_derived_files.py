"""Paths of derived files, and the hash of their source."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edge.inference import derived_files
from edge.inference.derived_files import (
    derived_folder,
    derived_paths,
    places_to_write,
    source_sha256,
    write_variant,
)
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


def test_the_installed_package_is_never_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx, state = tmp_path / "package" / "engines" / "net.onnx", tmp_path / "state"
    assert places_to_write(onnx, state, "fp16.onnx") == derived_paths(onnx, state, "fp16.onnx")
    monkeypatch.setattr(derived_files, "_PACKAGE", tmp_path / "package")
    assert places_to_write(onnx, state, "fp16.onnx") == derived_paths(onnx, state, "fp16.onnx")[1:]


def test_a_variant_beside_the_model_replaces_an_older_one_in_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx, state = tmp_path / "net.onnx", tmp_path / "state"
    onnx.write_bytes(b"fp32")
    origin_key = "edge.made_of"
    with monkeypatch.context() as patch:
        patch.setattr(derived_files, "_PACKAGE", tmp_path)
        older = write_variant(b"older", onnx, state, "int8", origin_key)
    assert older.is_relative_to(state)
    newer = write_variant(b"newer", onnx, state, "int8", origin_key)
    assert (newer.parent, older.exists()) == (tmp_path, False)
