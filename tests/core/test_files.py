"""Atomic writes."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from edge.core.files import permissions, unfinished_writes, write_atomic


def test_a_file_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for durable in (False, True):
        write_atomic(path, b"old", durable=durable)
        write_atomic(path, memoryview(b"new"), durable=durable)
        assert path.read_bytes() == b"new"
        assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_asked_for_else_as_the_umask_has_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for wanted, found in ((None, 0o640), (0o600, 0o600), (0o644, 0o644)):
            write_atomic(tmp_path / "file", b"x", durable=False, mode=wanted)
            assert permissions(tmp_path / "file") == found
    finally:
        os.umask(before)


def test_only_a_durable_write_is_synced_the_file_before_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(handle: int) -> None:
        place = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        synced.append(f"{place} {'after' if (tmp_path / 'file').exists() else 'before'}")

    monkeypatch.setattr(os, "fsync", note)
    write_atomic(tmp_path / "file", b"x", durable=True)
    assert synced == ["file before", "folder after"]
    write_atomic(tmp_path / "file", b"y", durable=False)
    assert len(synced) == 2


@pytest.mark.parametrize("durable", [False, True])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new", durable=durable)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_synced_at_all_is_no_failure_but_a_broken_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_for_folders(code: int) -> None:
        def sync(handle: int) -> None:
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", sync)

    fail_for_folders(errno.EINVAL)
    write_atomic(tmp_path / "file", b"x", durable=True)
    fail_for_folders(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        write_atomic(tmp_path / "file", b"x", durable=True)


def test_several_may_write_one_file_at_once(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([number]) * 300_000 for number in range(4)]
    seen: list[bytes] = []

    def work(content: bytes) -> None:
        for _ in range(10):
            write_atomic(path, content, durable=False)
            seen.append(path.read_bytes())

    threads = [threading.Thread(target=work, args=(each,)) for each in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 40
    assert set(seen) <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_found_by_its_process_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "unlink", lambda _: None)  # as if killed before it could clean up
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomic(tmp_path / ("x" * 255), b"half", durable=False)
    (tmp_path / "other.json").touch()
    assert len(list(unfinished_writes(tmp_path))) == 1
    assert len(list(unfinished_writes(tmp_path, os.getpid()))) == 1
    assert list(unfinished_writes(tmp_path, os.getpid() + 1)) == []
