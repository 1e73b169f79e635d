"""The command line as a user meets it: exit codes, one sentence for each failure, and a quick start."""

from __future__ import annotations

import json

import pytest

from edge import __version__
from edge.cli.main import main


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"edge {__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        *("demo", "run", "check", "detect", "tune", "bench", "schema", "engines", "power", ""),
        *("engines list", "engines add", "engines build", "engines inspect", "engines verify", "engines quantize"),
        *("power show", "power set", "power watch"),
    ],
)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([*command.split(), "--help"])
    assert raised.value.code == 0
    assert f"usage: edge {command}".strip() in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "a.toml", "--fast"],
        ["run", "a.toml", "--log-level", "loud"],
        ["engines"],
        ["demo", "--seconds", "0"],
        ["demo", "--seconds", "soon"],
        ["demo", "--seconds", "nan"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: edge" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["result", "telemetry", "status", "stream-status"])
def test_a_schema_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", name]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == name
