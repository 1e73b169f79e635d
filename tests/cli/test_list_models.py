"""`edge engines list`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.cli.main import main
from tests.support.project import ROOT


def test_list_tells_what_is_wrong_with_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("engines/broken").mkdir(parents=True)
    Path("engines/broken/model.toml").write_text("task = 1", encoding="utf-8")
    assert main(["engines", "list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert "task" in listed["broken"]["problem"]


def test_list_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["engines", "list"]) == 0
    assert f"looked in {tmp_path}/engines (does not exist: `edge engines add FILE.onnx` makes it)" in (
        capsys.readouterr().out
    )
    Path("engines/broken").mkdir(parents=True)
    Path("engines/broken/model.toml").write_text("task = 1", encoding="utf-8")
    assert main(["engines", "list"]) == 0
    assert f"looked in {tmp_path}/engines (1 model) and among the built-in models\n" in capsys.readouterr().out


def test_families_are_listed_and_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "list", "--families", "--json"]) == 0
    listed = {each["decoder"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["yolov8"]["reading"]["boxes"] == "cxcywh"
    assert "yolo11" in listed["yolov8"]["also"]
    table = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for name, each in listed.items():
        parts = "; ".join(", ".join(part) for part in each["reading"]["outputs"])
        also = ", ".join(f"`{alias}`" for alias in each["also"])
        assert f"| `{name}` | {also} | {each['models']} | {parts} | {each['export']} |" in table
    assert main(["engines", "list", "--families"]) == 0
    assert "RF-DETR" in capsys.readouterr().out
