"""`edge inspect` of the built-in model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.cli.main import main


def look(model: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Return the JSON document; whatever is null in it has a reason, and nothing else has."""
    capsys.readouterr()
    assert main(["engines", "inspect", str(model), "--state-dir", str(model / "state"), "--json", *options]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {name for name, found in report.items() if found is None} == set(report["why"])
    return report
