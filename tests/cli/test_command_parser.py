"""The command line's own checks: whole names, limits in a sentence, and a suggestion for what was misspelt."""

from __future__ import annotations

import pytest

from edge.cli.main import main


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that is used wrongly; return the last line of its error."""
    with pytest.raises(SystemExit) as raised:
        main(arguments.split())
    assert raised.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: edge")
    return printed.err.splitlines()[-1]


@pytest.mark.parametrize(("group", "names"), [("", ("demo", "detect", "schema")), ("engines", ("list", "quantize"))])
def test_a_group_alone_shows_its_commands(
    group: str, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(group.split())
    assert raised.value.code == 2
    shown = capsys.readouterr().err
    assert f"usage: edge {group}".strip() in shown
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("    ")]
    assert set(names) <= set(listed)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("chek", "'check'"),
        ("enignes list", "'engines'"),
        ("engines lst", "'list'"),
        ("list", "'engines list'"),
        ("quantise conveyor", "'engines quantize'"),
        ("watch", "'power watch'"),
        ("run a.toml --log-levle info", "'--log-level'"),
        ("run a.toml --log-level inf", "'info'"),
        ("run a.toml --statedir x", "'--state-dir'"),
        ("detect m i --sav out.jpg", "'--save'"),
        ("engines quantize m --calibraton x", "'--calibration'"),
        ("engines quantize m --calibration x --method entrpy", "'entropy'"),
        ("bench conveyor --precision fp32,int9", "'int8'"),
        ("bench conveyor --scenario of-line", "'offline'"),
        ("tune a.toml --devices gpuu", "'gpu'"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(
    arguments: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(arguments, capsys).endswith(f"; did you mean {meant}?")


@pytest.mark.parametrize(
    "arguments", ["detect m i --sc 0.4", "check --config", "bench m --power all", "engines build m --prec=fp16"]
)
def test_an_abbreviated_option_is_unknown(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ": unknown option --" in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--json engines list", "unknown option --json; options of a command come after its name"),
        ("schema result telemetry", "found 'telemetry', which this command does not take"),
        ("detect m i --score 80", "--score: found '80', wanted 0 to 1; for 80 % give 0.8"),
        ("detect m i --score -1", "--score: found '-1', wanted 0 to 1"),
        ("detect m i --score nan", "--score: found 'nan', wanted 0 to 1"),
        ("detect m i --score high", "--score: found 'high', wanted 0 to 1"),
        ("detect m i --frames -1", "--frames: found '-1', wanted a whole number from 0 (all)"),
        ("detect m i --frames 1.5", "--frames: found '1.5', wanted a whole number from 0 (all)"),
        ("engines build m --max-batch x", "--max-batch: found 'x', wanted a whole number from 1 to 1024"),
        ("engines build m --max-batch 0", "--max-batch: found '0', wanted a whole number from 1 to 1024"),
        ("engines inspect m --max-batch 1025", "--max-batch: found '1025', wanted a whole number from 1 to 1024"),
        ("engines verify m --precision int8 --count 0", "--count: found '0', wanted a whole number from 1 to 100000"),
        ("engines quantize m --calibration x --frames 0", "--frames: found '0', wanted a whole number from 1 to 512"),
        ("engines quantize m --calibration x --tolerance 1.5", "found '1.5', wanted 0 to 1; for 1.5 % give 0.015"),
        ("engines quantize m --calibration x --tolerance 0", "--tolerance: found '0', wanted more than 0, up to 1"),
        ("bench m --frames 0", "--frames: found '0', wanted a whole number from 1"),
        ("bench m --tolerance 5", "--tolerance: found '5', wanted 0 to 1; for 5 % give 0.05"),
        ("demo --seconds soon", "--seconds: found 'soon', wanted 1 to 86400 seconds"),
        ("power watch --seconds nan", "--seconds: found 'nan', wanted seconds from 0 (until Ctrl-C)"),
        ("power watch --seconds -1", "--seconds: found '-1', wanted seconds from 0 (until Ctrl-C)"),
        ("power watch --interval 0", "--interval: found '0', wanted 0.1 to 3600 seconds"),
    ],
)
def test_a_value_beyond_its_limits_is_refused_with_them(
    arguments: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(arguments, capsys).endswith(told)
