"""Bad links: packets lost, late, or cut off for a while; the daemon recovers by itself, and nothing is lost."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from edge.core.clock import utc_text, wall_ns
from tests.support.bad_link import BadLink, needs_namespaces
from tests.support.broker import Mosquitto
from tests.support.configuration import belt, write_config
from tests.support.process import Child, StartEdge
from tests.support.subscriber import Subscriber, subscribed
from tests.support.waiting import PATIENCE_S, eventually

RESULTS_PER_S = 20
RECOVERY_S = PATIENCE_S  # aimed at is 10 s, which a busy machine does not hold
NOTICED_S = 30.0
NORMAL_MS = 100.0  # over the median age before: this machine is shared
GROWTH_BYTES = 40_000_000  # some 30 times what the messages of a minute take
SAMPLE = 20


@dataclass
class Site:
    """A daemon and its broker, with a bad link between them."""

    link: BadLink
    subscriber: Subscriber
    daemon: Child
    port: int

    def ages_ms(self, since: str = "") -> list[float]:
        """Return the ages at first sending of the results captured since then, in order of arrival."""
        return [result["age_ms"] for result in self.subscriber.results("belt") if result["captured_at"] > since]

    def rss_bytes(self) -> int:
        rss: int = psutil.Process(self.daemon.process.pid).memory_info().rss
        return rss

    def heal(self, before_ms: float) -> None:
        """Mend the link; results captured from then on must soon be as young as they were before."""
        since = utc_text(wall_ns())
        self.link.heal()

        def is_normal() -> bool:
            newest = self.ages_ms(since)[-SAMPLE // 4 :]
            return len(newest) == SAMPLE // 4 and statistics.median(newest) < before_ms + NORMAL_MS

        eventually(is_normal, "live results of normal age", RECOVERY_S)

    def _has_no_gap(self) -> bool:
        seqs = set(self.subscriber.seqs("belt"))
        return seqs == set(range(len(seqs)))

    def end(self) -> None:
        """End the daemon; every result must have come, whatever the link did."""
        eventually(self._has_no_gap, "what waited on disk, beside the live results")
        assert self.daemon.end() == 0
        self.subscriber.wait_for_state("stopped")
        assert self._has_no_gap()
        assert "Traceback" not in self.daemon.log


@pytest.fixture
def link() -> Iterator[BadLink]:
    needs_namespaces()
    made = BadLink()
    yield made
    made.close()


@contextlib.contextmanager
def site(link: BadLink, folder: Path, start_edge: StartEdge, fps: float = RESULTS_PER_S) -> Iterator[Site]:
    """Start broker and subscriber at one end of the link, and the daemon at the other."""
    with link.server.inside():
        broker = Mosquitto(folder, "allow_anonymous true", f"listener 1883 {link.server.address}")
        broker.start()
    try:
        config = write_config(folder / "edge.toml", f"mqtt://{link.server.address}", {"streams.belt": belt(fps=fps)})
        with contextlib.ExitStack() as at_server:
            with link.server.inside():
                subscriber = at_server.enter_context(subscribed(broker.port))
            with link.device.inside():
                daemon = start_edge(config)
            yield Site(link, subscriber, daemon, broker.port)
    finally:
        broker.kill()


@pytest.mark.broker
# At 14.5 s the kernel's next retransmission would be ten seconds away; in 45 s the connection is given up and retried.
@pytest.mark.parametrize("cut_s", [3.0, 14.5, 45.0])
def test_a_link_that_drops_everything_for_a_while_costs_no_result_and_is_live_again_at_once(
    tmp_path: Path, link: BadLink, start_edge: StartEdge, cut_s: float
) -> None:
    with site(link, tmp_path, start_edge) as here:
        here.subscriber.wait_for_results("belt", 3 * SAMPLE)
        before_ms, before_bytes = statistics.median(here.ages_ms()[-SAMPLE:]), here.rss_bytes()
        link.is_cut = True
        cut_at_s = time.monotonic()
        if cut_s > NOTICED_S:
            here.daemon.await_log("is unreachable", timeout_s=NOTICED_S)
        time.sleep(max(0.0, cut_at_s + cut_s - time.monotonic()))
        assert here.rss_bytes() - before_bytes < GROWTH_BYTES
        here.heal(before_ms)
        assert link.lost_packets > 0
        assert here.daemon.log.count("is unreachable") <= 1, "once a loss"
        here.end()


@pytest.mark.broker
def test_a_link_that_takes_two_seconds_each_way_serves(tmp_path: Path, link: BadLink, start_edge: StartEdge) -> None:
    link.delay_s = 2.0
    with site(link, tmp_path, start_edge, fps=5) as here:
        here.daemon.await_log("connected to MQTT broker")
        here.subscriber.wait_for_results("belt", 50)
        here.heal(0.0)
        here.end()
        assert "is unreachable" not in here.daemon.log


@pytest.mark.broker
def test_a_link_that_loses_a_third_of_all_packets_and_is_late_is_survived(
    tmp_path: Path, link: BadLink, start_edge: StartEdge
) -> None:
    with site(link, tmp_path, start_edge) as here:
        here.subscriber.wait_for_results("belt", 3 * SAMPLE)
        before_ms, before_bytes = statistics.median(here.ages_ms()[-SAMPLE:]), here.rss_bytes()
        arrived = len(here.subscriber.messages)
        link.loss, link.delay_s = 0.3, 1.0
        time.sleep(20)
        assert len(here.subscriber.messages) > arrived, "something comes through"
        assert link.lost_packets > 10
        assert here.rss_bytes() - before_bytes < GROWTH_BYTES
        here.heal(before_ms)
        here.end()


@pytest.mark.broker
def test_a_daemon_that_ends_while_the_link_is_cut_leaves_its_results_to_the_next(
    tmp_path: Path, link: BadLink, start_edge: StartEdge
) -> None:
    with site(link, tmp_path, start_edge) as here:
        here.subscriber.wait_for_results("belt", SAMPLE)
        first = here.subscriber.results("belt")[0]["boot"]
        link.is_cut = True
        time.sleep(3)
        assert here.daemon.end() == 0
        here.subscriber.wait_for_state("offline")  # which the broker says, once it has noticed
        arrived = len(here.subscriber.results("belt"))
        link.heal()
        with link.device.inside():
            second = start_edge(tmp_path / "edge.toml")
        eventually(lambda: len(seqs_of(here.subscriber, first)) > arrived + SAMPLE, "results of the first daemon")
        eventually(lambda: seqs_of(here.subscriber, first) == set(range(len(seqs_of(here.subscriber, first)))), "all")
        assert second.end() == 0


def seqs_of(subscriber: Subscriber, boot: str) -> set[int]:
    return {result["seq"] for result in subscriber.results("belt") if result["boot"] == boot}
