"""Cost and sustained rate of publishing: `.venv/bin/python benchmarks/messages.py [--json OUT]`.

In each round, all parts run in turn, each in a process of its own, at QoS 1 to a Mosquitto started for it, with a
subscriber (mosquitto_sub) on the same cores.

daemon      the whole daemon: 8×8 images in memory, a model that does nothing, several streams
publisher   the publisher alone, from prepared messages
put         a lane's cost of handing a message over, in a running outbox, with and without the journal's copy
disk        messages from memory to disk and back, with the fsync of each commit
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from configuration import write_config
from pipeline import IDENTITY_PX, mosquitto, report, write_identity
from rich.console import Console

from edge.core.config import MqttSettings
from edge.core.records import Message
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.outbox.outbox import Outbox
from edge.mqtt.outbox.spool import Spool
from edge.mqtt.outbox.spooler import Spooler
from edge.mqtt.publisher import Publisher

STREAMS = 4
FRAMES = 5000  # of each stream
MESSAGES = 20_000
ON_DISK = 50_000
WAITING = 500  # messages kept ready for the publisher
TARGET = {"daemon_results_per_s": "≥ 2000", "put_us": "≤ 40"}
BODY = (
    b'{"v":1,"device":"bench","boot":"0123456789abcdef0123456789abcdef","stream":"s0","model":"model","seq":1234,'
    b'"frame":1234,"captured_at":"2026-11-21T06:20:01.123456Z","size":[1920,1080],"detections":['
    + b",".join([b'{"label":"person","class_id":0,"score":0.8612,"box":[104.2,220.1,60.4,181.9]}'] * 4)
    + b'],"latency_ms":{"wait":3.1,"preprocess":0.4,"infer":19.8,"decode":0.3},"batch":2,"dropped":{"overrun":5,'
    b'"stale":1,"gated":0,"error":0,"stopped":0},"engine":"ort-cpu/int8/3f9c","power_mode":null,"throttled":null}'
)


def message() -> Message:
    now = time.monotonic_ns()
    return Message("edge/bench/streams/s0/results", BODY, kind="result", stream="s0", captured_ns=now, decoded_ns=now)


def publisher(port: int) -> dict[str, float]:
    """Publish prepared messages as fast as they are acknowledged."""
    settings = MqttSettings(url=f"mqtt://127.0.0.1:{port}")
    will = Message("edge/bench/status", b"{}", retain=True)
    outbox = Outbox(settings.queue_messages)
    sender = Publisher(settings, "bench", will, outbox, lambda _message, _at_ns: None)
    sender.start()
    while not sender.connected:
        time.sleep(0.01)
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    for _ in range(MESSAGES // WAITING):
        for _ in range(WAITING):
            sender.put(message())
        while outbox.state().messages > WAITING:
            time.sleep(0.001)
    sender.finish(60)
    sender.join(60)
    cpu_s = time.process_time() - start_cpu_s
    seconds = time.perf_counter() - start_s
    return {"publisher_messages_per_s": MESSAGES / seconds, "publisher_cpu_us": cpu_s / MESSAGES * 1e6}


def put(folder: str) -> dict[str, float]:
    """Put messages and pop them again, as a lane and a publisher do."""
    figures = dict[str, float]()
    for name, journal in (("put_us", Journal(Path(folder) / "journal")), ("put_without_journal_us", None)):
        outbox, spent_ns = Outbox(10_000, journal), list[int]()
        for _ in range(MESSAGES):
            each = message()
            start_ns = time.perf_counter_ns()
            outbox.put(each)
            spent_ns.append(time.perf_counter_ns() - start_ns)
            if (taken := outbox.pop()) is not None:
                outbox.settle(taken)
        figures[name] = statistics.median(spent_ns) / 1000
    return figures


def disk(folder: str) -> dict[str, float]:
    """Move messages from memory to the disk and back."""
    outbox = Outbox(2 * ON_DISK)
    spool = Spool(Path(folder) / "outbox.db", 1000, 3600, "commit")
    spooler = Spooler(outbox, spool, 0, 0.01, lambda _alarm, _reason, _step: None)
    for _ in range(ON_DISK):
        outbox.put(message())
    start_s = time.perf_counter()
    spooler.start()
    while outbox.state().disk_messages < ON_DISK:
        time.sleep(0.005)
    written_s = time.perf_counter()
    outbox.set_connected(connected=True)
    while outbox.state().messages:
        taken = outbox.pop()
        if taken is None:
            time.sleep(0.0005)
        else:
            outbox.settle(taken)
    read_s = time.perf_counter()
    spooler.close(60)
    return {"to_disk_per_s": ON_DISK / (written_s - start_s), "from_disk_per_s": ON_DISK / (read_s - written_s)}


def daemon(folder: Path, port: int) -> dict[str, float]:
    """Run the whole daemon, as `pipeline.py` does."""
    config = write_config(
        folder / "config.toml",
        port,
        {"path": str(write_identity(folder / "identity")), "max_batch": 4},
        {f"s{number}": {"source": "synthetic://conveyor", "delivery": "every"} for number in range(STREAMS)},
        {"device": {"state_dir": str(folder / "state")}, "mqtt": {"queue_messages": 100_000}},
    )
    arguments = {"config": str(config), "blank_px": IDENTITY_PX, "frames": FRAMES}
    command = [sys.executable, str(Path(__file__).with_name("measured.py")), "serve", json.dumps(arguments)]
    measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {
        "daemon_results_per_s": measured["frames_per_s"],
        "daemon_cpu_us": measured["cpu_ms_per_frame"] * 1000,
    }


def apart(part: str, argument: str | int) -> dict[str, float]:
    """Run a part in a process of its own."""
    command = [sys.executable, __file__, "--part", part, str(argument)]
    figures: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return figures


def run_round(folder: Path, port: int, broker: psutil.Process) -> dict[str, float]:
    figures = dict[str, float]()
    before_s = sum(broker.cpu_times()[:2])
    figures |= daemon(folder, port)
    figures["broker_cpu_us"] = (sum(broker.cpu_times()[:2]) - before_s) / (STREAMS * FRAMES) * 1e6
    figures |= apart("publisher", port)
    for part, place in (("put", "/dev/shm"), ("disk", None)):  # noqa: S108 -- a folder of its own is made in it
        with tempfile.TemporaryDirectory(dir=place) as at:
            figures |= apart(part, at)
    return figures


PARTS: dict[str, Callable[..., dict[str, float]]] = {"publisher": publisher, "put": put, "disk": disk}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write figures and raw rounds to this file")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        name, argument = options.part
        json.dump(PARTS[name](int(argument) if argument.isdigit() else argument), sys.stdout)
        return
    subscriber = shutil.which("mosquitto_sub")
    if subscriber is None:
        sys.exit("mosquitto_sub is not installed; install it: apt-get install mosquitto-clients")
    rounds, console = list[dict[str, float]](), Console(stderr=True)
    with mosquitto() as port, tempfile.TemporaryDirectory() as folder:
        listening = [subscriber, "-p", str(port), "-q", "1", "-t", "edge/#"]
        with subprocess.Popen(listening, stdout=subprocess.DEVNULL) as process:
            broker = next(each for each in psutil.Process().children() if each.name() == "mosquitto")
            for number in range(options.rounds):
                rounds.append(run_round(Path(folder), port, broker))
                console.print(f"round {number + 1} of {options.rounds} done")
            process.terminate()
    document = json.dumps(report(rounds, console), indent=1)
    print(document)
    if options.json is not None:
        options.json.write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
