"""`edge engines add`: a folder for an ONNX file or an engine file, with a drafted model.toml."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from pathlib import Path

from edge.core.engine_file import is_engine_file
from edge.core.errors import ConfigError, EdgeError

HELP = "draft a model.toml for an ONNX file or a TensorRT engine file"
WRITTEN_LABELS = "labels.txt"  # the names that the file's metadata have


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    file = "ONNX file, or TensorRT engine file (.engine, .plan); it is copied next to the model.toml"
    parser.add_argument("file", type=Path, help=file)
    onnx = "with an engine file: the ONNX file of the same model, which serves where the engine file cannot"
    parser.add_argument("--onnx", type=Path, help=onnx)
    parser.add_argument("--name", type=_name, help="name of the model (default: the file's)")
    parser.add_argument("--labels", type=Path, help="text file with one label per line; copied likewise")
    size = "of the input, for a model that leaves it open (default: what the file says, else 640,640)"
    parser.add_argument("--size", type=_size, metavar="WIDTH,HEIGHT", help=size)
    value = "of an input beside the picture's: source-size, input-size, scale or a number; several times for several"
    parser.add_argument("--value", type=_value, action="append", default=[], metavar="NAME=VALUE", help=value)


def _name(text: str) -> str:
    if Path(text).name != text or text in ("", ".."):  # else the folder would lie elsewhere than under engines/
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a name without /")
    return text


def _size(text: str) -> tuple[int, int]:
    sides = text.replace("x", ",").replace("×", ",").split(",")
    if len(sides) != len("wh") or not all(side.strip().isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted WIDTH,HEIGHT in pixels, as in 640,480")
    return int(sides[0]), int(sides[1])


def _value(text: str) -> tuple[str, str | float | int]:
    name, equals, value = text.rpartition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted NAME=VALUE, as in orig_target_sizes=input-size")
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return name, number(value)
    return name, value


def run(options: argparse.Namespace) -> int:
    """Make `engines/NAME` with copies of the files and the draft, and print its guesses."""
    from edge.cli.engines.added_files import open_files
    from edge.cli.engines.draft import draft
    from edge.cli.engines.draft_input import draft_input
    from edge.core.labels import labels_text, names_of_metadata, read_labels_file

    for path, wanted in (
        (options.file, "an ONNX file"),
        (options.onnx, "an ONNX file"),
        (options.labels, "a text file"),
    ):
        if path is not None and not path.is_file():
            raise ConfigError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; wanted {wanted}")
    if options.onnx is not None and not is_engine_file(options.file):
        raise ConfigError(f"--onnx {options.onnx}: {options.file} is no engine file; wanted --onnx beside one")
    if options.labels and not read_labels_file(options.labels):
        raise ConfigError(f"--labels {options.labels} is empty; wanted one label a line")
    folder = Path("engines") / (options.name or options.file.stem)
    if (folder / "model.toml").exists():
        raise ConfigError(f"{folder}/model.toml already exists; choose another name with --name, or edit that file")
    added = open_files(options.file, options.onnx)
    names = None if options.labels else labels_text(names_of_metadata(added.metadata))
    labels = options.labels.name if options.labels else WRITTEN_LABELS if names else None
    engine, values = added.engine, dict(options.value)
    sizes = {"size": options.size, "optimised": added.size}
    inputs = draft_input(engine.inputs, engine.outputs, added.metadata, values=values, **sizes)
    text, guesses = draft(inputs, engine.outputs, added.keys, labels)
    guesses = [*added.notes, *guesses]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        added.copy_to(folder)
        if options.labels:
            shutil.copyfile(options.labels, folder / options.labels.name)
        if names:
            (folder / WRITTEN_LABELS).write_text(names, encoding="utf-8")
        (folder / "model.toml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise EdgeError(f"{folder} cannot be written ({error.strerror}); run this in a writable folder") from None
    if options.json:
        print(json.dumps({"folder": str(folder), "guesses": guesses}))
    else:
        _print_guesses(folder, guesses)
    return 0


def _print_guesses(folder: Path, guesses: list[str]) -> None:
    print(f"written to {folder}/model.toml; check these guesses before you use it:")
    for guess in guesses:
        print(f"  • {guess}")
    print(f"then try it: edge detect {folder} PICTURE --save out.jpg")
