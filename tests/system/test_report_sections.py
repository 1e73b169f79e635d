"""`edge bench`: what is told beside its rows, by the command itself, on a small real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.cli.main import main

QUICK = ("--engine-only", "--frames", "120", "--quick")


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Give a function that benches the built-in model; it returns the exit code, what was printed, and complaints."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["bench", "conveyor", *QUICK, "--state-dir", str(tmp_path / "state"), *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_the_four_aspects_stand_in_one_table(bench: Any) -> None:
    code, out, _ = bench("--precision", "fp32,int8", "--accuracy", "--json")
    told = json.loads(out)["accuracy"]
    assert code == 0
    assert told[0]["accuracy"] is None
    assert (told[1]["metric"], told[1]["accuracy"] > 0.95) == ("f1 to fp32", True)
    _, out, _ = bench("--precision", "fp32,int8", "--accuracy", "--markdown")
    assert "f1 to fp32 0.99" in out
    assert "edge engines verify records it" in out


def test_speed_ups_are_relative_to_fp32(bench: Any) -> None:
    code, out, _ = bench("--precision", "fp32,int8", "--speedup", "--markdown")
    assert code == 0
    assert "1.00×" in out


def test_an_earlier_run_that_was_faster_makes_it_worse_and_an_equal_one_does_not(bench: Any, tmp_path: Path) -> None:
    code, out, _ = bench("--json")
    assert code == 0
    earlier = json.loads(out)
    faster = tmp_path / "faster.json"
    for row in earlier["rows"]:
        for block in row["samples"]:
            block["latency_ms"] = [each / 20 for each in block["latency_ms"]]
            block["seconds"] /= 20
    faster.write_text(json.dumps(earlier))
    code, out, _ = bench("--json", "--baseline", faster, "--tolerance", "0.5")
    compared = json.loads(out)["baseline"]
    assert code == (4 if compared["worse"] else 0)
    assert compared["rows"][0]["verdict"] in ("worse", "unclear")
    for row in earlier["rows"]:
        for block in row["samples"]:
            block["latency_ms"] = [each * 400 for each in block["latency_ms"]]
            block["seconds"] *= 400
    slower = tmp_path / "slower.json"
    slower.write_text(json.dumps(earlier))
    code, out, _ = bench("--json", "--baseline", slower, "--tolerance", "0.5")
    assert code == 0
    assert json.loads(out)["baseline"]["rows"][0]["verdict"] in ("better", "unclear")


def test_a_plot_and_a_page_are_written(bench: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code, _, _ = bench("--batch", "1,2", "--plot", tmp_path / "plot.svg", "--html", tmp_path / "page.html")
    assert code == 0
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_fusion_is_told_of_each_precision_that_is_asked_for(bench: Any) -> None:
    code, out, _ = bench("--fusion", "--precision", "fp32,int8", "--json")
    told = json.loads(out)
    assert code == 0
    assert [(each["network"], each["precision"]) for each in told] == [("conveyor", "fp32"), ("conveyor", "int8")]
    assert all(each["onnx"]["count"] > 0 for each in told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--board", "tx2"], "--board: only --compare published takes a board"),
        (["--compare", "published"], "nothing was published for board"),
        (["--plot", "plot.pdf"], "found suffix '.pdf'"),
        (["--html", "nowhere/page.html"], "folder nowhere does not exist"),
        (["--baseline", "nothing.json"], "--baseline nothing.json cannot be read"),
        (["--tolerance", "1"], "--tolerance 1: wanted a fraction"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_is_measured(
    bench: Any, arguments: list[str], told: str
) -> None:
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    assert told in err
