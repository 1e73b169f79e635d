"""Trial of a drafted model: it is opened and run as `edge detect` does."""

from __future__ import annotations

from pathlib import Path

from edge.cli.frame_writer import opened_writer
from edge.core.config import EnginesSettings, ModelSettings
from edge.core.records import Image
from edge.core.state_dir import find_state_dir
from edge.host.board import board_name
from edge.inference.engine_provider import EngineEnvironment
from edge.inference.proof.pictures import built_in_picture
from edge.pipeline.annotate import draw
from edge.pipeline.served_model import ServedModel


def try_model(folder: Path, name: str, shown: Image | None, save: Path | None, state_dir: Path | None) -> None:
    """Run a model on a picture, and write it with what is found; raise EdgeError where the model cannot be served."""
    settings = ModelSettings.model_validate({"path": str(folder), "max_batch": 1, "lanes": 1})
    environment = EngineEnvironment(find_state_dir(state_dir), board_name(), EnginesSettings())
    model = ServedModel(name, settings, environment)
    picture = built_in_picture(*model.predictor.input_px) if shown is None else shown.copy()
    try:
        with model.predictor.session(is_guarded=True) as session:
            session.warm_up()
            findings = session.predict(picture)
    finally:
        model.close()
    with opened_writer(save) as write:
        write(draw(picture, findings, model.labels), 0.0)
