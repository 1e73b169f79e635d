"""`edge` as a process: exit codes, one sentence an error, quick starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("cv2", "numpy", "onnxruntime", "paho", "rich", "pydantic", "amqtt", "psutil")


def edge(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge", *arguments], capture_output=True, text=True, check=False, cwd=cwd, timeout=60
    )


def refusal(*arguments: str, cwd: Path | None = None) -> str:
    """Run a command that is used wrongly; return its one sentence."""
    done = edge(*arguments, cwd=cwd)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("edge: ")
    return done.stderr


def test_an_unknown_schema_is_one_sentence() -> None:
    assert "schema 'resullt' does not exist; wanted one of result, " in refusal("schema", "resullt")


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_missing_configuration_is_one_sentence(command: str, tmp_path: Path) -> None:
    told = refusal(command, "none.toml", cwd=tmp_path)
    assert "none.toml cannot be read (No such file or directory); wanted a readable TOML file" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[devise]\n", "devise: unknown key; did you mean 'device'?"),
        ("[telemetry]\nperiod_s = 'often'\n", "[telemetry] period_s: found 'often', wanted a number"),
        ("[streams.a]\n[streams.a]\n", "is not valid TOML"),
        ("[streams.a]\nsource = 'synthetic://conveyor'\nmodel = 'm'\n", "[streams.a] model: found 'm', wanted one of"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(text, encoding="utf-8")
    assert told in refusal("run", "edge.toml", cwd=tmp_path)


def test_a_model_without_its_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text('task = "detect"\nonnx = "m.onnx"\n[output]\ndecoder = "yolox"\n', "utf-8")
    (tmp_path / "edge.toml").write_text('[models.m]\npath = "."\n', encoding="utf-8")
    told = refusal("check", "edge.toml", "--config-only", cwd=tmp_path)
    assert "m.onnx" in told
    assert "does not exist; wanted the ONNX file that model.toml names" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("no-such-model", "synthetic://conveyor"),
            "model 'no-such-model' is neither a folder with a model.toml nor a name",
        ),
        (("conveyor", "none.png"), "none.png does not exist; wanted a picture, a folder, a video or a URL"),
        (("conveyor", "http://cam"), "scheme 'http' is not known"),
        (("conveyor", "in.png", "--save", "./in.png"), "--save in.png is the input itself; wanted another file"),
        (("conveyer", "in.png"), "(`edge engines list` shows those available); did you mean 'conveyor'?"),
    ],
)
def test_what_detect_cannot_use_is_one_sentence(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    (tmp_path / "in.png").touch()
    assert told in refusal("detect", *arguments, cwd=tmp_path)


def test_a_good_configuration_is_exit_code_0(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text("", encoding="utf-8")
    done = edge("check", "edge.toml", "--config-only", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["works"] is True


def test_a_reader_that_goes_away_is_no_failure() -> None:
    command = f"{sys.executable} -m edge schema telemetry | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


@pytest.mark.parametrize(
    "code", ["import edge", "import edge.cli.main", "from edge.cli.main import main; main(['--help'])"]
)
def test_a_quick_start_imports_nothing_heavy(code: str) -> None:
    program = f"""
import contextlib, io, sys
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    {code}
print(*sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
