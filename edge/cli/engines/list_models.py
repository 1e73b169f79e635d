"""`edge engines list`: the models under `engines/`, and the built-in one."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from edge.core.errors import ModelError

HELP = "list the models under engines/ and the built-in one"


@dataclass(frozen=True)
class ListedModel:
    """One model of the repository."""

    name: str
    folder: str
    task: str | None = None
    decoder: str | None = None
    labels: int | None = None
    size_mb: float | None = None  # of its engine file, its ONNX file and the external data of that, 10⁶ bytes
    problem: str | None = None  # why it cannot be used


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--families", action="store_true", help="list the families whose outputs are read instead")


def run(options: argparse.Namespace) -> int:
    """Print the repository, or the table of families."""
    if options.families:
        return _print_families(as_json=options.json)
    models = listed_models()
    if options.json:
        print(json.dumps([asdict(model) for model in models]))
        return 0
    from rich.text import Text

    from edge.core.console import output_console, print_table

    rows = []
    for model in models:
        cells = [model.task, model.decoder, model.labels, model.size_mb]
        texts = ["-" if cell is None else str(cell) for cell in cells]
        where = Text(model.problem, "red") if model.problem else _shown_place(Path(model.folder))
        rows.append([model.name, *texts, where])
    console = output_console()
    print_table(console, ("model", "task", "decoder", "labels", "MB", "where"), rows)
    console.print(_searched_places(), soft_wrap=True)
    return 0


def _print_families(*, as_json: bool) -> int:
    from edge.core.console import output_console, print_table
    from edge.inference.decode.families import ALIASES, FAMILIES

    names = {name: [alias for alias, own in ALIASES.items() if own == name] for name in FAMILIES}
    if as_json:
        rows = [{"decoder": name, "also": also, **asdict(FAMILIES[name])} for name, also in names.items()]
        print(json.dumps(rows))
        return 0
    cells = [[name, ", ".join(also), FAMILIES[name].models, FAMILIES[name].export] for name, also in names.items()]
    print_table(output_console(), ("decoder", "also", "models", "exported by"), cells)
    return 0


def _shown_place(folder: Path) -> str:
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else "built in"


def _searched_places() -> str:
    """Say which folders were looked in, and what is in them."""
    here = Path("engines").resolve()
    if not here.is_dir():
        found = "does not exist: `edge engines add FILE.onnx` makes it"
    else:
        count = len(list(here.glob("*/model.toml")))
        found = f"{count or 'no'} model{'' if count == 1 else 's'}"
    return f"looked in {here} ({found}) and among the built-in models"


def listed_models() -> list[ListedModel]:
    """Return the models under `engines/` here and those that ship with the package."""
    from edge.core.manifest import built_in_models

    here = sorted(path.parent for path in Path("engines").glob("*/model.toml"))
    return [_listed(folder) for folder in dict.fromkeys(each.resolve() for each in here + built_in_models())]


def _listed(folder: Path) -> ListedModel:
    from edge.core.manifest import read_labels, read_manifest
    from edge.core.onnx_file import OnnxFile

    try:
        manifest = read_manifest(folder)
        labels = len(read_labels(folder, manifest))
        named = [folder / name for name in (manifest.engine, manifest.onnx) if name]
        problem = next((f"{path} does not exist" for path in named if not path.is_file()), None)
        external = [] if problem or not manifest.onnx else OnnxFile(folder / manifest.onnx).external_paths()
        files = [] if problem else [*named, *external]
    except ModelError as error:
        return ListedModel(folder.name, str(folder), problem=str(error))
    size_mb = None if problem else round(sum(path.stat().st_size for path in files) / 1e6, 2)
    return ListedModel(folder.name, str(folder), manifest.task, manifest.output.decoder, labels, size_mb, problem)
