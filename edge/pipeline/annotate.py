"""Annotated pictures: findings drawn in, encoded as JPEG."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edge.core.errors import EdgeError
from edge.core.records import Classes, Findings, Image, label_of

JPEG_QUALITY = 85


def as_jpeg(picture: Image) -> bytes:
    """Encode a picture; raise EdgeError where JPEG cannot hold it."""
    is_encoded, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not is_encoded:
        raise EdgeError(f"a picture of {picture.shape[1]}×{picture.shape[0]} pixels cannot be encoded as JPEG")
    return encoded.tobytes()


def draw(picture: Image, findings: Findings, labels: Sequence[str]) -> Image:
    """Draw boxes and names into the picture, and return it."""
    side_px = min(picture.shape[:2])
    scale, thickness_px = max(0.4, side_px / 900), max(2, round(side_px / 360))
    class_ids = findings.class_ids.tolist()
    texts = [
        f"{label_of(class_id, labels)} {score:.2f}"
        for class_id, score in zip(class_ids, findings.scores.tolist(), strict=True)
    ]
    if isinstance(findings, Classes):
        for row, text in enumerate(texts, start=1):
            _write_text(picture, text, (8, int(28 * scale * row)), scale, 0)
        return picture
    for (x1, y1, x2, y2), class_id, text in zip(findings.boxes.astype(int).tolist(), class_ids, texts, strict=True):
        cv2.rectangle(picture, (x1, y1), (x2, y2), _color(class_id), thickness_px)
        _write_text(picture, text, (x1, max(12, y1 - 4)), scale, class_id)
    return picture


def _write_text(picture: Image, text: str, at: tuple[int, int], scale: float, class_id: int) -> None:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    cv2.rectangle(picture, (at[0], at[1] - height - 2), (at[0] + width, at[1] + 3), _color(class_id), -1)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)


def _color(class_id: int) -> tuple[int, int, int]:
    """Return a bright colour, distinct from those of the neighbouring classes."""
    hue = np.uint8([[[(class_id * 47 + 20) % 180, 170, 255]]])  # type: ignore[arg-type]
    blue, green, red = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red
