"""Every command in README and docs/, run from the wheel, in the order in which a reader meets it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import pytest

from edge.capture import open_source
from edge.core.source_address import parse_address
from tests.support.process import clean_environment
from tests.support.project import CONVEYOR, ROOT

pytestmark = pytest.mark.xdist_group("wheel")

# Options that make a command short; and exit codes other than 0, with the reason.
SHORTER = {
    "edge bench conveyor --batch 1,2,4 --precision fp32,int8": "--quick --frames 2",
    "edge engines verify yolox_nano --precision int8 --frames today.mp4 --report agreement.html": "--count 8",
}
CODES = {
    "edge check my.toml": 1,  # no broker runs here
    "edge engines verify yolox_nano --precision int8 --frames today.mp4 --report agreement.html": (0, 4),  # as measured
}
EXEMPT = {
    "edge engines quantize yolox_nano --calibration yesterday.mp4": "minutes of computing; tests/cli/test_quantize.py",
    "edge power watch": "a power sensor, and has no end; tests/system/test_watch_rails.py",
    "edge tune my.toml --target-p99-ms 40": "minutes of measuring; tests/system/test_tune_command.py",
    "edge tune edge.toml --target-p99-ms 40": "likewise",
    "edge tune edge.toml --target-p99-ms 40 --power-modes 15W,25W --batches 1,2,4 --plot tune.png": "likewise",
    "edge bench resnet-50 --engine-only --batch 1,2,4,8 --json": "a network of 100 MB; test_bench_command.py",
    "edge bench resnet-50 --compare published --board tx2 --power-mode max-q": "likewise",
    "edge engines add model.engine [--onnx model.onnx]": "an engine file; tests/inference/test_engine_file_provider.py",
    "edge bench model.engine": "likewise",
    "edge bench my.toml --scenario server --target-p99-ms 50": "minutes of searching a rate; likewise",
}
COMMAND = re.compile(r"^    (edge [a-z].*?)(?:  +#.*)?$", re.MULTILINE)


def documented() -> list[str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return list(dict.fromkeys(found for page in pages for found in COMMAND.findall(page.read_text("utf-8"))))


def readme_config() -> str:
    """Return the README's configuration, with the scene in place of the camera and no broker."""
    text = (ROOT / "README.md").read_text("utf-8")
    (config,) = (block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[mqtt]" in block)
    config = re.sub(r"(username|password_file) = .*\n", "", config)
    config = config.replace("rtsp://10.0.0.7/main", "synthetic://conveyor?frames=20").replace(":1883", ":1")
    return str(config.replace('["person"]', '["gear"]'))


@pytest.fixture(scope="module")
def folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the wheel's files, and the files that the documents speak of."""
    folder = tmp_path_factory.mktemp("reader")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    shutil.copy(CONVEYOR / "conveyor.onnx", folder / "yolox_nano.onnx")
    shutil.copy(CONVEYOR / "labels.txt", folder / "coco.names")
    (folder / "my.toml").write_text(readme_config(), encoding="utf-8")
    source = open_source(parse_address("synthetic://conveyor?frames=16", Path()))
    video = cv2.VideoWriter(str(folder / "today.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (640, 480))
    while source.grab() is not None:
        video.write(source.retrieve(None))
        cv2.imwrite(str(folder / "dog.jpg"), source.retrieve(None))
    video.release()
    source.close()
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    _, *arguments = shlex.split(f"{command} {SHORTER.get(command, '')}")
    environment = clean_environment({"PYTHONPATH": str(folder / "wheel"), "XDG_STATE_HOME": str(folder / "state")})
    return subprocess.run(
        [sys.executable, "-m", "edge", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_every_link_leads_to_a_file_and_a_heading_in_it() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    pages = [ROOT / name for name in tracked.stdout.split()] or sorted(ROOT.glob("docs/*.md"))
    for page in pages:
        for file, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text("utf-8")):
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {file}"
            assert not heading or heading in anchors(target), f"{page.name}: {file}#{heading}"


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_an_exemption_is_one_of_a_documented_command() -> None:
    assert {*EXEMPT, *SHORTER, *CODES} <= set(documented())


@pytest.mark.parametrize("command", [each for each in documented() if each not in EXEMPT])
def test_a_documented_command_does_what_the_document_says(command: str, folder: Path) -> None:
    if "yolox_nano" in command and not command.startswith("edge engines add") and not (folder / "engines").exists():
        run("edge engines add yolox_nano.onnx --labels coco.names", folder)
    if command.startswith("edge engines verify"):  # what quantize would have made
        shutil.copy(CONVEYOR / "conveyor.int8-cpu.onnx", folder / "engines/yolox_nano/yolox_nano.int8-cpu.onnx")
    if "my.toml" in command and not (folder / "engines").exists():
        run("edge engines add yolox_nano.onnx --labels coco.names", folder)
    done = run(command, folder)
    codes = CODES.get(command, 0)
    assert done.returncode in (codes if isinstance(codes, tuple) else (codes,)), done.stderr
    assert "Traceback" not in done.stderr
    for precision in re.findall(r"[a-z]+\d+", "".join(re.findall(r"^edge bench .*--precision (\S+)", command))):
        assert re.search(rf"{precision} +\d", done.stdout), "a row of the table"
    for written in re.findall(r"(?:--save|--report) (\S+)", command):
        assert (folder / written).stat().st_size
