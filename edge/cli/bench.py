"""`edge bench`: images/s, latency and watts of models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge.cli.arguments import LARGEST_BATCH, PRECISIONS, count, counts, fraction, names, positive

HELP = "measure models: images/s, latency and watts, by batch, precision and power mode"
WORSE = 4  # exit code: a row is worse than in the earlier run
_SCENARIOS = ("single-stream", "multi-stream", "server", "offline")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    _add_grid(parser)
    _add_effort(parser)
    _add_report(parser)


def _add_grid(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "folder with a model.toml, name under engines/, name of a published network, or configuration"
    add("what", nargs="+", metavar="MODEL|CONFIG|NETWORK", help=what)
    add("--model", metavar="NAME", help="model of a configuration whose streams use several")
    scenarios = f"{', '.join(_SCENARIOS)} (default: the first)"
    add("--scenario", type=names(*_SCENARIOS), default=_SCENARIOS[:1], help=scenarios)
    add("--batch", type=counts(LARGEST_BATCH), default=(1,), metavar="N,…", help="default: 1")
    precisions = f"{', '.join(PRECISIONS)} (default: fp32)"
    add("--precision", type=names(*PRECISIONS), default=("fp32",), metavar="NAME,…", help=precisions)
    modes = "max-q, max-p, names of the board's modes, or all (default: the current mode)"
    add("--power-mode", type=names(), default=(), metavar="NAME,…", help=modes)
    add("--lanes", type=counts(256), default=(None,), metavar="N,…", help="default: as in serving")


def _add_effort(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--duration", type=positive, metavar="S", help="of each row (default: 10; with --quick, 1)")
    length.add_argument("--frames", type=count, metavar="N", help="images of each row, instead of a duration")
    add = parser.add_argument
    add("--quick", action="store_true", help="short rows, without waiting for a steady temperature")
    target = "with server: find the highest rate that meets it; otherwise mark the best row within it"
    add("--target-p99-ms", type=positive, metavar="MS", help=target)
    add("--engine-only", action="store_true", help="the engine alone, on random input that is already in its buffers")


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--speedup", action="store_true", help="show the speed-up of each precision over FP32 at the same batch")
    add("--fusion", action="store_true", help="show the layers before and after fusion, and nothing else")
    accuracy = "add a table of throughput, efficiency, latency and the accuracy that edge engines verify recorded"
    add("--accuracy", action="store_true", help=accuracy)
    add("--compare", choices=("published",), help="show published rows beside the measured ones")
    board = "board of the published rows: tx1, tx2, … (default: this one); --power-mode then names a mode of that board"
    add("--board", metavar="NAME", help=board)
    earlier = "earlier output of --json: say which rows are better, same or worse; exit with 4 if any is worse"
    add("--baseline", type=Path, metavar="FILE", help=earlier)
    tolerance = "change that counts as the same, as a fraction (default: 0.05)"
    add("--tolerance", type=fraction, default=0.05, metavar="FRACTION", help=tolerance)
    add("--plot", type=Path, metavar="OUT.png|.svg", help="plot latency and efficiency")
    add("--html", type=Path, metavar="OUT.html", help="write a page with plots, tables and raw figures")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--csv", action="store_true", help="print CSV on standard output")
    forms.add_argument("--markdown", action="store_true", help="print Markdown on standard output")


def run(options: argparse.Namespace) -> int:
    """Measure on this board and print the report; return 4 where a row is worse than the baseline."""
    if options.fusion:
        return _run_fusion(options)
    from edge.host.sensors.sensors import Sensors
    from edge.perf.bench.plan import BenchPlan
    from edge.perf.bench.report import REPORT_FORMATS
    from edge.perf.bench.report_sections import ReportOptions, ReportSections
    from edge.perf.bench.session import bench
    from edge.power.board_power import board_power

    wanted = ReportOptions(
        published=options.compare is not None,
        board=options.board,
        board_mode=next(iter(options.power_mode), None) if options.board else None,
        speedup=options.speedup,
        accuracy=options.accuracy,
        baseline=options.baseline,
        tolerance=options.tolerance,
        plot=options.plot,
        page=options.html,
    )
    plan = BenchPlan(
        what=_subjects(options),
        model=options.model,
        scenarios=options.scenario,
        batches=options.batch,
        precisions=options.precision,
        power_modes=() if options.board else options.power_mode,
        lanes=options.lanes,
        seconds=options.duration,
        frames=options.frames,
        quick=options.quick,
        target_p99_ms=options.target_p99_ms,
        engine_only=options.engine_only,
        state_dir=options.state_dir,
    )
    sections = ReportSections(wanted)
    report = bench(plan, board_power(), Sensors())
    sections.publish(report, next((form for form in REPORT_FORMATS if getattr(options, form)), "table"))
    if report.partial:
        raise KeyboardInterrupt  # for its exit code
    return WORSE if sections.is_worse else 0


def _subjects(options: argparse.Namespace) -> tuple[str, ...]:
    return tuple(part for text in options.what for part in text.split(",") if part)


def _run_fusion(options: argparse.Namespace) -> int:
    """Print the layers of each network before and after fusion; on a GPU also the time of each layer."""
    from edge.core.console import output_console
    from edge.perf.bench.fusion import show_fusion
    from edge.perf.bench.session import count_layers

    counted = count_layers(_subjects(options), options.precision, options.state_dir)
    if options.json:
        print(json.dumps([each.to_json() for each in counted], allow_nan=False))
    else:
        for each in counted:
            show_fusion(each, output_console())
    return 0
