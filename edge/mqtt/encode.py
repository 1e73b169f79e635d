"""Message bodies: their common head, and the encoding of results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edge.core.clock import clock_synchronised, utc_text, wall_ns
from edge.core.records import BoardState, Classes, DropCause, Findings, Message, Result, label_of


def to_json(value: Any) -> bytes:
    """Encode a message body; NaN and infinity, which JSON lacks, are refused."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


class MessageHead:
    """First fields of every message of one run of the daemon."""

    def __init__(self, device: str, boot: str) -> None:
        self.fields: dict[str, Any] = {"v": 1, "device": device, "boot": boot}

    def stamped(self) -> dict[str, Any]:
        """Return the fields with the wall time of now."""
        return self.fields | {"at": utc_text(wall_ns())}


class ResultEncoder:
    """Encodes the results of one device as messages."""

    def __init__(self, head: MessageHead) -> None:
        self._head = head.fields

    def encode(
        self,
        result: Result,
        topic: str,
        qos: int,
        dropped: dict[DropCause, int],
        board: BoardState,
        energy_j: float | None,
    ) -> Message:
        """Encode a result; `energy_j` is the recent energy per image of its model."""
        body = self._head | {
            "stream": result.stream,
            "model": result.model,
            "seq": result.seq,
            "frame": result.frame,
            **capture_time(result.captured_at_ns),
            "size": result.size_px,
            **encode_findings(result.findings, result.labels),
            "latency_ms": {
                "wait": round(result.wait_ms, 3),
                "preprocess": round(result.preprocess_ms, 3),
                "infer": round(result.infer_ms, 3),
                "decode": round(result.decode_ms, 3),
            },
            "batch": result.batch,
            "dropped": dropped,
            "engine": result.engine,
            "power_mode": board.power_mode,
            "throttled": board.throttled,
        }
        if energy_j is not None:
            body["energy_mj"] = round(1000 * energy_j, 3)
        return Message(
            topic,
            to_json(body),
            qos,
            kind="result",
            stream=result.stream,
            captured_ns=result.captured_ns,
            decoded_ns=result.decoded_ns,
        )


def capture_time(captured_at_ns: int) -> dict[str, Any]:
    """Return a frame's wall time as fields of a message, marked where the clock is known not to be synchronised."""
    mark = {"clock_synchronised": False} if clock_synchronised() is False else {}
    return {"captured_at": utc_text(captured_at_ns)} | mark


def encode_findings(findings: Findings, labels: Sequence[str]) -> dict[str, Any]:
    """Return the findings as fields of a message; a class without a label is named by its number."""
    ids = findings.class_ids.tolist()
    scores = findings.scores.tolist()
    names = [label_of(each, labels) for each in ids]
    if isinstance(findings, Classes):
        return {
            "classes": [
                {"label": name, "class_id": each, "score": round(score, 4)}
                for name, each, score in zip(names, ids, scores, strict=True)
            ]
        }
    return {
        "detections": [
            {
                "label": name,
                "class_id": each,
                "score": round(score, 4),
                "box": [round(x1, 1), round(y1, 1), round(x2 - x1, 1), round(y2 - y1, 1)],
            }
            for name, each, score, (x1, y1, x2, y2) in zip(names, ids, scores, findings.boxes.tolist(), strict=True)
        ]
    }
