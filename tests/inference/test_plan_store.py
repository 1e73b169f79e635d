"""Cache of plans: it returns what was stored, for this machine only, or nothing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import EngineError
from edge.inference.backends.tensorrt.build_protocol import MB, BuiltPlan
from edge.inference.backends.tensorrt.plan_key import PlanKey
from edge.inference.backends.tensorrt.plan_store import PlanStore, StalePlanError, read_header
from tests.support.plan_samples import FACTS, KEY, header, plan
from tests.support.waiting import PATIENCE_S


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(tmp_path, limit_mb=100)


def paths(store: PlanStore) -> tuple[Path, Path]:
    """Return the only plan's file and its manifest."""
    (path,) = store.folder.glob("*.plan")
    return path, path.with_suffix(".json")


def refusal(store: PlanStore, key: PlanKey = KEY) -> str:
    with pytest.raises(StalePlanError) as caught:
        store.load(key)
    return str(caught.value)


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def test_what_was_stored_comes_back(store: PlanStore) -> None:
    path = store.store(KEY, plan())
    assert store.load(KEY) == plan().plan
    assert (store.path(KEY), path.name) == (path, f"net-{KEY.digest[:20]}.plan")
    manifest = store.manifest(KEY)
    assert manifest is not None
    assert (manifest["name"], manifest["size"], manifest["header"]) == ("net", len(plan().plan), [10, 3, 0, 30])
    assert manifest["key"]["gpu"] == "Orin"
    assert manifest["built"]["flags"] == ["STRONGLY_TYPED", "TF32"]


def test_plans_are_for_their_owner_alone(store: PlanStore) -> None:
    store.store(KEY, plan())
    assert [each.stat().st_mode & 0o777 for each in (store.folder, *paths(store))] == [0o700, 0o600, 0o600]


def test_a_folder_that_was_open_to_others_is_closed(store: PlanStore) -> None:
    store.folder.mkdir(mode=0o777)
    store.folder.chmod(0o777)
    store.store(KEY, plan())
    assert store.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b/ü", "x" * 300, ""])
def test_no_name_of_a_model_leads_out_of_the_folder(name: str, store: PlanStore) -> None:
    path = store.store(KEY, plan(name=name))
    assert path.parent == store.folder
    assert store.load(KEY) == plan().plan


def test_without_a_plan_the_answer_is_a_sentence(store: PlanStore) -> None:
    assert refusal(store) == f"no plan of this model is stored in {store.folder}; a new one will be built"
    assert store.path(KEY) is None
    assert store.manifest(KEY) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("precision", "fp32"),
        ("device", "dla0"),
        ("max_batch", 8),
        ("builder_level", 5),
        ("workspace_mb", 256),
        ("flags", ("FP16",)),
        ("library", "tensorrt-rtx"),
        ("version", "10.16.2"),
        ("cuda", "13.2"),
        ("gpu", "Thor"),
        ("gpu", None),
        ("compute_capability", "11.0"),
        ("sm_count", 16),
        ("board", "Jetson AGX Orin"),
    ],
)
def test_a_plan_for_anything_else_is_refused_saying_what_differs(field: str, value: Any, store: PlanStore) -> None:
    path = store.store(KEY, plan())
    wanted = replace(KEY, **{field: value})
    was, now = (json.loads(json.dumps(getattr(key, field))) for key in (KEY, wanted))
    difference = f"was built for {field} {was!r}, wanted {now!r}"
    assert refusal(store, wanted) == f"the plan {path} {difference}; a new one will be built"
    assert store.load(KEY) == plan().plan


def test_of_several_plans_of_a_model_the_nearest_is_named(store: PlanStore) -> None:
    store.store(replace(KEY, precision="fp32", gpu="Thor", board="Thor kit"), plan())
    store.store(replace(KEY, onnx_sha256="another", max_batch=1), plan())
    store.store(KEY, plan())
    assert "was built for board 'Jetson Orin Nano', wanted 'Orin NX'" in refusal(store, replace(KEY, board="Orin NX"))


def test_another_model_has_no_plan(store: PlanStore) -> None:
    store.store(KEY, plan())
    assert "no plan of this model" in refusal(store, replace(KEY, onnx_sha256="another"))


PLAN_BYTES = len(plan().plan)


@given(st.integers(0, PLAN_BYTES - 1), st.integers(0, 7))
def test_one_flipped_bit_of_a_plan_is_found_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    store = PlanStore(tmp_path_factory.mktemp("state"), 100)
    path = store.store(KEY, plan())
    path.write_bytes(flipped(plan().plan, position, bit))
    assert "it was deleted, and a new one will be built" in refusal(store)
    assert list(store.folder.iterdir()) == []


@given(st.data())
def test_a_damaged_manifest_never_lets_other_bytes_pass(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = PlanStore(tmp_path_factory.mktemp("state"), 100)
    store.store(KEY, plan())
    path, manifest = paths(store)
    text = manifest.read_bytes()
    position = data.draw(st.integers(0, len(text) - 1))
    manifest.write_bytes(flipped(text, position, data.draw(st.integers(0, 7))))
    other = data.draw(st.booleans())
    if other:
        path.write_bytes(plan(b"kernels and WEIGHTS").plan)
    try:
        assert store.load(KEY) == plan().plan
        assert not other
    except StalePlanError:
        pass


@given(st.integers(0, PLAN_BYTES - 1))
def test_a_plan_that_is_cut_short_is_deleted(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    store = PlanStore(tmp_path_factory.mktemp("state"), 100)
    path = store.store(KEY, plan())
    path.write_bytes(plan().plan[:length])
    assert f"has {length} bytes, wanted {PLAN_BYTES} as its manifest says" in refusal(store)
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (header(b"vtrt"), "starts with b'vtrt', wanted b'ftrt' of tensorrt"),
        (header(version=(10, 3, 1, 30)), "has version 10.3.1.30 in its header, wanted 10.3.0.30"),
        (header(version=(10, 3, 0, 26)), "has version 10.3.0.26 in its header, wanted 10.3.0.30"),
        (header(version=(8, 3, 0, 30)), "has version 8.3.0.30 in its header, wanted 10.3.0.30"),
    ],
)
def test_a_foreign_header_is_refused_even_where_size_and_hash_agree(
    content: bytes, told: str, store: PlanStore
) -> None:
    store.store(KEY, plan(b""))
    path, manifest = paths(store)
    path.write_bytes(content)
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(values | {"sha256": hashlib.sha256(content).hexdigest()}))
    assert told in refusal(store)


@pytest.mark.parametrize("content", [b"", b"ftrt", header(b"vtrt"), header(version=(10, 4, 0, 1))])
def test_what_would_be_refused_at_each_load_is_not_stored(content: bytes, store: PlanStore) -> None:
    with pytest.raises(EngineError, match=r"the plan of net .*, wanted .*; it can be used, but not stored"):
        store.store(KEY, BuiltPlan("net", content, FACTS))
    assert not store.folder.exists()


def test_a_build_number_above_255_is_compared_as_the_header_holds_it(store: PlanStore) -> None:
    key = replace(KEY, library="tensorrt-rtx", version="1.7.300.1116")
    built = BuiltPlan("net", header(b"vtrt", (1, 7, 300 % 256, 1116 % 256)), FACTS)
    store.store(key, built)
    assert store.load(key) == built.plan


def test_the_parts_of_a_header_are_read() -> None:
    assert read_header(header(b"vtrt", (1, 7, 1, 116)) + b"...") == (b"vtrt", (1, 7, 1, 116))


@pytest.mark.parametrize("which", [0, 1], ids=["plan", "manifest"])
def test_a_file_that_others_may_write_is_refused(which: int, store: PlanStore) -> None:
    store.store(KEY, plan())
    path = paths(store)[which]
    path.chmod(0o620)
    assert f"{path} belongs to user {os.geteuid()} with mode 620, wanted a file of user" in refusal(store)
    store.store(KEY, plan())
    assert store.load(KEY) == plan().plan


def test_a_file_of_another_user_is_refused(store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.store(KEY, plan())
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert f"belongs to user {own} with mode 600, wanted a file of user {own + 1}" in refusal(store)


@pytest.mark.parametrize("which", [0, 1], ids=["plan", "manifest"])
def test_a_link_to_a_file_elsewhere_is_refused(which: int, store: PlanStore, tmp_path: Path) -> None:
    store.store(KEY, plan())
    path = paths(store)[which]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "symbolic links" in refusal(store)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"key": {}}', '{"key": 1, "sha256": "", "size": 1, "header": [1]}']
)
def test_a_manifest_that_cannot_be_read_costs_the_plan(content: str, store: PlanStore) -> None:
    store.store(KEY, plan())
    path, manifest = paths(store)
    manifest.write_text(content, encoding="utf-8")
    assert "has an unreadable manifest; it was deleted" in refusal(store)
    assert not path.exists()


def test_a_manifest_of_another_key_under_this_name_is_refused(store: PlanStore) -> None:
    store.store(KEY, plan())
    _, manifest = paths(store)
    values = json.loads(manifest.read_text())
    values["key"]["gpu"] = "Thor"
    manifest.write_text(json.dumps(values))
    assert "was built for gpu 'Thor', wanted 'Orin'" in refusal(store)


def test_a_file_is_hashed_once_until_it_changes(store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.store(KEY, plan())
    hashed: list[bytes] = []
    sha256 = hashlib.sha256

    def counted(data: bytes) -> Any:
        hashed.append(data)
        return sha256(data)

    monkeypatch.setattr(hashlib, "sha256", counted)
    for _ in range(3):
        store.load(KEY)
    assert hashed.count(plan().plan) == 1
    os.utime(path)
    store.load(KEY)
    assert hashed.count(plan().plan) == 2


def test_the_least_recently_used_plans_make_room(tmp_path: Path) -> None:
    store = PlanStore(tmp_path, limit_mb=1)
    built = plan(bytes(400_000))
    old, used, new = (replace(KEY, max_batch=each) for each in (1, 2, 3))
    for age_s, key in ((200, old), (100, used)):
        store.store(key, built)
        manifest = next(store.folder.glob(f"*{key.digest[:20]}.json"))
        os.utime(manifest, (manifest.stat().st_mtime - age_s,) * 2)
    os.utime(next(store.folder.glob(f"*{old.digest[:20]}.plan")))
    store.load(old)
    store.store(new, built)
    assert [store.path(key) is not None for key in (old, used, new)] == [True, False, True]
    assert len(list(store.folder.iterdir())) == 4


def test_a_plan_larger_than_the_cache_is_kept_alone(tmp_path: Path) -> None:
    store = PlanStore(tmp_path, limit_mb=1)
    store.store(replace(KEY, max_batch=1), plan())
    store.store(KEY, plan(bytes(2 * MB)))
    assert len(store.load(KEY)) == PLAN_BYTES - len(b"kernels and weights") + 2 * MB
    assert store.path(replace(KEY, max_batch=1)) is None


def test_storing_again_replaces(store: PlanStore) -> None:
    store.store(KEY, plan(b"old", name="old-name"))
    store.store(KEY, plan(b"new"))
    assert store.load(KEY) == plan(b"new").plan
    assert len(list(store.folder.iterdir())) == 2


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Let no file grow beyond this: writing then fails half way, as on a full disk."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_disk_that_is_full_is_told_and_nothing_half_stays(store: PlanStore) -> None:
    with largest_file(100_000), pytest.raises(EngineError) as caught:
        store.store(KEY, plan(bytes(3 * MB)))
    assert f"cannot be stored in {store.folder} (File too large)" in str(caught.value)
    assert "with 4 MB free" in str(caught.value)
    assert list(store.folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("in the way", encoding="utf-8")
    store = PlanStore(tmp_path, 100)
    with pytest.raises(EngineError, match=r"cannot be stored in .*plans"):
        store.store(KEY, plan())
    assert "cannot be read (Not a directory)" in refusal(store)


def test_several_may_store_and_load_at_once(store: PlanStore) -> None:
    built = [plan(bytes([number]) * 200_000) for number in range(4)]
    wanted = {each.plan for each in built}
    failures: list[object] = []

    def work(mine: BuiltPlan) -> None:
        for _ in range(10):
            store.store(KEY, mine)
            if store.load(KEY) not in wanted:
                failures.append(mine)

    threads = [threading.Thread(target=work, args=(each,)) for each in built]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_while_one_process_is_at_the_plans_others_wait(store: PlanStore) -> None:
    store.store(KEY, plan())
    folder_fd = os.open(store.folder, os.O_RDONLY)
    fcntl.flock(folder_fd, fcntl.LOCK_EX)
    threads = [
        threading.Thread(target=store.load, args=(KEY,)),
        threading.Thread(target=store.store, args=(KEY, plan())),
    ]
    for thread in threads:
        thread.start()
        thread.join(0.2)
    assert all(thread.is_alive() for thread in threads)
    os.close(folder_fd)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
