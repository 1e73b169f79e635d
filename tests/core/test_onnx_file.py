"""Facts of an ONNX file, compared with what the package onnx wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.core.errors import EdgeError, ModelError
from edge.core.onnx_file import OnnxFile, OnnxValue


def weight(name: str) -> TensorProto:
    return numpy_helper.from_array(np.ones(400, np.float32), name)


def branches() -> Any:
    """Return a node with a graph inside: its weights and operators count too."""
    inner = helper.make_graph(
        [helper.make_node("Own", [], ["out"], domain="mine")],
        "inner",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [weight("deep")],
    )
    return helper.make_node("If", ["condition"], ["y"], then_branch=inner, else_branch=inner)


def model() -> onnx.ModelProto:
    graph = helper.make_graph(
        [branches(), helper.make_node("Constant", [], ["c"], value=weight("constant"))],
        "graph",
        [
            helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, None, 64]),
            helper.make_tensor_value_info("shallow", TensorProto.FLOAT, [400]),
            helper.make_tensor_value_info("any", TensorProto.INT64, None),
            helper.make_tensor_value_info("scalar", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
        [weight("shallow")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 3)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="pytorch")
    helper.set_model_props(made, {"names": "{0: 'rouge', 1: 'é'}", "task": "detect"})
    return made


def test_the_facts_are_those_that_were_written(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    file = OnnxFile(tmp_path / "m.onnx")
    assert (file.ir_version, file.producer, file.opsets) == (8, "pytorch", {"": 17, "mine": 3})
    assert file.metadata == {"names": "{0: 'rouge', 1: 'é'}", "task": "detect"}
    assert file.inputs == (
        OnnxValue("images", TensorProto.FLOAT, ("N", 3, "", 64)),
        OnnxValue("any", TensorProto.INT64, None),
        OnnxValue("scalar", TensorProto.BOOL, ()),
    )
    assert file.outputs == (OnnxValue("y", 0, None),)
    assert file.operators == {("", "If"), ("", "Constant"), ("mine", "Own")}
    assert file.external_data == ()


def test_external_data_is_found_in_weights_constants_and_inner_graphs(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    made = model()
    onnx.save(
        made,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="w" * 120 + ".bin",
        size_threshold=0,
        convert_attribute=True,
    )
    file = OnnxFile(tmp_path / "m.onnx")
    assert file.external_data == ("w" * 120 + ".bin",)
    assert file.external_paths() == [tmp_path / ("w" * 120 + ".bin")]
    (tmp_path / ("w" * 120 + ".bin")).write_bytes(bytes(100))
    with pytest.raises(ModelError, match=r"w\.bin' has 100 bytes, wanted at least \d+: it is cut off"):
        file.external_paths()
    (tmp_path / ("w" * 120 + ".bin")).unlink()
    with pytest.raises(ModelError, match=r"w\.bin' does not exist, and it holds values of the model; copy it next to"):
        file.external_paths()


@pytest.mark.parametrize("name", ["/etc/passwd", "../w.bin", "link/w.bin", "a\0b"])
def test_external_data_outside_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(1600))
    (tmp_path / "models").mkdir()
    (tmp_path / "models/link").symlink_to(tmp_path)
    made = model()
    tensor = made.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    (tmp_path / "models/m.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="outside of its folder; wanted a file beside the ONNX file"):
        OnnxFile(tmp_path / "models/m.onnx").external_paths()


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        _ = OnnxFile(tmp_path / "none.onnx").metadata
    (tmp_path / "text.onnx").write_text("this is text")
    with pytest.raises(ModelError, match=r"text\.onnx is no ONNX file; wanted a complete ONNX file"):
        _ = OnnxFile(tmp_path / "text.onnx").metadata
    (tmp_path / "empty.onnx").touch()
    assert OnnxFile(tmp_path / "empty.onnx").metadata == {}


@settings(max_examples=200)
@given(st.data())
def test_any_damage_is_facts_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for fact in ("ir_version", "producer", "opsets", "metadata", "inputs", "outputs", "operators", "external_data"):
        try:
            getattr(OnnxFile(path), fact)
        except EdgeError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 -- much damage is not seen
