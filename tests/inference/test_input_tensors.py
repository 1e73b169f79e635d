"""Inputs as served: open sizes, no batch axis, further inputs and their values, in ONNX Runtime and in a predictor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge.core.errors import ModelError
from edge.core.manifest import InputSettings, Manifest
from edge.inference.backends.engine import Engine, TensorSpec
from edge.inference.backends.input_tensors import batch_of, open_sizes_set, served_inputs
from edge.inference.backends.ort import OrtEngine
from edge.inference.predictor import Predictor
from tests.support.emulated_engines import build_and_load, emulated_gpu
from tests.support.small_models import FLOAT

INT64 = TensorProto.INT64
FLOAT32 = np.dtype(np.float32)


def spec(*shape: int | None, name: str = "images", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape, np.dtype(dtype))


def served(*specs: TensorSpec, **keys: Any) -> tuple[TensorSpec, ...]:
    return served_inputs(specs, InputSettings.model_validate(keys))


@pytest.mark.parametrize(
    ("shape", "keys", "wanted", "has_batch"),
    [
        ((None, 3, 48, 64), {}, (None, 3, 48, 64), True),
        ((None, 3, None, None), {"size": [64, 48]}, (None, 3, 48, 64), True),
        ((None, None, None, None), {"size": [64, 48]}, (None, 3, 48, 64), True),
        ((None, None, None, 3), {"size": [64, 48]}, (None, 48, 64, 3), True),
        ((4, None, 64, 4), {"size": [64, 48], "color": "bgra"}, (4, 48, 64, 4), True),
        ((None, None, None, None), {"size": [64, 48], "color": "gray"}, (None, 1, 48, 64), True),
        ((3, 48, 64), {}, (1, 3, 48, 64), False),
        ((48, 64, 3), {}, (1, 48, 64, 3), False),
        ((1, 48, 64), {"color": "gray"}, (1, 1, 48, 64), False),
        ((3, None, None), {"size": [64, 48]}, (1, 3, 48, 64), False),
        ((2, 3, 48, 64), {"size": [64, 48]}, (2, 3, 48, 64), True),
    ],
)
def test_the_pictures_input_gets_its_sizes_and_a_batch_axis(
    shape: tuple[int | None, ...], keys: dict[str, Any], wanted: tuple[int | None, ...], *, has_batch: bool
) -> None:
    (found,) = served(spec(*shape), **keys)
    assert (found.shape, found.has_batch) == (wanted, has_batch)
    assert served(found, **keys) == (found,)  # again changes nothing
    assert batch_of((found,), None) == (1 if not has_batch else shape[0])


@pytest.mark.parametrize(
    ("shapes", "keys", "told"),
    [
        ([(None, 3, None, None)], {}, "whose height and width are open; set size = [width, height] in [input]"),
        ([(None, 3, 48, 64)], {"size": [64, 64]}, "size = [64, 64] in [input]; the model has a fixed size: remove"),
        ([(None, 3, 48, 64), (None, 2)], {}, "the model has 2 inputs (images ?×3×48×64, second ?×2), of which 2"),
        ([(None, 3, 48, 64), (None, 2)], {"values": {"secnd": 1}}, "no input 'secnd', wanted one of images, second"),
        ([(None, 3, 48, 64), (None, None)], {"values": {"second": 1}}, "input 'second': found ?×?, whose sizes are"),
        ([(None, 3, 48, 64)], {"values": {"images": 1}}, "of which 0 have no values"),
    ],
)
def test_an_input_that_nobody_fills_is_told_with_the_key_that_does(
    shapes: list[tuple[int | None, ...]], keys: dict[str, Any], told: str
) -> None:
    specs = [spec(*shape, name=name) for name, shape in zip(("images", "second"), shapes, strict=False)]
    with pytest.raises(ModelError) as raised:
        served(*specs, **keys)
    assert told in str(raised.value)


def test_the_picture_comes_first_and_others_have_a_batch_axis_only_where_the_model_has_one() -> None:
    specs = (
        spec(None, 2, name="sizes"),
        spec(1, 2, name="one"),
        spec(name="number"),
        spec(5, name="five"),
        spec(None, None, None, name="mask"),
        spec(None, name="flags"),
        spec(None, 3, 48, 64),
    )
    values = {each.name: 1 for each in specs[:-1]}
    found = {each.name: (each.shape, each.has_batch) for each in served(*specs, values=values)}
    assert next(iter(found)) == "images"
    assert found == {
        "images": ((None, 3, 48, 64), True),
        "sizes": ((None, 2), True),
        "one": ((1, 1, 2), False),
        "number": ((1,), False),
        "five": ((1, 5), False),
        "mask": ((None, 48, 64), True),
        "flags": ((None,), True),
    }
    varying = InputSettings.model_validate({"values": values | {"one": "source-size"}})
    assert batch_of(served_inputs(specs, varying), varying) == 1
    same = InputSettings.model_validate({"values": values})
    assert batch_of(served_inputs(specs, same), same) is None


def summing(folder: Path, picture: list[int | str], others: dict[str, list[int | str]]) -> Path:
    """Write a model that returns the mean of each picture, and each further input with axes as it is."""
    rank = len(picture)
    shown = [name for name, shape in others.items() if shape]
    nodes = [helper.make_node("ReduceMean", ["images"], ["mean"], axes=list(range(rank - 3, rank)), keepdims=0)]
    nodes += [helper.make_node("Identity", [name], [f"{name}_out"]) for name in shown]
    inputs = [helper.make_tensor_value_info("images", FLOAT, picture)]
    further = {name: helper.make_tensor_value_info(name, INT64, shape) for name, shape in others.items()}
    outputs = [helper.make_tensor_value_info("mean", FLOAT, picture[: rank - 3])]
    outputs += [helper.make_tensor_value_info(f"{name}_out", INT64, others[name]) for name in shown]
    graph = helper.make_graph(nodes, "sum", [*further.values(), *inputs], outputs)
    path = folder / "sum.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


Open = Callable[[Path, InputSettings], Engine]


@pytest.fixture(params=["ort", "orin-nano", "discrete"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Give a function that opens an ONNX file with one of the backends: TensorRT's are emulated."""
    if request.param == "ort":
        yield on_the_cpu
        return
    with emulated_gpu(device=request.param):
        yield lambda path, inputs: build_and_load(path, tmp_path, 3, inputs=inputs)


def on_the_cpu(path: Path, inputs: InputSettings) -> Engine:
    return OrtEngine(path, threads=1, inputs=inputs)


def predictor(path: Path, opened: Open = on_the_cpu, **keys: Any) -> Predictor:
    (path.parent / "decoder.py").write_text(
        "from numpy import zeros\n\n\ndef decode(outputs, _):\n    return zeros((0, 4)), zeros(0), zeros(0, int)\n"
    )
    manifest = Manifest.model_validate(
        {"task": "detect", "onnx": path.name, "input": keys, "output": {"decoder": "decoder:decode"}}
    )
    return Predictor(opened(path, manifest.input), manifest, (), path.parent)


def grey(width: int, height: int, level: int) -> Any:
    return np.full((height, width, 3), level, np.uint8)


def test_each_row_of_a_batch_gets_the_values_of_its_own_picture(opened: Open, tmp_path: Path) -> None:
    others: dict[str, list[int | str]] = {
        "orig_target_sizes": ["N", 2],
        "im_shape": ["N", 2],
        "source_hw": ["N", 2],
        "fixed": ["N", 2],
        "number": [],
    }
    values = {
        "orig_target_sizes": "source-size",
        "im_shape": "input-size",
        "source_hw": "source-size-hw",
        "fixed": [7, 9],
        "number": 5,
    }
    path = summing(tmp_path, ["N", 3, "h", "w"], others)
    model = predictor(path, opened, size=[64, 48], resize="stretch", values=values)
    assert model.input_px == (64, 48)
    with model.session(3) as session:
        session.fill(grey(100, 50, 10), 0)
        session.fill(grey(30, 80, 20), 1)
        session.run(2)
        first, second = session.copy_outputs(0), session.copy_outputs(1)
        assert [float(each["mean"]) for each in (first, second)] == [10, 20]
        assert first["orig_target_sizes_out"].tolist() == [100, 50]
        assert second["orig_target_sizes_out"].tolist() == [30, 80]
        assert second["source_hw_out"].tolist() == [80, 30]
        assert second["im_shape_out"].tolist() == [48, 64]  # its exporter takes height first
        assert second["fixed_out"].tolist() == [7, 9]
    (feed,) = model.inputs([grey(100, 50, 10)])
    assert feed["orig_target_sizes"].tolist() == [[100, 50]]
    assert feed["number"].tolist() == 5
    assert feed["images"].shape == (1, 3, 48, 64)


def test_a_model_without_a_batch_axis_takes_one_picture_at_a_time(opened: Open, tmp_path: Path) -> None:
    engine = opened(summing(tmp_path, [3, "h", "w"], {}), InputSettings(size=(64, 48)))
    assert (engine.fixed_batch, engine.inputs[0].shape) == (1, (1, 3, 48, 64))
    with engine.make_context(4) as context:
        context.inputs["images"][:] = 4
        context.infer(1)
        assert float(np.asarray(context.outputs["mean"])) == 4
    (feed,) = predictor(summing(tmp_path, [3, 48, 64], {})).inputs([grey(64, 48, 3)])
    assert feed["images"].shape == (3, 48, 64)


def test_named_open_sizes_give_outputs_of_fixed_shape(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, FLOAT, ["N", 3, "h", "w"]) for name in ("images", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["y"])], "g", values[:1], values[1:])
    path = tmp_path / "open.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    engine = OrtEngine(path, threads=1, inputs=InputSettings(size=(64, 48)))
    assert engine.outputs[0].shape == (None, 3, 48, 64)
    with engine.make_context(2) as context:
        outputs = context.outputs["y"]
        context.infer(2)
        assert np.shares_memory(outputs, context.outputs["y"])  # nothing is allocated by a run


def test_a_value_with_too_few_or_too_many_numbers_is_refused(tmp_path: Path) -> None:
    path = summing(tmp_path, ["N", 3, 48, 64], {"sizes": ["N", 3]})
    for value, told in (("source-size", "takes 3 for each picture, wanted two"), ([1, 2], "found 2 numbers, wanted 3")):
        model = predictor(path, values={"sizes": value})
        with pytest.raises(ModelError, match=told), model.session():
            pass


def test_the_shapes_that_a_builder_needs_are_those_of_open_sizes_alone(tmp_path: Path) -> None:
    path = summing(tmp_path, ["N", 3, "h", "w"], {"sizes": ["N", 2]})
    settings = InputSettings.model_validate({"size": [64, 48], "values": {"sizes": "source-size"}})
    assert open_sizes_set(path, settings) == (("images", (None, 3, 48, 64)),)
    path = summing(tmp_path, ["N", 3, 48, 64], {"sizes": ["N", 2]})
    assert open_sizes_set(path, InputSettings.model_validate({"values": {"sizes": "source-size"}})) == ()


@pytest.mark.parametrize(
    ("value", "output", "resize", "told"),
    [
        ("input-size", {}, "letterbox", None),
        ("source-size", {"units": "source"}, "stretch", None),
        (
            "source-size",
            {"units": "source"},
            "letterbox",
            "found 'source-size' with units 'source' and resize 'letterb",
        ),
        ("source-size", {}, "stretch", "found 'source-size' with units 'input' and resize 'stretch', wanted units ="),
    ],
)
def test_boxes_scaled_by_the_pictures_size_are_read_so_or_refused(
    value: str, output: dict[str, str], resize: str, told: str | None, tmp_path: Path
) -> None:
    """Boxes of half of the given size, as D-FINE returns them."""
    nodes = [
        helper.make_node("Cast", ["orig_target_sizes"], ["real"], to=FLOAT),
        helper.make_node("Concat", ["real", "real"], ["four"], axis=1),
        helper.make_node("Unsqueeze", ["four", "axis"], ["each"]),
        helper.make_node("Mul", ["each", "quarters"], ["boxes"]),
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
        helper.make_node("Mul", ["column", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "score"], ["scores"]),
        helper.make_node("Cast", ["nothing"], ["labels"], to=INT64),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [
            helper.make_tensor_value_info("images", FLOAT, ["N", 3, 64, 64]),
            helper.make_tensor_value_info("orig_target_sizes", INT64, ["N", 2]),
        ],
        [
            helper.make_tensor_value_info("labels", INT64, ["N", 1]),
            helper.make_tensor_value_info("boxes", FLOAT, ["N", 1, 4]),
            helper.make_tensor_value_info("scores", FLOAT, ["N", 1]),
        ],
        [
            helper.make_tensor("axis", INT64, [1], [1]),
            helper.make_tensor("quarters", FLOAT, [4], [0.25, 0.25, 0.5, 0.5]),
            helper.make_tensor("zero", FLOAT, [], [0.0]),
            helper.make_tensor("score", FLOAT, [], [0.9]),
        ],
    )
    path = tmp_path / "detector.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    keys = {"resize": resize, "values": {"orig_target_sizes": value}}
    settings = {"task": "detect", "onnx": path.name, "input": keys, "output": {"decoder": "d-fine"} | output}
    manifest = Manifest.model_validate(settings)
    engine = OrtEngine(path, threads=1, inputs=manifest.input)
    if told is not None:
        with pytest.raises(ModelError) as raised:
            Predictor(engine, manifest, (), tmp_path)
        assert told in str(raised.value)
        return
    with Predictor(engine, manifest, (), tmp_path).session() as session:
        findings = session.predict(grey(128, 64, 9))
    # The letterbox has 16 free lines above and below: 16…32 of the input are 0…32 of the picture.
    wanted = [32, 0, 64, 32] if resize == "letterbox" else [32, 16, 64, 32]
    assert findings.boxes.tolist() == [wanted]  # type: ignore[union-attr]
