"""Train, export and measure the detector of the built-in conveyor scene.

Run from the repository root; README.md beside this file has the requirements and the figures.
Without an option it renders the training frames, trains, writes conveyor.onnx and evaluates it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import timeit
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

# ONNX Runtime reads this while it is imported, and then sends no telemetry.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
# The scene is found in this checkout, whether or not the package is installed.
sys.path.insert(0, str(HERE.parents[1]))

from edge.capture.scene.conveyor import LABELS, Conveyor  # noqa: E402 - after the line above

SIZE_PX = 320
STRIDES_PX = (8, 16, 32)
PAD = 114
CLASSES = len(LABELS)

# Scenes are told apart by their seed; no scene of the evaluation is seen in training.
TRAINING_SEEDS = range(10_000, 10_450)
EVALUATION_SEEDS = range(900_000, 900_050)
FRAMES_PER_SEED = 20
# Frames this far apart share few parts, at the slowest belt.
FRAME_STEP = 97
# Seven scenes of ten have the size of the demo.
SCENE_SIZES_PX = (*((640, 480),) * 7, (1280, 720), (320, 240), (480, 640))

BATCH = 32
PEAK_RATE = 4e-3
BOX_WEIGHT = 5.0
CANDIDATES = 9
SCORE_FLOOR = 0.01
SHOWN_SCORE = 0.4
NMS_IOU = 0.6


class Sample(NamedTuple):
    """One letterboxed frame with its parts, in model-input pixels."""

    image: NDArray[np.uint8]  # (320, 320, 3), BGR
    boxes: NDArray[np.float32]  # (M, 4): x1, y1, x2, y2
    classes: NDArray[np.int64]  # (M,)


def letterbox(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Fit an image into the upper left of the model input, as the runtime does."""
    height_px, width_px = image.shape[:2]
    ratio = min(SIZE_PX / width_px, SIZE_PX / height_px)
    size = round(width_px * ratio), round(height_px * ratio)
    canvas = np.full((SIZE_PX, SIZE_PX, 3), PAD, np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return canvas, ratio


def render_scene(seed: int) -> list[Sample]:
    cv2.setNumThreads(1)
    width_px, height_px = SCENE_SIZES_PX[seed % len(SCENE_SIZES_PX)]
    scene, frame, samples = Conveyor(width_px, height_px, seed), np.empty((height_px, width_px, 3), np.uint8), []
    for index in range(0, FRAMES_PER_SEED * FRAME_STEP, FRAME_STEP):
        truth = scene.render(index, frame)
        image, ratio = letterbox(frame)
        samples.append(Sample(image, truth.boxes * np.float32(ratio), truth.class_ids))
    return samples


def render_samples(seeds: range) -> list[Sample]:
    # Spawned, since a forked process would wait for threads that only its parent has.
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return list(chain.from_iterable(pool.map(render_scene, seeds)))


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def separable(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(conv(inputs, inputs, groups=inputs), conv(inputs, outputs, 1))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(conv(channels, channels // 2, 1), conv(channels // 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.path(x)


class Head(nn.Module):
    """Class logits and box distances for each cell of one feature map."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.cells = (SIZE_PX // stride) ** 2
        self.scores = nn.Sequential(separable(channels, channels), nn.Conv2d(channels, CLASSES, 1))
        self.distances = nn.Sequential(separable(channels, channels), nn.Conv2d(channels, 4, 1))
        # Nearly every cell is background: start there, or the first steps are spent on it.
        nn.init.constant_(self.scores[-1].bias, -4.6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Sizes that are plain numbers keep the exported graph free of shape arithmetic.
        scores, distances = self.scores(x), functional.softplus(self.distances(x))
        return scores.reshape(-1, CLASSES, self.cells), distances.reshape(-1, 4, self.cells)


class Detector(nn.Module):
    """An anchor-free detector: a plain backbone, a top-down neck, one head a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, stride=2), conv(16, 24, stride=2))
        self.stages = nn.ModuleList(
            nn.Sequential(conv(inputs, outputs, stride=2), *(Residual(outputs) for _ in range(n)))
            for inputs, outputs, n in ((24, 48, 2), (48, 96, 2), (96, 128, 1))
        )
        self.laterals = nn.ModuleList(conv(channels, 64, 1) for channels in (48, 96, 128))
        self.merges = nn.ModuleList(separable(64, 64) for _ in STRIDES_PX)
        self.heads = nn.ModuleList(Head(64, stride) for stride in STRIDES_PX)
        points, strides = grid()
        self.register_buffer("points", points)
        self.register_buffer("strides", strides)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Take (B, 3, 320, 320); return logits (B, 6, 2100) and boxes (B, 4, 2100), corners."""
        x = self.stem(images)
        levels = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        for upper in (1, 0):
            levels[upper] = levels[upper] + functional.interpolate(levels[upper + 1], scale_factor=2)
        parts = [head(merge(level)) for head, merge, level in zip(self.heads, self.merges, levels, strict=True)]
        logits, distances = (torch.cat(part, 2) for part in zip(*parts, strict=True))
        before, after = (distances * self.strides).split(2, 1)
        return logits, torch.cat([self.points - before, self.points + after], 1)


class Exported(nn.Module):
    """The detector as the runtime sees it: one output in the "yolov8" layout."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        logits, boxes = self.detector(images)
        upper_left, lower_right = boxes.split(2, 1)
        centre, size = (upper_left + lower_right) * 0.5, lower_right - upper_left
        return torch.cat([centre, size, logits.sigmoid()], 1)


def grid() -> tuple[Tensor, Tensor]:
    """Return the cells' centres (2, 2100) and strides (1, 2100) in model-input pixels."""
    points, strides = [], []
    for stride in STRIDES_PX:
        ticks = (torch.arange(SIZE_PX // stride) + 0.5) * stride
        y, x = torch.meshgrid(ticks, ticks, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, ticks.numel() ** 2), float(stride)))
    return torch.cat(points, 1), torch.cat(strides, 1)


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU of two sets of boxes (…, 4) that broadcast."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(0)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    common, around = shared.prod(-1), hull.prod(-1) + 1e-7
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common + 1e-7
    return common / union, common / union - (around - union) / around


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, points: Tensor, wanted: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Give each part the cells in it that already see it best.

    Scores (B, P, 6), boxes (B, P, 4) and points (P, 2) are the cells'; wanted (B, G, 4) and
    classes (B, G) the parts', with empty boxes as padding. Returns each cell's part (B, P) and
    how good a match it is (B, P), 0 for background.
    """
    inside = ((points > wanted[:, :, None, :2]) & (points < wanted[:, :, None, 2:])).all(-1)
    iou, _ = overlap(wanted[:, :, None], boxes[:, None])
    score = scores.transpose(1, 2).gather(1, classes[..., None].expand(-1, -1, points.shape[0]))
    quality = score.sqrt() * iou**4 * inside
    best = quality.topk(CANDIDATES, 2)
    chosen = torch.zeros_like(quality).scatter(2, best.indices, best.values)
    # A cell that two parts want goes to the one it overlaps more.
    owner = (iou * (chosen > 0)).argmax(1)
    chosen *= functional.one_hot(owner, wanted.shape[1]).transpose(1, 2)
    peak_iou = (iou * (chosen > 0)).amax(2, keepdim=True)
    match = chosen / (chosen.amax(2, keepdim=True) + 1e-9) * peak_iou
    return owner, match.amax(1)


def loss_of(model: nn.Module, points: Tensor, images: Tensor, wanted: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    logits, boxes = (part.transpose(1, 2) for part in model(images))
    owner, match = assign(logits.sigmoid(), boxes, points, wanted, classes)
    target = functional.one_hot(classes.gather(1, owner), CLASSES) * match[..., None]
    total = match.sum().clamp(1)
    class_loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    held = match > 0
    mine = wanted.gather(1, owner[..., None].expand(-1, -1, 4))[held]
    _, giou = overlap(boxes[held], mine)
    return class_loss / total, ((1 - giou) * match[held]).sum() / total


def augment(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """Mirror, zoom, shift and relight; the mask tells which parts are still in the picture."""
    zoom = rng.uniform(0.85, 1.4) if rng.integers(2) else 1.0
    signs = rng.choice([-1.0, 1.0], 2)
    middle, room = SIZE_PX / 2, abs(zoom - 1) * SIZE_PX / 2
    shift = middle - signs * zoom * middle + rng.uniform(-room, room, 2)
    # A pixel's centre is half a pixel from its corner, which boxes count from.
    half = 0.5 * signs * zoom - 0.5
    matrix = np.column_stack([np.diag(signs * zoom), shift + half])
    image = cv2.warpAffine(image, matrix, (SIZE_PX, SIZE_PX), borderValue=(PAD, PAD, PAD))
    image = cv2.convertScaleAbs(image, alpha=rng.uniform(0.75, 1.25), beta=rng.uniform(-12, 12))
    corners = boxes.reshape(-1, 2, 2) * (signs * zoom) + shift
    moved = np.concatenate([corners.min(1), corners.max(1)], 1)
    clipped = moved.clip(0, SIZE_PX)
    kept = np.prod(clipped[:, 2:] - clipped[:, :2], 1) > 0.4 * np.prod(moved[:, 2:] - moved[:, :2], 1)
    return image, clipped.astype(np.float32), kept


def batches(samples: list[Sample], rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield one epoch, shuffled: images (B, 3, 320, 320), boxes (B, G, 4), classes (B, G)."""
    order = rng.permutation(len(samples))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        batch = [samples[i] for i in order[start : start + BATCH]]
        images = np.empty((BATCH, SIZE_PX, SIZE_PX, 3), np.uint8)
        most = max(1, *(len(sample.boxes) for sample in batch))
        boxes, classes = torch.zeros(BATCH, most, 4), torch.zeros(BATCH, most, dtype=torch.int64)
        for row, sample in enumerate(batch):
            images[row], moved, kept = augment(sample.image, sample.boxes, rng)
            boxes[row, : kept.sum()] = torch.from_numpy(moved[kept])
            classes[row, : kept.sum()] = torch.from_numpy(sample.classes[kept])
        # The view is channels-last in memory, which the convolutions keep and prefer.
        yield torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, boxes, classes


def smooth(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    # At first the average must follow quickly, or it remembers the untrained weights.
    return average + (current - average) * (1 - min(0.998, (1 + int(count)) / (10 + int(count))))


def train(samples: list[Sample], epochs: int, seed: int) -> nn.Module:
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Detector().to(memory_format=torch.channels_last)
    average = AveragedModel(model, avg_fn=smooth, use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    steps = len(samples) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=epochs * steps, pct_start=0.1)
    started = time.monotonic()
    for epoch in range(epochs):
        sums = np.zeros(2)
        for step, (images, boxes, classes) in enumerate(batches(samples, rng), 1):
            class_loss, box_loss = loss_of(model, model.points.T, images, boxes, classes)
            optimizer.zero_grad()
            (class_loss + BOX_WEIGHT * box_loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            sums += class_loss.item(), box_loss.item()
            if step % 50 == 0 or step == steps:
                told = f"class loss {sums[0] / step:.3f}, box loss {sums[1] / step:.3f}"
                minutes = (time.monotonic() - started) / 60
                print(f"epoch {epoch + 1}/{epochs} step {step}/{steps}: {told}, {minutes:.1f} min", flush=True)
    return average.module


def export(model: nn.Module, path: Path) -> None:
    """Write the ONNX file; the exporter folds the batch normalisation into the convolutions."""
    torch.onnx.export(
        Exported(model).eval(),
        (torch.zeros(1, 3, SIZE_PX, SIZE_PX),),
        str(path),
        input_names=["images"],
        output_names=["output"],
        dynamic_axes={"images": {0: "batch"}, "output": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    exported = onnx.load(path)
    # The exporter leaves the output's fixed sizes open.
    for axis, size in ((1, 4 + CLASSES), (2, grid()[0].shape[1])):
        exported.graph.output[0].type.tensor_type.shape.dim[axis].dim_value = size
    onnx.checker.check_model(exported, full_check=True)
    onnx.save(exported, path)


def open_model(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def detect(session: onnxruntime.InferenceSession, image: NDArray[np.uint8], floor: float) -> NDArray[np.float64]:
    """Find the parts of one letterboxed image; (N, 6): x, y, width, height, score, class."""
    images = (image.transpose(2, 0, 1)[None] * np.float32(1 / 255)).astype(np.float32)
    rows = session.run(None, {"images": images})[0][0].T
    scores, classes = rows[:, 4:].max(1), rows[:, 4:].argmax(1)
    boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]], 1)
    kept = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), classes.tolist(), floor, NMS_IOU)
    kept = np.asarray(kept, np.int64)
    return np.concatenate([boxes[kept], scores[kept, None], classes[kept, None]], 1)


def coco_truth(samples: list[Sample]) -> COCO:
    truth, parts = COCO(), []
    for image_id, (_, boxes, classes) in enumerate(samples):
        for (x1, y1, x2, y2), class_id in zip(boxes.tolist(), classes.tolist(), strict=True):
            size = x2 - x1, y2 - y1
            part = {"id": len(parts) + 1, "image_id": image_id, "category_id": class_id, "iscrowd": 0}
            parts.append(part | {"bbox": [x1, y1, *size], "area": size[0] * size[1]})
    truth.dataset = {
        "images": [{"id": i} for i in range(len(samples))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(LABELS)],
        "annotations": parts,
        "info": {},
    }
    truth.createIndex()
    return truth


def evaluate(path: Path) -> dict[str, float]:
    """Measure an exported model on unseen scenes; pycocotools' own table goes to standard error."""
    samples, session = render_samples(EVALUATION_SEEDS), open_model(path)
    found = [(i, *row) for i, sample in enumerate(samples) for row in detect(session, sample.image, SCORE_FLOOR)]
    with contextlib.redirect_stdout(sys.stderr):
        truth = coco_truth(samples)
        judge = COCOeval(truth, truth.loadRes(np.array(found)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {
        "frames": len(samples),
        "parts": len(truth.anns),
        "mAP50": round(float(judge.stats[1]), 4),
        "mAP50-95": round(float(judge.stats[0]), 4),
        "onnx_bytes": path.stat().st_size,
        "ms_per_inference_1_thread": round(inference_ms(session), 2),
    }


def inference_ms(session: onnxruntime.InferenceSession) -> float:
    feed = {"images": np.zeros((1, 3, SIZE_PX, SIZE_PX), np.float32)}
    times_s = timeit.repeat(lambda: session.run(None, feed), number=1, repeat=220)
    return 1e3 * float(np.median(times_s[20:]))


def draw_contact_sheet(path: Path, sheet: Path) -> None:
    """Draw what the exported model finds in twelve unseen frames."""
    session, tiles = open_model(path), []
    for seed in EVALUATION_SEEDS[:12]:
        frame = np.empty((480, 640, 3), np.uint8)
        Conveyor(640, 480, seed).render(5 * FRAME_STEP, frame)
        image, ratio = letterbox(frame)
        for x, y, width, height, score, class_id in detect(session, image, SHOWN_SCORE):
            left, top, *size = (round(length / ratio) for length in (x, y, width, height))
            cv2.rectangle(frame, (left, top, *size), (80, 255, 80), 1)
            text = f"{LABELS[int(class_id)]} {score:.2f}"
            cv2.putText(frame, text, (left, top - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255))
        tiles.append(frame)
    cv2.imwrite(str(sheet), np.vstack([np.hstack(tiles[row : row + 3]) for row in range(0, 12, 3)]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="only measure the ONNX file; figures as JSON")
    parser.add_argument("--contact-sheet", type=Path, metavar="PNG", help="only draw its detections on 12 frames")
    parser.add_argument("--model", type=Path, default=HERE / "conveyor.onnx", help="the ONNX file (%(default)s)")
    parser.add_argument("--epochs", type=int, default=11, help="passes over the training frames (%(default)s)")
    parser.add_argument("--scenes", type=int, default=len(TRAINING_SEEDS), help="training scenes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (%(default)s)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.contact_sheet:
        draw_contact_sheet(options.model, options.contact_sheet)
        return
    if not options.evaluate:
        samples = render_samples(TRAINING_SEEDS[: options.scenes])
        print(f"rendered {len(samples)} training frames", flush=True)
        export(train(samples, options.epochs, options.seed), options.model)
    print(json.dumps(evaluate(options.model), indent=2))


if __name__ == "__main__":
    main()
