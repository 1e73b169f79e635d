"""Builder process, `python -m edge.inference.backends.tensorrt.build_worker`: one request, one plan.

The request is a line of JSON on standard input; progress and the answer are lines of JSON on standard output. Standard
input stays open while the plan is wanted: when it closes, or on SIGTERM, the build is cancelled. `build_process.py` is
the other end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from time import sleep
from typing import Any

import psutil

from edge.core.errors import EdgeError
from edge.inference.backends.tensorrt.build_progress import Reporter
from edge.inference.backends.tensorrt.build_protocol import CANCELLED_EXIT_CODE, FAILURES, BuildRequest
from edge.inference.backends.tensorrt.builder import build

_GRACE_S = 2.0  # from a cancellation to the exit, wherever the library is then


def main() -> int:
    """Serve one request."""
    with _answers() as write:
        request = BuildRequest.from_json(sys.stdin.buffer.readline())
        logging.basicConfig(level=request.log_level, stream=sys.stderr, format="%(levelname)s %(message)s")
        _lower_priority()
        reporter = Reporter(write)
        _watch_parent(reporter)
        answer = _answer(request, reporter)
        with contextlib.suppress(OSError):  # the parent is gone
            write(answer)
    return 0


def _answer(request: BuildRequest, reporter: Reporter) -> dict[str, Any]:
    try:
        return {"plan": str(request.plan), "facts": asdict(build(request, reporter))}
    except EdgeError as error:
        kinds = [kind for kind, error_type in FAILURES.items() if isinstance(error, error_type)]
        return {"error": str(error), "kind": kinds[0]}
    except MemoryError:
        return {"error": f"model {request.onnx.name}: the builder ran out of memory", "kind": "memory"}
    except Exception as error:  # noqa: BLE001 -- top of the process; the traceback goes to its log
        traceback.print_exc()
        return {"error": f"model {request.onnx.name}: {type(error).__name__}: {error}", "kind": "failed"}


@contextlib.contextmanager
def _answers() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Reserve standard output for our lines: what libraries print there goes to standard error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as pipe:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def write(line: Mapping[str, Any]) -> None:
            pipe.write(json.dumps(line).encode() + b"\n")

        yield write


def _lower_priority() -> None:
    """Yield CPU and I/O to other processes, and be the first to be killed for memory: the daemon must survive."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)  # whatever the daemon's own
    with contextlib.suppress(OSError, AttributeError, psutil.Error):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _watch_parent(reporter: Reporter) -> None:
    """Cancel the build when standard input closes or SIGTERM arrives, and exit after the grace time regardless."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # The interpreter runs a handler only once the library returns; this descriptor is written at once.
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def watch() -> None:
        select.select([sys.stdin, reader], [], [])  # nothing more is sent, so readable means closed
        reporter.cancelled = True
        sleep(_GRACE_S)
        os._exit(CANCELLED_EXIT_CODE)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
