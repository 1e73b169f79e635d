"""The classifier of handwritten digits: it loads, reads pictures of any size, and is as good as its README says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge.core.manifest import read_labels, read_manifest
from tests.support.project import ROOT

DIGITS = ROOT / "engines" / "digits"
PIXELS = "0123456789abcdefg"
# One of each class, 8×8, out of the part that is held out; of scikit-learn's copy of "Optical Recognition of
# Handwritten Digits" by E. Alpaydin and C. Kaynak.
SAMPLES = (
    "028fga000bga4f100cd00d500bd00f7008g00f6006g15g2002g6fc00007ge100",
    "007gd400007gg900001gg900003gg900008gg80000agg400009ge100004ce800",
    "01dgf6000af9bf000790cc000000f6000008f100002fa00000aga9g200dgfb40",
    "02afgge007b46f900006fc00003g9000005g8000000bf2000016g20001gg6000",
    "0003g200000cc000005g25c003f80bd009g47g8009gggg200000dc000001g900",
    "002cgg7000ad783002f600000be7510005gggf6000444e8000047e50002ff500",
    "000ed100004gb00000cg100001fge10004gc8c7002f808g200ae9ff1001ege20",
    "00cggc000064ad100000d9000059ggc003ggb300007d000000b8000000g30000",
    "005cga0006gd3f100b855a0004b2c200006g6000002f8000008d8000005f4000",
    "009ga20000geba0001g9cf00007fgg80000a6ga000001f9000017g80006gge10",
)


def picture(sample: str) -> NDArray[np.uint8]:
    values = np.array([PIXELS.index(each) for each in sample]).reshape(8, 8)
    return np.rint(values * (255 / 16)).astype(np.uint8)


@pytest.mark.parametrize("side_px", [8, 64])
def test_each_digit_is_read_from_pictures_in_a_folder(side_px: int, tmp_path: Path) -> None:
    for digit, sample in enumerate(SAMPLES):
        shown = cv2.resize(picture(sample), (side_px, side_px), interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(tmp_path / f"{digit}.png"), shown)
    done = subprocess.run(
        [sys.executable, "-m", "edge", "detect", str(DIGITS), str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    best = [json.loads(line)["classes"][0] for line in done.stdout.splitlines()]
    assert [each["label"] for each in best] == list(read_labels(DIGITS, read_manifest(DIGITS)))
    assert min(each["score"] for each in best) > 0.5


def test_the_file_is_small_and_takes_any_batch() -> None:
    path = DIGITS / "digits.onnx"
    assert path.stat().st_size < 100_000
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [each.version for each in model.opset_import] == [17]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_it_is_as_good_on_the_held_out_part_as_its_readme_says() -> None:
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("scikit-learn is not installed: pip install scikit-learn")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from precision import Digits, measure  # noqa: PLC0415 -- as the benchmark does it

    top1, _ = measure(Digits(), {"FP32": DIGITS / "digits.onnx"})["FP32"]
    assert f"| {top1:.4f} |" in (DIGITS / "README.md").read_text(encoding="utf-8")
