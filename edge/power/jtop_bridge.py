"""Bridge to jtop (jetson-stats, AGPL-3.0): the one process that loads it, and nothing else of `edge`; JSON lines.

A request is {"verb": "get"} or {"verb": "set", "mode": NAME}. A reply is {"mode", "id", "modes"}, after setting as read
back, or {"error": KIND, "reason": TEXT}, where KIND is "missing" (no jetson-stats here), "absent" (no service),
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

# jtop waits for ever for a service that hangs: after this time for one request, the kernel ends the process.
REQUEST_S = 40
SAMPLE_S = 0.5  # between two samples, if no other client has set another interval
# jtop switches jetson_clocks off and on again around a change, and a refusal shows only in an unchanged mode.
SETTLED_SAMPLES = 4
SETTLED_S = 2.0
CHANGE_S = 30.0

# jtop has a single exception: (part of its text, our kind).
KINDS = (
    ("can't access", "forbidden"),
    ("not active", "absent"),
    ("Mismatch", "mismatch"),
    ("Authentication", "mismatch"),
)

Reply = dict[str, Any]


class BridgeError(Exception):
    """A request failed, for the given reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def main() -> None:
    """Answer the lines of standard input until it ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of jtop and its programs must not mix with the replies
    board: Any = None
    for line in sys.stdin:
        signal.alarm(REQUEST_S)
        try:
            request = json.loads(line)
            board = board or _connect()
            reply = _answer(board, request)
        except BridgeError as error:
            reply = {"error": error.kind, "reason": str(error)}
        # Whatever jtop raises must reach the client.
        except Exception as error:  # noqa: BLE001
            reply = {"error": _kind(error), "reason": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
        signal.alarm(0)
    os._exit(0)  # jtop's own shutdown waits for a thread that looks for OpenCV and CUDA


def _connect() -> Any:
    try:
        from jtop import jtop  # noqa: PLC0415 -- its absence is a reply like others
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
    """Set a mode, and read back until it is in force or jtop has clearly refused it."""
    modes, current = list(board.nvpmodel.models), board.nvpmodel.name
    if mode not in modes:
        raise BridgeError("unknown", f"found {mode!r}, wanted one of {', '.join(modes)}")
    if mode == current:
        return
    index = board.nvpmodel.id
    # jtop sends the index of a name in its list as the id; if ids have gaps, that is another mode.
    if index >= len(modes) or modes[index] != current:
        raise BridgeError("gaps", f"mode {current} has id {index}, but another index in jtop's list")
    masks_equal = board.nvpmodel.status
    board.nvpmodel.set_nvpmodel_name(mode)
    if not _await_mode(board, mode):
        needs_reboot = not masks_equal[modes.index(mode)]
        cause = "it needs a reboot, as its power gating differs" if needs_reboot else "no reason was given"
        raise BridgeError("refused", f"mode is still {board.nvpmodel.name}; {cause}")


def _await_mode(board: Any, mode: str) -> bool:
    """Return whether the mode took effect; False once enough samples show another one and no change is running."""
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
