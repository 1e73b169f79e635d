"""Model manifest, `model.toml`: the preprocessing and decoding of one model."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from edge.core.engine_file import engine_metadata, is_engine_file, read_engine_file
from edge.core.errors import ModelError
from edge.core.labels import names_of_metadata, read_labels_file
from edge.core.onnx_file import OnnxFile
from edge.core.suggestion import did_you_mean
from edge.core.validation import FROM_LIST, Table, read_settings

PerChannel = tuple[float, ...]
Color = Literal["bgr", "rgb", "gray", "bgra", "rgba"]
CHANNELS: dict[Color, int] = {"bgr": 3, "rgb": 3, "gray": 1, "bgra": 4, "rgba": 4}
LARGEST_SIDE = 16384  # pixels of a model's input
InputValue = str | float | int | tuple[float | int, ...]
# Values of a model's further inputs that are known for each picture, or for all of them.
PER_PICTURE = ("source-size", "scale")
PER_MODEL = ("input-size",)
ORDERS = ("-wh", "-hw")  # after such a word: width or height first
VALUES_EXAMPLE = 'values = {orig_target_sizes = "source-size"}'
Task = Literal["classify", "detect"]
MIN_AGREEMENT: dict[Task, float] = {"detect": 0.95, "classify": 0.98}


class InputSettings(Table):
    """Preprocessing of a source picture into the model's input: x = (pixel - mean) * scale / std, per channel."""

    color: Color = "rgb"
    size: tuple[int, int] | None = None  # width, height; only where the model leaves them open
    resize: Literal["letterbox", "stretch", "crop"] = "letterbox"
    anchor: Literal["top-left", "center"] = "center"
    resize_to: int | None = Field(None, ge=1)  # crop only: the picture's shorter side before the input is cut out
    pad: int = Field(114, ge=0, le=255)  # level of the border that letterbox adds
    scale: float = Field(1.0, gt=0)
    mean: PerChannel = (0.0, 0.0, 0.0)
    std: PerChannel = (1.0, 1.0, 1.0)
    # Of inputs other than the picture's, by name: a word of PER_PICTURE or PER_MODEL, or constant numbers.
    values: dict[str, InputValue] = Field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Channels of the model's input."""
        return CHANNELS[self.color]

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _number_a_channel(cls, value: Any) -> Any:
        if not isinstance(value, list) or len(value) not in (1, 3, 4):
            raise ValueError(
                f"found {value!r:.80}, wanted a list of one number a channel: 3, 1 for gray, or 4 with alpha"
            )
        return tuple(value)

    @field_validator("size", mode="before")
    @classmethod
    def _width_and_height(cls, value: Any) -> Any:
        sides = value if isinstance(value, (list, tuple)) else ()
        if len(sides) != 2 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides):  # noqa: PLR2004 -- width and height
            raise ValueError(f"found {value!r:.80}, wanted [width, height] in pixels, each from 1 to {LARGEST_SIDE}")
        return tuple(sides)

    @field_validator("values", mode="before")
    @classmethod
    def _known_values(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise ValueError(f"found {values!r:.80}, wanted a table of inputs, as in {VALUES_EXAMPLE}")  # noqa: TRY004 -- pydantic wants it
        words = [f"{word}{order}" for word in (*PER_PICTURE, *PER_MODEL) for order in ("", *ORDERS)]
        for name, value in values.items():
            if isinstance(value, str) and value not in words:
                known = "'source-size', 'input-size', 'scale' or numbers"
                raise ValueError(f"{name}: found {value!r:.80}, wanted {known}{did_you_mean(value, words)}")
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    @model_validator(mode="after")
    def _resize_to_is_for_crop(self) -> InputSettings:
        if self.resize_to is not None and self.resize != "crop":
            raise ValueError(f"found resize_to with resize = {self.resize!r}, wanted it with resize = 'crop'")
        return self

    @field_validator("std")
    @classmethod
    def _positive(cls, value: PerChannel) -> PerChannel:
        if min(value) <= 0:
            raise ValueError(f"found {list(value)}, wanted numbers greater than 0")
        return value


class OutputSettings(Table):
    """Decoding of the model's outputs; additional keys are passed to the decoder."""

    model_config = ConfigDict(extra="allow")

    decoder: str
    score_threshold: float = Field(0.25, ge=0, le=1)
    iou_threshold: float = Field(0.45, ge=0, le=1)
    nms: bool | None = None  # None: the decoder's default
    max_detections: int = Field(300, ge=1)


class AccuracyLimits(Table):
    """Accuracy relative to FP32 that a variant of lower precision must keep to be served."""

    min_agreement: float | None = Field(None, gt=0, le=1)  # None: MIN_AGREEMENT of the task
    # Operator types that stay FP32 in the FP16 variant.
    fp16_blocked_ops: Annotated[tuple[str, ...], FROM_LIST] = ()


class Manifest(Table):
    """The `model.toml` of one model."""

    task: Task
    onnx: str = ""  # "" only beside an engine file, which is then served without a reference
    engine: str | None = None  # TensorRT engine file, served as it is
    engine_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")  # of the file that was added
    labels: str | None = None
    input: InputSettings = InputSettings()
    output: OutputSettings
    accuracy: AccuracyLimits = AccuracyLimits()

    @model_validator(mode="after")
    def _names_its_file(self) -> Manifest:
        if not self.onnx and self.engine is None:
            raise ValueError("onnx: missing; this key must be set, or engine for a TensorRT engine file")
        if (self.engine is None) != (self.engine_sha256 is None):
            raise ValueError("found one of engine and engine_sha256, wanted both: `edge engines add FILE` writes them")
        return self

    @property
    def min_agreement(self) -> float:
        """Minimum agreement with FP32, 0…1: F1 score of boxes, or fraction of pictures with the same best class."""
        wanted = self.accuracy.min_agreement
        return MIN_AGREEMENT[self.task] if wanted is None else wanted

    @property
    def reading_sha256(self) -> str:
        """SHA-256 of preprocessing and decoding: the findings depend on them as much as on the model's file."""
        # Keys that are not set are excluded, so that a new key with a default changes no hash.
        settings = self.model_dump(include={"task", "input", "output"}, exclude_unset=True, mode="json")
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read `model.toml` in `folder`; raise ModelError if it cannot be used."""
    path = folder / "model.toml"
    if not os.path.isfile(path):  # noqa: PTH113 -- Path's raises for a name that is too long
        has_none = "is a file" if os.path.isfile(folder) else "contains no model.toml"  # noqa: PTH113 -- likewise
        raise ModelError(f"{folder} {has_none}; wanted a model folder: draft one with `edge engines add FILE.onnx`")
    return read_settings(path, Manifest, ModelError)


def find_model(name: str) -> Path:
    """Find the folder of a model: a path, or a name under `engines/` here or in the package."""
    path = Path(name)
    for folder in (path, Path("engines") / name, built_in_model(name), _folder_of_file(path), _folder_of_copy(path)):
        if folder is not None and os.path.isfile(folder / "model.toml"):  # noqa: PTH113 -- Path's raises for a long name
            return folder
    raise ModelError(_no_model(name))


def _folder_of_file(path: Path) -> Path | None:
    """Return the folder of a model.toml, or of the ONNX or engine file that the model.toml beside it names."""
    if not os.path.isfile(path):  # noqa: PTH113 -- Path's raises for a name that is too long
        return None
    if path.name == "model.toml":
        return path.parent
    is_model = path.suffix.lower() == ".onnx" or is_engine_file(path)
    if is_model and (path.parent / "model.toml").is_file():
        manifest = read_manifest(path.parent)
        return path.parent if path.name in (manifest.onnx, manifest.engine) else None
    return None


def _folder_of_copy(path: Path) -> Path | None:
    """Return the folder under `engines/` to which an engine file was added, if it is still that file."""
    folder = Path("engines") / path.stem
    if not is_engine_file(path) or not (os.path.isfile(path) and (folder / "model.toml").is_file()):  # noqa: PTH113 -- Path's raises for a name that is too long
        return None
    return folder if read_manifest(folder).engine_sha256 == read_engine_file(path).sha256 else None


def _no_model(name: str) -> str:
    """Say why a name is no model, and the way to one."""
    path = Path(name)
    is_model = path.suffix.lower() == ".onnx" or is_engine_file(path)
    if is_model or os.path.isfile(path):  # noqa: PTH113 -- Path's raises for a name that is too long
        if not os.path.isfile(path):  # noqa: PTH113 -- likewise
            return f"{name} does not exist; wanted a model's folder or name, or the ONNX file to draft one from"
        if is_model:
            what = "a TensorRT engine file" if is_engine_file(path) else "an ONNX file"
            return (
                f"{name} is {what} without a model.toml; draft one with `edge engines add {name}`, "
                f"then give its folder, engines/{path.stem}"
            )
        return f"{name} is no ONNX file; wanted a model's folder or name: export it to ONNX for `edge engines add`"
    known = {folder.name for folder in (*Path().glob("engines/*"), *built_in_models()) if folder.is_dir()}
    return (
        f"model {name!r} is neither a folder with a model.toml nor a name under engines/"
        f" (`edge engines list` shows those available){did_you_mean(name, sorted(known))}"
    )


def built_in_models() -> list[Path]:
    """Return the folders of the models that come with the package."""
    package = Path(__file__).parents[1]
    # In a checkout the models are beside the package, in a wheel inside it.
    return sorted(path.parent for root in (package, package.parent) for path in root.glob("engines/*/model.toml"))


def built_in_model(name: str) -> Path | None:
    """Return the folder of a model that comes with the package; None if it has none of this name."""
    return next((folder for folder in built_in_models() if folder.name == name), None)


def model_file(folder: Path, manifest: Manifest) -> Path:
    """Return the ONNX file of a model; raise ModelError where it is not there, or the model is an engine file alone."""
    if not manifest.onnx:
        raise ModelError(f"model {folder} is a TensorRT engine file without an ONNX file, which is wanted here")
    path = folder / manifest.onnx
    if not os.path.isfile(path):  # noqa: PTH113 -- Path's raises for a name that is too long
        raise ModelError(f"{str(path)!r} does not exist; wanted the ONNX file that model.toml names: put it there")
    return path


def served_file(folder: Path, manifest: Manifest) -> Path:
    """Return the file that a model is served from; raise ModelError where it is not there."""
    if manifest.engine is None:
        return model_file(folder, manifest)
    path = folder / manifest.engine
    if not os.path.isfile(path):  # noqa: PTH113 -- Path's raises for a name that is too long
        raise ModelError(f"{str(path)!r} does not exist; wanted the engine file that model.toml names: put it there")
    return path


def read_labels(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Read the labels file; if the manifest names none, the names in the model's metadata, else an empty tuple."""
    if manifest.labels is not None:
        return read_labels_file(folder / manifest.labels)
    if manifest.engine is not None and (names := names_of_metadata(engine_metadata(folder / manifest.engine))):
        return names
    try:
        return names_of_metadata(OnnxFile(folder / manifest.onnx).metadata)
    except ModelError:  # whoever opens the file says what is wrong with it
        return ()
