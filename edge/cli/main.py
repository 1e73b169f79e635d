"""The command `edge`: parse, call one function, return its exit code."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge import __version__
from edge.core.errors import EdgeError
from edge.host.journal import journal_handler, stderr_is_journal

# The exit code of a shell command that Ctrl-C ended.
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a failure is one sentence on standard error."""
    options = _parser().parse_args(arguments)
    level = options.log_level or ("info" if options.command is _run else "warning")
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(message)s" if sys.stderr.isatty() else "%(levelname)s %(message)s",
        handlers=[journal_handler() or logging.StreamHandler()],
    )
    try:
        return int(options.command(options))
    except EdgeError as error:
        _tell(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a defect of ours: still no traceback for users
        logging.getLogger(__name__).debug("unexpected failure", exc_info=True)
        _tell(f"unexpected failure ({type(error).__name__}: {error}); see --log-level debug, and report it")
        return 1


def _tell(failure: str) -> None:
    """Tell a failure on standard error; in the journal as an error, where a line would be mere information."""
    if stderr_is_journal():
        logging.getLogger(__name__).error(failure)
    else:
        print(f"edge: {failure}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON on standard output")
    common.add_argument("--state-dir", type=Path, help="where this device keeps its state")
    levels = ("debug", "info", "warning", "error")
    common.add_argument("--log-level", choices=levels, help="default: info for run, else warning")
    parser = argparse.ArgumentParser(prog="edge", description="Inference runtime for NVIDIA Jetson boards.")
    parser.add_argument("--version", action="version", version=f"edge {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[Any], int], text: str, under: Any = commands) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = under.add_parser(name, parents=[common], help=text, description=text)
        added.set_defaults(command=command)
        return added

    demo = add("demo", _demo, "run the built-in scene and model with an embedded broker; nothing to configure")
    demo.add_argument("--seconds", type=_seconds, default=20.0, help="how long it runs (default: 20)")
    run = add("run", _run, "run the daemon; it ends by itself when every source has ended")
    run.add_argument("config", type=Path, help="the TOML file that names streams, models and broker")
    run.add_argument(
        "--force", action="store_true", help="serve INT8 without the proof that it agrees (an alarm says so)"
    )
    check = add("check", _check, "tell what works here, what does not, and what to do")
    check.add_argument("config", type=Path, nargs="?", help="look at this configuration's streams, models and broker")
    check.add_argument("--config-only", action="store_true", help="look at files only: no camera, broker or board")
    _add_detect(add("detect", _detect, "run one model on one picture, video or camera; prints JSON lines"))
    engines = commands.add_parser("engines", help="the model repository", description="The model repository.")
    under = engines.add_subparsers(required=True, metavar="COMMAND")
    add("list", _engines_list, "show the models under engines/ and the built-in one", under)
    draft = add("add", _engines_add, "draft a model.toml for an ONNX file", under)
    draft.add_argument("onnx", type=Path, help="the ONNX file; it is copied beside the model.toml")
    draft.add_argument("--name", help="the model's name (default: the file's)")
    draft.add_argument("--labels", type=Path, help="a text file, one label a line; copied likewise")
    _add_precision(add("build", _engines_build, "build a model's TensorRT engine for this machine", under))
    inspect = add("inspect", _engines_inspect, "show a model's tensors, and its layers before and after fusion", under)
    _add_precision(inspect)
    _add_verify(add("verify", _engines_verify, "hold a model's INT8 or FP16 form against FP32, here", under))
    _add_quantize(add("quantize", _engines_quantize, "make a model's INT8 forms, judged against FP32", under))
    power = commands.add_parser("power", help="the board's power modes", description="The board's power modes.")
    under_power = power.add_subparsers(required=True, metavar="COMMAND")
    add("show", _power_show, "show the modes, their caps, and what max-q and max-p mean here", under_power)
    _add_power_set(add("set", _power_set, "set a power mode", under_power))
    watch = add("watch", _power_watch, "show what each power rail takes, live", under_power)
    watch.add_argument("--interval", type=float, default=1.0, help="seconds of which the mean is shown (default: 1)")
    watch.add_argument("--seconds", type=float, default=0.0, help="how long (default: 0, until Ctrl-C)")
    _add_tune(add("tune", _tune, "find lanes, batch, precision and power mode for a latency target; writes them down"))
    _add_bench(add("bench", _bench, "measure models: images/s, latency, watts, by batch, precision and power mode"))
    schema = add("schema", _schema, "print the JSON Schema of a message")
    schema.add_argument(
        "name", metavar="NAME", help="result, telemetry, status, stream-status, alarm, governor, command, ack or counts"
    )
    return parser


def _add_detect(detect: argparse.ArgumentParser) -> None:
    detect.add_argument("model", help="a folder with model.toml, or a name under engines/")
    detect.add_argument("input", help="a picture, a folder of pictures, a video, or a camera's URL")
    detect.add_argument("--save", type=Path, metavar="OUT", help="write a picture or video with boxes")
    detect.add_argument("--frames", type=int, default=0, help="stop after this many frames")
    detect.add_argument("--score", type=float, help="least score (default: the model's)")


def _add_precision(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="a folder with model.toml, or a name under engines/")
    command.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp16", help="default: fp16")
    command.add_argument("--max-batch", type=int, default=4, help="the largest batch (default: 4)")
    command.add_argument("--device", choices=("gpu", "dla0", "dla1"), default="gpu", help="default: gpu")


def _add_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("model", help="a folder with model.toml, or a name under engines/")
    verify.add_argument("--precision", choices=("int8", "fp16"), required=True, help="the form to be verified")
    verify.add_argument(
        "--against", choices=("fp32", "fp16"), default="fp32", help="taken as the truth (default: fp32)"
    )
    verify.add_argument("--frames", metavar="PATH|SOURCE", help="a video, a folder of pictures, or a camera's URL")
    verify.add_argument("--count", type=int, help="how many of them (default: 64; with --truth, all that are labelled)")
    verify.add_argument("--truth", type=Path, metavar="COCO.json|FOLDER", help="labels: also tells mAP, or top-1")
    verify.add_argument("--report", type=Path, metavar="OUT.html", help="write figures and the worst frames, drawn")


def _add_quantize(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="a folder with model.toml, or a name under engines/")
    source = "a video, a folder, a picture or a camera's URL: what the model is to see"
    command.add_argument("--calibration", required=True, metavar="PATH|SOURCE", help=source)
    command.add_argument(
        "--frames", type=int, default=192, help="half of them are held back to judge by (default: 192)"
    )
    methods = ("auto", "percentile", "entropy", "minmax", "mse")
    command.add_argument(
        "--method", choices=methods, default="auto", help="default: auto, for each tensor percentile or mse"
    )
    command.add_argument("--tolerance", type=float, default=0.95, help="least F1 against FP32 (default: 0.95)")


def _add_power_set(command: argparse.ArgumentParser) -> None:
    command.add_argument("mode", metavar="MODE", help="max-q, max-p, keep, or a mode's name or id")
    command.add_argument("--allow-reboot", action="store_true", help="reboot at once where the mode needs that")


def _add_tune(tune: argparse.ArgumentParser) -> None:
    tune.add_argument("config", type=Path, help="the TOML file whose streams are the load")
    tune.add_argument("--model", metavar="NAME", help="the model to tune, where streams use several")
    tune.add_argument("--target-p99-ms", type=_positive, metavar="MS", help="capture to result (default: no bound)")
    tune.add_argument("--seconds", type=_seconds, default=20.0, help="measured of each setting (default: 20)")
    modes = "of the board (default: all that need no reboot)"
    tune.add_argument("--power-modes", type=_names(), default=(), metavar="NAME,…", help=modes)
    devices = _names("gpu", "dla0", "dla1", "cpu")
    tune.add_argument(
        "--devices", type=devices, default=(), metavar="NAME,…", help="gpu, dla0, dla1, cpu (default: as configured)"
    )
    precisions = _names("fp32", "fp16", "int8")
    tune.add_argument("--precisions", type=precisions, default=(), metavar="NAME,…", help="fp32, fp16, int8")
    tune.add_argument("--batches", type=_counts(1024), default=(), metavar="N,…", help="largest batches (1,2,4,8)")
    tune.add_argument("--lanes", type=_counts(256), default=(), metavar="N,…", help="default: as fits the device")
    tune.add_argument("--saturate", action="store_true", help="let files and synthetic sources give all that is taken")
    tune.add_argument("--allow-reboot", action="store_true", help="reboot for modes that need it; start again to go on")
    tune.add_argument("--fresh", action="store_true", help="forget what an earlier run has measured")
    tune.add_argument("--plot", type=Path, metavar="FILE.png|.svg", help="draw what was measured (needs matplotlib)")


def _add_bench(bench: argparse.ArgumentParser) -> None:
    what = "a folder with model.toml or a name under engines/, a published network's name, or a configuration"
    bench.add_argument("what", nargs="+", metavar="MODEL|CONFIG|NETWORK", help=what)
    bench.add_argument("--model", metavar="NAME", help="of a configuration whose streams use several")
    scenarios = ("single-stream", "multi-stream", "server", "offline")
    bench.add_argument(
        "--scenario",
        type=_names(*scenarios),
        default=scenarios[:1],
        help=f"{', '.join(scenarios)} (default: the first)",
    )
    bench.add_argument("--batch", type=_counts(1024), default=(1,), metavar="N,…", help="default: 1")
    precisions = _names("fp32", "fp16", "int8")
    bench.add_argument(
        "--precision", type=precisions, default=("fp32",), metavar="NAME,…", help="fp32, fp16, int8 (default: fp32)"
    )
    modes = "max-q, max-p, names of the board's modes, or all (default: the mode it is in)"
    bench.add_argument("--power-mode", type=_names(), default=(), metavar="NAME,…", help=modes)
    bench.add_argument("--lanes", type=_counts(256), default=(None,), metavar="N,…", help="default: as serves")
    long = bench.add_mutually_exclusive_group()
    long.add_argument("--duration", type=_positive, metavar="S", help="of each row (default: 10; with --quick, 1)")
    long.add_argument("--frames", type=_count, metavar="N", help="images of each row, instead of a time")
    bench.add_argument("--quick", action="store_true", help="short rows, and no wait for a steady temperature")
    target = "with server: found is the highest rate that meets it; else the best row within it is marked"
    bench.add_argument("--target-p99-ms", type=_positive, metavar="MS", help=target)
    bench.add_argument("--engine-only", action="store_true", help="the engine alone, on random input in its buffers")
    bench.add_argument("--speedup", action="store_true", help="tell precisions relative to FP32 at the same batch")
    fusion = "tell the layers before and after fusion, and nothing else"
    bench.add_argument("--fusion", action="store_true", help=fusion)
    accuracy = "add the accuracy that edge engines verify recorded: the four aspects in one table"
    bench.add_argument("--accuracy", action="store_true", help=accuracy)
    published = "set published rows beside ours"
    bench.add_argument("--compare", choices=("published",), help=published)
    board = "whose published rows: tx1, tx2, … (default: this board); --power-mode then names that board's mode"
    bench.add_argument("--board", metavar="NAME", help=board)
    earlier = "what --json wrote before: tells better, same or worse, and exits 4 where it is worse"
    bench.add_argument("--baseline", type=Path, metavar="FILE", help=earlier)
    bench.add_argument("--tolerance", type=float, default=0.05, metavar="SHARE", help="of a change (default: 0.05)")
    bench.add_argument("--plot", type=Path, metavar="OUT.png|.svg", help="draw latency and efficiency")
    bench.add_argument(
        "--html", type=Path, metavar="OUT.html", help="write a page with drawings, tables and raw figures"
    )
    forms = bench.add_mutually_exclusive_group()
    forms.add_argument("--csv", action="store_true", help="print CSV on standard output")
    forms.add_argument("--markdown", action="store_true", help="print Markdown on standard output")


def _names(*known: str) -> Callable[[str], tuple[str, ...]]:
    """Take names between commas; some of `known`, where there are any, in upper or lower case."""

    def names(text: str) -> tuple[str, ...]:
        parts = (part.strip() for part in text.split(","))
        found = tuple(dict.fromkeys(part.casefold() if known else part for part in parts))
        if "" in found or (known and not set(found) <= set(known)):
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted {', '.join(known) or 'names'} between commas")
        return found

    return names


def _counts(most: int) -> Callable[[str], tuple[int, ...]]:
    """Take whole numbers from 1 between commas."""

    def counts(text: str) -> tuple[int, ...]:
        parts = text.split(",")
        if not all(part.strip().isdecimal() and 1 <= int(part) <= most for part in parts):
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted numbers from 1 to {most} between commas")
        return tuple(sorted({int(part) for part in parts}))

    return counts


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number from 1")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a number above 0")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:  # noqa: PLR2004 -- a day
        raise argparse.ArgumentTypeError(f"found {text}, wanted 1 to 86400 seconds")
    return seconds


def _demo(options: Any) -> int:
    from edge.cli import demo

    return demo.run(options.seconds, as_json=options.json)


def _run(options: Any) -> int:
    from edge.daemon import daemon

    code, summary = daemon.run(options.config, options.state_dir, force=options.force)
    if options.json:
        print(json.dumps(summary))
    return code


def _check(options: Any) -> int:
    from edge.cli import check

    return check.run(options.config, options.state_dir, config_only=options.config_only, as_json=options.json)


def _detect(options: Any) -> int:
    from edge.cli import detect

    return detect.run(options.model, options.input, options.save, options.frames, options.score, options.state_dir)


def _engines_list(options: Any) -> int:
    from edge.cli.engines import repository

    return repository.show(as_json=options.json)


def _engines_add(options: Any) -> int:
    from edge.cli.engines import repository

    return repository.add(options.onnx, options.name, options.labels, as_json=options.json)


def _engines_build(options: Any) -> int:
    from edge.cli.engines import build

    return build.run(
        options.model,
        precision=options.precision,
        max_batch=options.max_batch,
        device=options.device,
        state_dir=options.state_dir,
        as_json=options.json,
    )


def _engines_inspect(options: Any) -> int:
    from edge.cli.engines import inspect_engine as inspect

    return inspect.run(
        options.model,
        precision=options.precision,
        max_batch=options.max_batch,
        device=options.device,
        state_dir=options.state_dir,
        as_json=options.json,
    )


def _engines_verify(options: Any) -> int:
    from edge.cli.engines import verify

    return verify.run(
        options.model,
        precision=options.precision,
        against=options.against,
        frames=options.frames,
        count=options.count,
        truth=options.truth,
        report=options.report,
        state_dir=options.state_dir,
        as_json=options.json,
    )


def _engines_quantize(options: Any) -> int:
    from edge.cli.engines import quantize

    return quantize.run(
        options.model,
        calibration=options.calibration,
        frames=options.frames,
        method=options.method,
        tolerance=options.tolerance,
        state_dir=options.state_dir,
        as_json=options.json,
    )


def _power_show(options: Any) -> int:
    from edge.cli import power

    return power.show(as_json=options.json, measured=power.measured_here(options.state_dir))


def _power_set(options: Any) -> int:
    from edge.cli import power
    from edge.power.jtop import JtopClient

    return power.change(
        options.mode,
        allow_reboot=options.allow_reboot,
        as_json=options.json,
        measured=power.measured_here(options.state_dir),
        jtop=JtopClient(),
    )


def _power_watch(options: Any) -> int:
    from edge.cli import power_watch

    return power_watch.run(interval_s=options.interval, seconds=options.seconds, as_json=options.json)


def _tune(options: Any) -> int:
    from edge.cli import tune
    from edge.perf.tune import plan as wish

    wanted = wish.TunePlan(
        config=options.config,
        model=options.model,
        target_p99_ms=options.target_p99_ms,
        seconds=options.seconds,
        power_modes=options.power_modes,
        devices=options.devices,
        precisions=options.precisions,
        batches=options.batches,
        lanes=options.lanes,
        saturate=options.saturate,
        allow_reboot=options.allow_reboot,
        fresh=options.fresh,
        plot=options.plot,
        state_dir=options.state_dir,
    )
    return tune.run(wanted, as_json=options.json)


def _bench(options: Any) -> int:
    from edge.cli import bench
    from edge.perf.bench import plan as wish
    from edge.perf.bench import report
    from edge.perf.bench import report_sections as beside

    asked = beside.ReportOptions(
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
    wanted = wish.BenchPlan(
        what=tuple(part for text in options.what for part in text.split(",") if part),
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
    if options.fusion:
        return bench.tell_fusion(wanted, as_json=options.json)
    form: report.Form = next((form for form in report.FORMS if getattr(options, form, False)), "table")
    return bench.run(wanted, form, asked)


def _schema(options: Any) -> int:
    from edge.mqtt import schemas

    print(schemas.read(options.name), end="")
    return 0
