"""Engine files: headers of real plans, Ultralytics' metadata, and what is never loaded."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.engine_file import engine_metadata, is_engine_file, read_engine_file
from edge.core.errors import ModelError

# As TensorRT-RTX 1.7.1.116 wrote it for a network of one node: magic, 0, 2, 0, the size, and the version.
RTX = bytes.fromhex("76747274000000000200000000000000ec2802000000000001070174767472747e")
FUSED = b"header {\n  version_compatible=0\n  accelerators={sm80 }\n}"
TENSORRT = b"ftrt" + bytes(20) + bytes((10, 3, 0, 30)) + bytes(64)
METADATA = {"task": "detect", "imgsz": [384, 640], "names": {"0": "red", "1": "green"}, "stride": 32, "batch": 1}


def ultralytics(plan: bytes = TENSORRT) -> bytes:
    """Return a file as Ultralytics writes it: the length of the metadata, the metadata, the plan."""
    text = json.dumps(METADATA).encode()
    return len(text).to_bytes(4, "little", signed=True) + text + plan


def written(folder: Path, content: bytes, mode: int = 0o644) -> Path:
    path = folder / "model.engine"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_the_header_tells_library_version_and_where_it_can_the_gpu(tmp_path: Path) -> None:
    file = read_engine_file(written(tmp_path, TENSORRT))
    assert (file.library, file.version, file.built_by) == ("tensorrt", (10, 3, 0, 30), "TensorRT 10.3.0.30")
    assert (file.compute_capability, file.metadata, file.plan) == (None, {}, TENSORRT)
    file = read_engine_file(written(tmp_path, RTX + FUSED))
    assert (file.built_by, file.compute_capability) == ("TensorRT-RTX 1.7.1.116", "8.0")
    file = read_engine_file(written(tmp_path, RTX + FUSED.replace(b"sm80", b"sm110")))
    assert file.compute_capability == "11.0"


def test_ultralytics_metadata_come_off_and_read_like_an_onnx_files(tmp_path: Path) -> None:
    path = written(tmp_path, ultralytics())
    file = read_engine_file(path)
    assert file.plan == TENSORRT
    assert file.sha256 == hashlib.sha256(ultralytics()).hexdigest()  # of the whole file
    assert file.metadata == engine_metadata(path)
    assert (file.metadata["task"], file.metadata["imgsz"], file.metadata["stride"]) == ("detect", "[384, 640]", "32")
    assert file.metadata["names"] == "{'0': 'red', '1': 'green'}"
    assert engine_metadata(written(tmp_path, TENSORRT)) == engine_metadata(tmp_path / "none.engine") == {}


@pytest.mark.parametrize("content", [b"", b"ftrt", b"this is text", bytes(100), ultralytics(b"zzzz" + bytes(60))])
def test_what_is_no_plan_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.engine is no TensorRT engine file .*; wanted one that trtexec, TAO"):
        read_engine_file(written(tmp_path, content))


def test_only_the_file_that_was_added_is_loaded_and_only_where_nobody_else_may_write_it(tmp_path: Path) -> None:
    path = written(tmp_path, TENSORRT)
    sha256 = hashlib.sha256(TENSORRT).hexdigest()
    assert read_engine_file(path, sha256).plan == TENSORRT
    for mode in (0o664, 0o646):
        path.chmod(mode)
        with pytest.raises(ModelError, match=r"wanted a file of root or of user \d+ that no one else may write"):
            read_engine_file(path, sha256)
    path.chmod(0o644)
    with pytest.raises(ModelError, match="an engine file is code, and only the one that was added is loaded"):
        read_engine_file(written(tmp_path, TENSORRT + b"x"), sha256)
    (tmp_path / "link.engine").symlink_to(written(tmp_path, TENSORRT))
    with pytest.raises(ModelError, match="cannot be read"):
        read_engine_file(tmp_path / "link.engine", sha256)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        with pytest.raises(ModelError, match="belongs to user 12345"):
            read_engine_file(path, sha256)


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    for name in ("none.engine", "a\0b", "."):
        with pytest.raises(ModelError, match="cannot be read"):
            read_engine_file(tmp_path / name)


def test_engine_files_are_known_by_their_suffix() -> None:
    assert all(is_engine_file(Path(name)) for name in ("a.engine", "b.PLAN", "c.trt"))
    assert not is_engine_file(Path("a.onnx"))


@given(content=st.binary(max_size=200), magic=st.sampled_from([b"", b"ftrt"]))
def test_any_bytes_are_a_plan_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, magic: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.engine"
    path.write_bytes(magic + content)
    try:
        read_engine_file(path)
    except ModelError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 -- some are plans
