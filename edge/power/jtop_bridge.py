"""The one process that loads jtop (jetson-stats, AGPL-3.0): JSON lines in, JSON lines out, nothing else of `edge`.

A line in is {"verb": "get"} or {"verb": "set", "mode": NAME}. A line out is {"mode", "id", "modes"}, after setting as
read back, or {"error": KIND, "reason": TEXT}, where KIND is "missing" (no jetson-stats here), "absent" (no service),
"forbidden", "mismatch" (of versions), "unknown" (mode), "gaps" (in the board's mode ids), "refused" or "failed".
The end of the input ends the process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

# jtop waits without end for a service that hangs: each request has this long, then the kernel ends the process.
REQUEST_S = 40
SAMPLE_S = 0.5  # between two samples, where nobody else has set another interval
# jtop switches jetson_clocks off and on again around a change, and tells a refusal by changing nothing.
SETTLED_SAMPLES = 4
SETTLED_S = 2.0
CHANGE_S = 30.0

# jtop has one exception for everything: (part of its text, our kind).
KINDS = (
    ("can't access", "forbidden"),
    ("not active", "absent"),
    ("Mismatch", "mismatch"),
    ("Authentication", "mismatch"),
)

Reply = dict[str, Any]


class BridgeError(Exception):
    """Why a request has no answer."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def main() -> None:
    """Answer the lines of standard input until it ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what jtop and its programs print must not come between the replies
    board: Any = None
    for line in sys.stdin:
        signal.alarm(REQUEST_S)
        try:
            request = json.loads(line)
            board = board or _connect()
            reply = _answer(board, request)
        except BridgeError as error:
            reply = {"error": error.kind, "reason": str(error)}
        # Whatever jtop raises, the other side is to hear of it.
        except Exception as error:  # noqa: BLE001
            reply = {"error": _kind(error), "reason": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
        signal.alarm(0)
    os._exit(0)  # jtop's own end waits for a thread that looks for OpenCV and CUDA


def _connect() -> Any:
    try:
        from jtop import jtop  # noqa: PLC0415 -- its absence is an answer like others
    except ImportError as error:
        raise BridgeError("missing", str(error)) from None
    board = jtop(interval=SAMPLE_S)
    board.start()
    if board.nvpmodel is None:
        raise BridgeError("failed", "jtop's service found no nvpmodel on this machine")
    return board


def _answer(board: Any, request: dict[str, Any]) -> Reply:
    _await_sample(board)
    if request["verb"] == "set":
        _set(board, request["mode"])
    elif request["verb"] != "get":
        raise BridgeError("failed", f"found verb {request['verb']!r}, wanted get or set")
    return _state(board)


def _state(board: Any) -> Reply:
    return {"mode": board.nvpmodel.name, "id": board.nvpmodel.id, "modes": list(board.nvpmodel.models)}


def _set(board: Any, mode: str) -> None:
    """Set a mode, and read back until it is there or jtop has plainly left it."""
    modes, current = list(board.nvpmodel.models), board.nvpmodel.name
    if mode not in modes:
        raise BridgeError("unknown", f"found {mode!r}, wanted one of {', '.join(modes)}")
    if mode == current:
        return
    place = board.nvpmodel.id
    # jtop sends the place of a name in its list as the id; where ids have gaps, that is another mode.
    if place >= len(modes) or modes[place] != current:
        raise BridgeError("gaps", f"mode {current} has id {place}, and is not at that place of jtop's list")
    masks_equal = board.nvpmodel.status
    board.nvpmodel.set_nvpmodel_name(mode)
    if not _await_mode(board, mode):
        needs_reboot = not masks_equal[modes.index(mode)]
        cause = "it needs a reboot, as its power gating is another" if needs_reboot else "it told no reason"
        raise BridgeError("refused", f"mode is still {board.nvpmodel.name}; {cause}")


def _await_mode(board: Any, mode: str) -> bool:
    """Tell whether the mode came; False once enough new samples show another one and no change goes on."""
    start_s = time.monotonic()
    samples = 0
    while (spent_s := time.monotonic() - start_s) < CHANGE_S:
        _await_sample(board)
        if board.nvpmodel.name == mode and not board.nvpmodel.is_running():
            return True
        samples = 0 if board.nvpmodel.is_running() else samples + 1
        if samples >= SETTLED_SAMPLES and spent_s >= SETTLED_S:
            return False
    return False


def _await_sample(board: Any) -> None:
    if not board.ok():
        raise BridgeError("failed", "jtop's service sends no samples")


def _kind(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "forbidden"
    return next((kind for text, kind in KINDS if text in str(error)), "failed")


if __name__ == "__main__":
    main()
