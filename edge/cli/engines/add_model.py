"""`edge engines add`: a folder for an ONNX file or an engine file, with a drafted and proven model.toml."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.core.engine_file import is_engine_file
from edge.core.errors import ConfigError, EdgeError, SourceError
from edge.core.labels import read_labels_file

if TYPE_CHECKING:
    from edge.cli.engines.added_files import AddedFiles
    from edge.cli.engines.draft_output import ProvenDraft
    from edge.core.records import Image

HELP = "draft a model.toml for an ONNX file or a TensorRT engine file, and prove it"
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
    parser.add_argument("--decoder", help="family, or package.module:function, where several readings fit")
    parser.add_argument("--try", dest="try_path", type=Path, metavar="PICTURE", help="picture to prove the draft on")
    parser.add_argument("--save", type=Path, metavar="OUT", help="write that picture with what is found in it")


def _name(text: str) -> str:
    # Else the folder would lie elsewhere than under engines/.
    if Path(text).name != text or text in ("", "..") or "\0" in text:
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
    """Make `engines/NAME` with copies of the files and the draft, and say how it was found."""
    from edge.cli.engines.added_files import open_files
    from edge.cli.engines.draft import draft
    from edge.cli.engines.draft_input import draft_input
    from edge.cli.engines.draft_output import draft_output
    from edge.core.labels import labels_text, names_of_metadata

    folder = _folder(options)
    given = _given_labels(options)
    added = open_files(options.file, options.onnx)
    in_file = names_of_metadata(added.metadata)
    names = None if options.labels else labels_text(in_file)
    labels = _labels_name(options) if options.labels else WRITTEN_LABELS if names else None
    label_count = len(given or (in_file if names else ()))
    engine, sizes = added.engine, {"size": options.size, "optimised": added.size}
    inputs = draft_input(engine.inputs, engine.outputs, added.metadata, values=dict(options.value), **sizes)
    shown = _read_picture(options.try_path) if options.try_path else None
    found = draft_output(added, inputs, label_count, shown, options.decoder)
    found.read = [*added.notes, *found.read]
    found.read += [f"{label_count} names of classes"] if names else []
    found.assumed += inputs.notes
    staged = [
        Staged(text, draft(inputs, output, added.keys, labels), added, options.labels, labels, names)
        for text, output in found.drafts
    ]
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(_staging(folder.parent, each)) for each in staged]
        _prove(folders, folder.name, options, shown)
        if len(staged) > 1:
            raise ConfigError(_ambiguity(options.file, [each.text for each in staged]))
        _move(folders[0], folder)
    _print_found(folder, staged[0].text, found, as_json=options.json)
    return 0


@dataclass(frozen=True)
class Staged:
    """A model to write: its draft and its files."""

    text: str  # its reading in words
    manifest: str
    files: AddedFiles
    labels: Path | None
    labels_name: str | None
    names: str | None  # of the classes, as the metadata have them


def _folder(options: argparse.Namespace) -> Path:
    """Return the folder to make; raise ConfigError where a path is not what it should be."""
    for path, wanted in (
        (options.file, "an ONNX file"),
        (options.onnx, "an ONNX file"),
        (options.labels, "a text file"),
    ):
        if path is not None and not path.is_file():
            raise ConfigError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; wanted {wanted}")
    if options.onnx is not None and not is_engine_file(options.file):
        raise ConfigError(f"--onnx {options.onnx}: {options.file} is no engine file; wanted --onnx beside one")
    name: str = options.name or options.file.stem
    folder = Path("engines", name)
    if (folder / "model.toml").exists():
        raise ConfigError(f"{folder}/model.toml already exists; choose another name with --name, or edit that file")
    return folder


def _given_labels(options: argparse.Namespace) -> Sequence[str]:
    """Return the labels in the file that is given, or none."""
    labels = read_labels_file(options.labels) if options.labels else ()
    if options.labels and not labels:
        raise ConfigError(f"--labels {options.labels} is empty; wanted one label a line")
    return labels


def _labels_name(options: argparse.Namespace) -> str:
    """Return the name of the copied labels file, which must not be that of another file of the model."""
    name: str = options.labels.name
    taken = {path.name for path in (options.file, options.onnx) if path is not None} | {"model.toml"}
    return WRITTEN_LABELS if name in taken else name


def _read_picture(path: Path) -> Image:
    from edge.capture.image_files import open_picture
    from edge.capture.source import DEFAULT_LIMITS

    try:
        with contextlib.closing(open_picture(path, DEFAULT_LIMITS)) as source:
            if source.grab() is None:
                raise SourceError(f"{path} has no frame")
            return source.retrieve(None)
    except SourceError as error:
        raise ConfigError(
            f"--try {path}: found no picture there, wanted a JPEG, PNG or another that OpenCV reads ({error})"
        ) from None


@contextlib.contextmanager
def _staging(engines: Path, staged: Staged) -> Iterator[Path]:
    """Write a model into a hidden folder beside the others, which is removed in the end."""
    folder = None
    is_new = not engines.exists()
    try:
        engines.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".adding-", dir=engines))
        staged.files.copy_to(folder)
        if staged.labels is not None and staged.labels_name is not None:
            shutil.copyfile(staged.labels, folder / staged.labels_name)
        if staged.names:
            (folder / WRITTEN_LABELS).write_text(staged.names, encoding="utf-8")
        (folder / "model.toml").write_text(staged.manifest, encoding="utf-8")
        yield folder
    except OSError as error:
        raise EdgeError(f"{engines} cannot be written ({error.strerror}); run this in a writable folder") from None
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                engines.rmdir()  # only if nothing is in it


def _prove(folders: Sequence[Path], name: str, options: argparse.Namespace, shown: Image | None) -> None:
    """Open each draft as `edge detect` does, and draw what it finds; raise its error where it cannot be served."""
    from edge.cli.engines.trial import try_model

    if options.decoder and ":" in options.decoder:
        return  # a decoder of one's own comes later
    for number, folder in enumerate(folders, start=1):
        save = options.save
        if save is not None and len(folders) > 1:
            save = save.with_stem(f"{save.stem}-{number}")
        try_model(folder, name, shown, save, options.state_dir)


def _move(staging: Path, folder: Path) -> None:
    """Give a written model its name; its manifest, which makes it a model, comes last."""
    if not folder.exists():
        staging.chmod(0o755)
        staging.rename(folder)
        return
    for path in sorted(staging.iterdir(), key=lambda each: each.name == "model.toml"):
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        else:
            path.replace(folder / path.name)


def _ambiguity(file: Path, texts: Sequence[str]) -> str:
    numbered = "; ".join(f"({number}) {text}" for number, text in enumerate(texts, start=1))
    return (
        f"{file}: {len(texts)} readings fit its outputs, and nothing that it gave for the test pictures tells which is "
        f"right: {numbered}. Give its labels (--labels), a picture of what it finds (--try PICTURE), or choose with "
        "--decoder; --save OUT.jpg draws each"
    )


def _print_found(folder: Path, text: str, found: ProvenDraft, *, as_json: bool) -> None:
    if as_json:
        facts = {"read": found.read, "measured": [text, *found.measured], "assumed": found.assumed}
        print(json.dumps({"folder": str(folder), **facts, "guesses": [text, *found.assumed]}))
        return
    print(f"written to {folder}/model.toml")
    groups = (("read from the file", found.read), ("measured", [text, *found.measured]), ("assumed", found.assumed))
    for title, sentences in groups:
        if sentences:
            print(f"{title}:")
            for sentence in sentences:
                print(f"  • {sentence}")
    print(f"then try it: edge detect {folder} PICTURE --save out.jpg")
