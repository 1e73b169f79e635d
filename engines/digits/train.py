"""Train, export and measure the classifier of handwritten digits.

Run from the repository root; README.md beside this file has the requirements and the figures.
Without an option it trains, writes digits.onnx and evaluates it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

# ONNX Runtime reads this while it is imported, and then sends no telemetry.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from handwriting import Digits, read_digits
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
SIZE_PX = 16
BATCH = 32
PEAK_RATE = 1e-2
SMOOTHING = 0.05


def stretch(pictures: NDArray[np.uint8]) -> Tensor:
    """Bring pictures (N, 8, 8) to the model's input (N, 1, 16, 16), as the runtime does."""
    rows = [cv2.resize(each, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_LINEAR) for each in pictures]
    return torch.from_numpy(np.stack(rows)[:, None].astype(np.float32) * np.float32(1 / 255))


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(conv(channels, channels, groups=channels), conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.path(x)


def make_network() -> nn.Module:
    return nn.Sequential(
        conv(1, 16),
        conv(16, 24, stride=2),
        Residual(24),
        conv(24, 32, stride=2),
        Residual(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def augment(images: Tensor) -> Tensor:
    """Turn, size, slant and shift each image a little."""
    count = len(images)
    turn = (torch.rand(count) - 0.5) * 0.4
    size = 1 + (torch.rand(2, count) - 0.5) * 0.3
    slant = (torch.rand(count) - 0.5) * 0.3
    shift = (torch.rand(2, count) - 0.5) * 0.35
    first = torch.stack([turn.cos() * size[0], -turn.sin() + slant, shift[0]], 1)
    second = torch.stack([turn.sin(), turn.cos() * size[1], shift[1]], 1)
    grid = functional.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(digits: Digits, epochs: int, seed: int) -> nn.Module:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(seed)
    images, classes = stretch(digits.pictures), torch.from_numpy(digits.classes)
    network = make_network().train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=epochs * steps)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            loss = functional.cross_entropy(network(augment(images[batch])), classes[batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}", flush=True)
    return network.eval()


def export(network: nn.Module, path: Path) -> None:
    """Write the ONNX file; the exporter folds the batch normalisation into the convolutions."""
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, SIZE_PX, SIZE_PX),),
        str(path),
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def evaluate(path: Path, digits: Digits) -> dict[str, float]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": stretch(digits.pictures).numpy()})
    right = int((logits.argmax(1) == digits.classes).sum())
    return {
        "pictures": len(digits.classes),
        "right": right,
        "top1": round(right / len(digits.classes), 4),
        "onnx_bytes": path.stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="only measure the ONNX file; figures as JSON")
    parser.add_argument("--model", type=Path, default=HERE / "digits.onnx", help="the ONNX file (%(default)s)")
    parser.add_argument("--epochs", type=int, default=80, help="passes over the training pictures (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (%(default)s)")
    options = parser.parse_args()
    training, held_out = read_digits()
    if not options.evaluate:
        export(train(training, options.epochs, options.seed), options.model)
    print(json.dumps(evaluate(options.model, held_out), indent=2))


if __name__ == "__main__":
    main()
