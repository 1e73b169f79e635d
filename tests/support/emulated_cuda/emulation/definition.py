"""A network of TensorRT, and the parser that fills it from ONNX."""
# ruff: noqa: ARG002 -- names and parameters are the real library's

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulation.bound import Bound, Dims, ILogger, Level, require_made, tell
from emulation.enums import VERSION, DataType, ErrorCode, LayerType, NetworkDefinitionCreationFlag, TensorLocation
from emulation.machine import machine
from emulation.network import Model, Node, Tensor

if TYPE_CHECKING:
    from emulation.builder import Builder

_NO_PLUGIN = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'


class ITensor(Bound):
    """An input, output or something between."""

    def __init__(self) -> None:
        raise TypeError("tensorrt.ITensor: No constructor defined!")

    @classmethod
    def _make(cls, tensor: Tensor, model: Model) -> ITensor:
        made: ITensor = object.__new__(cls)
        made._tensor, made._model = tensor, model
        return made

    _tensor: Tensor
    _model: Model

    @property
    def name(self) -> str:
        return self._tensor.name

    @property
    def dtype(self) -> Any:
        return DataType[self._tensor.dtype]

    @property
    def shape(self) -> Dims:
        return Dims(self._tensor.shape)

    @shape.setter
    def shape(self, shape: Any) -> None:
        if not self.is_network_input:
            machine.misuse(f"the shape of {self.name} cannot be set: it is no input")
        self._model.fix_shape(self.name, tuple(shape))
        self._tensor = next(each for each in self._model.inputs if each.name == self.name)

    @property
    def location(self) -> Any:
        return TensorLocation.DEVICE

    @property
    def is_network_input(self) -> bool:
        return any(each.name == self.name for each in self._model.inputs)

    @property
    def is_network_output(self) -> bool:
        return any(each.name == self.name for each in self._model.outputs)

    @property
    def is_shape_tensor(self) -> bool:
        return False

    @property
    def is_execution_tensor(self) -> bool:
        return True

    def get_dimension_name(self, index: int) -> str:
        return self._tensor.open_names[index]


class ILayer(Bound):
    """A node of the model."""

    def __init__(self) -> None:
        raise TypeError("tensorrt.ILayer: No constructor defined!")

    @classmethod
    def _make(cls, node: Node, model: Model) -> ILayer:
        made: ILayer = object.__new__(cls)
        made._node, made._model = node, model
        made._inputs = [model.tensors[name] for name in node.inputs if name in model.tensors]
        made._outputs = [model.tensors[name] for name in node.outputs if name in model.tensors]
        return made

    _node: Node
    _model: Model
    _inputs: list[Tensor]
    _outputs: list[Tensor]

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def type(self) -> Any:
        return LayerType[self._node.layer_type]

    @property
    def metadata(self) -> str:
        return f"[ONNX Layer: {self._node.name}]"

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor | None:
        return ITensor._make(self._inputs[index], self._model) if index < len(self._inputs) else None

    def get_output(self, index: int) -> ITensor | None:
        return ITensor._make(self._outputs[index], self._model) if index < len(self._outputs) else None

    def get_output_type(self, index: int) -> Any:
        return DataType[self._outputs[index].dtype]


class INetworkDefinition(Bound):
    """What the parser fills."""

    name = ""
    error_recorder: Any = None

    def __init__(self) -> None:
        raise TypeError("tensorrt.INetworkDefinition: No constructor defined!")

    @classmethod
    def _make(cls, builder: Builder, flags: int) -> INetworkDefinition:
        network: INetworkDefinition = object.__new__(cls)
        network._builder, network._flags, network._model = builder, flags, None
        return network

    _builder: Builder
    _flags: int
    _model: Model | None

    @property
    def builder(self) -> Builder:
        return self._builder

    @property
    def flags(self) -> int:
        return self._flags

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    @property
    def num_layers(self) -> int:
        return len(self._model.nodes) if self._model else 0

    @property
    def num_inputs(self) -> int:
        return len(self._model.inputs) if self._model else 0

    @property
    def num_outputs(self) -> int:
        return len(self._model.outputs) if self._model else 0

    def get_layer(self, index: int) -> ILayer | None:
        return ILayer._make(self._model.nodes[index], self._model) if self._model and index < self.num_layers else None

    def get_input(self, index: int) -> ITensor | None:
        return (
            ITensor._make(self._model.inputs[index], self._model) if self._model and index < self.num_inputs else None
        )

    def get_output(self, index: int) -> ITensor | None:
        is_there = self._model and index < self.num_outputs
        return ITensor._make(self._model.outputs[index], self._model) if self._model and is_there else None

    @property
    def _is_strongly_typed(self) -> bool:
        return VERSION.startswith("11.") or self.get_flag(NetworkDefinitionCreationFlag.STRONGLY_TYPED)


class ParserError(Bound):
    """What the parser could not take."""

    def __init__(self) -> None:
        raise TypeError("tensorrt.ParserError: No constructor defined!")

    @classmethod
    def _make(cls, node: Node | None, reason: str) -> ParserError:
        error: ParserError = object.__new__(cls)
        error._node, error._reason = node, reason
        return error

    _node: Node | None
    _reason: str

    def code(self) -> Any:
        return ErrorCode.INVALID_NODE if self._node else ErrorCode.INVALID_GRAPH

    def desc(self) -> str:
        return self._reason

    def file(self) -> str:
        return "onnxOpCheckers.cpp" if self._node else "ModelImporter.cpp"

    def func(self) -> str:
        return "checkFallbackPluginImporter" if self._node else "importInputs"

    def line(self) -> int:
        return 998

    def node(self) -> int:
        return self._node.index if self._node else -1

    def node_name(self) -> str:
        return self._node.name if self._node else ""

    def node_operator(self) -> str:
        return self._node.op if self._node else ""

    def local_function_stack(self) -> list[str]:
        return []


class OnnxParser(Bound):
    """Reads a model into a network."""

    flags = 0

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        require_made(logger, ILogger)
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def parse_from_file(self, model: str) -> bool:
        if not isinstance(model, str):
            raise TypeError(
                f"parse_from_file(): incompatible function arguments: wanted str, got {type(model).__name__}"
            )
        if not Path(model).exists():
            tell(self._logger, Level.ERROR, f"Could not open file {model}")
            return False
        return self._take(lambda: Model.from_file(model))

    def parse(self, model: Any, path: str | None = None) -> bool:
        return self._take(lambda: Model(bytes(memoryview(model))))

    def _take(self, read: Callable[[], Model]) -> bool:
        """Take a model; what is no ONNX file at all gives an empty network, as with the parser of TensorRT-RTX 1.7."""
        try:
            parsed = read()
        except Exception:  # noqa: BLE001 -- protobuf has a type of its own in each of its implementations
            return True
        unknown = parsed.unknown_nodes(machine.controls.unsupported_ops)
        self._errors = [
            *(
                ParserError._make(None, f"input or output {each.name} is of an unsupported type")
                for each in parsed.untakable()
            ),
            *(ParserError._make(node, _NO_PLUGIN) for node in unknown),
        ]
        for error in self._errors:
            text = f"In node {error.node()} with name: {error.node_name()} and operator: {error.node_operator()}"
            tell(self._logger, Level.ERROR, f"{text} ({error.func()}): INVALID_NODE: {error.desc()}")
        if not self._errors:
            self._network._model = parsed
        return not self._errors

    def supports_operator(self, op_name: str) -> bool:
        return op_name not in machine.controls.unsupported_ops
