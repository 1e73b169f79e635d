"""The disk under the outbox fails: it runs on with memory, tells, and goes over to the disk again when it can."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, belt
from tests.support.process import StartEdge
from tests.support.spooled_outbox import spooled_outbox
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

FAULTS = 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "edge-test", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: run the tests as root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_is_full_is_told_once_and_used_again_when_there_is_room(small_disk: Path) -> None:
    filler = small_disk / "somebody-elses"
    filler.write_bytes(bytes(700_000))
    with spooled_outbox(small_disk, bound=2000) as made:
        made.put(0, 400, size=1000)
        eventually(lambda: bool(made.alarms), "an alarm")
        assert made.alarms == [("outbox_disk", made.alarms[0][1])]
        assert "full" in str(made.alarms[0][1])
        assert made.outbox.state().disk == "failed"
        filler.unlink()
        made.put(400, 1, "alarm")
        eventually(lambda: made.outbox.state().disk == "ok", "the disk is used again")
        eventually(lambda: made.alarms[-1] == ("outbox_disk", None), "the alarm is cleared")
        assert made.outbox.state().dropped == 0
        assert made.sent(401) == [400, *range(400)]


def test_while_the_disk_fails_memory_is_bounded_and_the_newest_are_kept(small_disk: Path) -> None:
    (small_disk / "somebody-elses").write_bytes(bytes(1_000_000))
    with spooled_outbox(small_disk, bound=100) as made:
        made.put(0, 300)
        eventually(lambda: made.outbox.state().disk == "failed", "a fault")
        assert (made.outbox.state().messages, made.outbox.state().dropped_by_cause["full"]) == (100, 200)
        assert made.sent(100) == list(range(200, 300))


def test_a_read_only_disk_is_told_and_used_when_it_can_be_written(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with spooled_outbox(small_disk) as made:
        made.put(0, 100)
        eventually(lambda: bool(made.alarms), "an alarm")
        assert made.alarms[0][0] == "outbox_disk"
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        made.on_disk(100)
        eventually(lambda: made.alarms[-1] == ("outbox_disk", None), "the alarm is cleared")
        assert made.sent(100) == list(range(100))


def test_a_folder_that_vanishes_is_made_again_with_what_was_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with spooled_outbox(folder) as made:
        made.put(0, 500)
        made.on_disk(500)
        shutil.rmtree(folder)
        made.put(500, 500)
        made.on_disk(1000)
        eventually(made.path.exists, "the file is there again")
        assert made.sent(1000) == list(range(1000))


def written(folder: Path, count: int = 1000) -> bytes:
    """Leave so many messages on disk; return the file."""
    with spooled_outbox(folder, memory_s=3600) as made:
        made.put(0, count, size=300)
    return (folder / "outbox.db").read_bytes()


PAGE = 4096
ROWS_A_PAGE = 13  # of 300 bytes and what belongs to them, at most
INTERIOR = 5  # the first byte of a page that says where others are


@pytest.mark.parametrize("seed", range(FAULTS))
def test_a_damaged_file_is_put_aside_and_what_can_be_read_of_it_goes_on(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    whole = written(tmp_path)
    damaged = bytearray(whole)
    pages = {dice.randrange(len(whole) // PAGE) for _ in range(dice.randrange(1, 4))}
    for page in pages:
        damaged[page * PAGE : (page + 1) * PAGE] = dice.randbytes(PAGE)
    old = sent_of_old(tmp_path, bytes(damaged))
    hides_others = any(page == 0 or whole[page * PAGE] == INTERIOR for page in pages)
    assert hides_others or len(old) >= 1000 - ROWS_A_PAGE * len(pages)
    assert len(old) == 1000 or (tmp_path / "outbox.db.bad").exists()


@pytest.mark.parametrize("length", [0, 1, 100, PAGE, 10 * PAGE, 50 * PAGE + 17])
def test_a_file_that_was_cut_off_is_put_aside_and_a_new_one_begun(tmp_path: Path, length: int) -> None:
    sent_of_old(tmp_path, written(tmp_path)[:length])


def sent_of_old(folder: Path, content: bytes) -> list[int]:
    """Start with a damaged file and let everything go out; return what of the old was sent."""
    (folder / "outbox.db").write_bytes(content)
    with spooled_outbox(folder) as made:
        made.put(1000, 100)
        eventually(lambda: made.outbox.state().disk_messages >= 100, f"new ones are on disk: {made.outbox.state()}")
        found = made.sent(100)
        eventually(lambda: bool(made.sent_more(found)), f"all is sent: {made.outbox.state()}")
    assert set(range(1000, 1100)) <= set(found)
    assert len(set(found)) == len(found), "nothing twice"
    return [number for number in found if number < 1000]


def test_the_daemon_runs_on_with_a_damaged_outbox_and_tells(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    state = tmp_path / "edge-state"
    state.mkdir()
    (state / "outbox.db").write_bytes(random.Random(1).randbytes(20_000))
    daemon = start_edge(configure({"streams.belt": belt()}))
    subscriber.wait_for_results("belt", 20)
    subscriber.wait_for(lambda m: m.schema == "alarm" and m.body["alarm"] == "outbox_disk", "the alarm")
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    assert subscriber.seqs("belt") == list(range(len(subscriber.seqs("belt"))))
    assert (state / "outbox.db.bad").exists()
    assert "Traceback" not in daemon.log


def test_the_daemon_runs_on_when_its_disk_is_full(
    small_disk: Path, configure: Configure, start_edge: StartEdge, broker: Mosquitto, subscriber: Subscriber
) -> None:
    config = configure({"outbox": {"memory_s": 0.2, "commit_s": 0.1}, "streams.belt": belt()})
    daemon = start_edge(config, state_dir=small_disk)
    subscriber.wait_for_results("belt", 5)
    (small_disk / "somebody-elses").write_bytes(bytes(1_040_000))
    broker.end()
    daemon.await_log("disk of the outbox: ")
    broker.start()
    subscriber.wait_for(lambda m: m.schema == "alarm" and m.body["alarm"] == "outbox_disk", "the alarm")
    subscriber.wait_for_results("belt", 20, after=len(subscriber.messages))
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    assert list(dict.fromkeys(subscriber.seqs("belt"))) == list(range(max(subscriber.seqs("belt")) + 1))
