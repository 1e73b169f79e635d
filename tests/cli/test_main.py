"""The command line as a user meets it: exit codes, one sentence for each failure, and a quick start."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    "arguments",
    [
        ["detect", "conveyor", "{}/closed/in.png"],
        ["detect", "conveyor", "synthetic://conveyor", "--frames", "1", "--save", "{}/closed/inner/out.png"],
        ["engines", "add", "{}/closed/net.onnx"],
    ],
)
def test_a_path_that_the_system_refuses_is_a_sentence(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Emulated, as root is refused nothing."""
    stat = os.stat

    def refused(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if "closed" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refused)
    code = main([*(each.format(tmp_path) for each in arguments), "--state-dir", str(tmp_path / "state")])
    told = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert f"{tmp_path}/closed" in told
    assert "(Permission denied); check its permissions and those of its folders" in told
