"""Files of networks, written by a process of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# One process writes the networks: 1.6 GB.
pytestmark = pytest.mark.xdist_group("networks")


# How it is written ----------------------------------------------------------------------------------------------------


def in_a_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_disk_that_fails_half_way_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    told = in_a_process(f"""
import resource
from pathlib import Path
from edge.core.errors import EdgeError
from edge.perf.bench.networks import find, write
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
try:
    write(find("MobileNet-v2"), Path({str(tmp_path)!r}))
except EdgeError as error:
    print(error)
""")
    assert told.startswith(f"network MobileNet-v2 cannot be written to {tmp_path}/mobilenet-v2-")
    assert "(File too large); wanted a writable folder with 14 MB of free space" in told
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_onnx_networks_are_known_and_writing_is_refused_in_a_sentence(tmp_path: Path) -> None:
    told = in_a_process(f"""
import sys
from pathlib import Path
sys.modules["onnx"] = None
from edge.core.errors import ModelError
from edge.perf.bench.networks import find, write
network = find("vgg19")
try:
    write(network, Path({str(tmp_path)!r}))
except ModelError as error:
    print(error)
""")
    assert told == (
        "network VGG-19 cannot be written: the Python package 'onnx' is not installed; "
        "install edge with its extra 'all': `pip install '.[all]'` in a checkout, "
        "or `pip install 'WHEEL[all]'` with the wheel's file name"
    )


def test_writing_takes_little_memory_however_large_the_weights(tmp_path: Path) -> None:
    grown_mb = int(
        in_a_process(f"""
import resource
from pathlib import Path
import onnx
from edge.perf.bench.networks import find, write
before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
place = write(find("AlexNet"), Path({str(tmp_path)!r}))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) // 1024)
""")
    )
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.weights")) > 240_000_000
    assert grown_mb < 80
    shutil.rmtree(tmp_path)
