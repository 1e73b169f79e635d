"""Plan store that is killed while it stores."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from edge.inference.backends.tensorrt.plan_store import PlanStore, StalePlanError
from tests.support.plan_samples import KEY, plan

# Stores once in peace, then a second plan, and kills itself at its Nth change of the folder.
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.plan_samples import KEY, plan
from edge.inference.backends.tensorrt.plan_store import PlanStore

left = int(sys.argv[2])

def counted(change):
    def wrapped(*arguments, **keys):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*arguments, **keys)
    return wrapped

store = PlanStore(Path(sys.argv[1]), 100)
store.store(KEY, plan(b"old"))
for name in ("open", "unlink", "replace", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
store.store(KEY, plan(b"new" * 100_000))
"""


def test_a_kill_at_any_moment_of_storing_leaves_a_whole_plan_or_none(tmp_path: Path) -> None:
    outcomes = []
    for moment in range(100):
        state_dir = tmp_path / str(moment)
        command = [sys.executable, "-c", KILLED, str(state_dir), str(moment)]
        code = subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode
        store = PlanStore(state_dir, 100)
        try:
            outcomes.append(store.load(KEY))
        except StalePlanError:
            outcomes.append(b"none")
        store.store(replace(KEY, max_batch=9), plan())
        assert not list(store.folder.glob(".*"))
        assert len(list(store.folder.iterdir())) == 2 + 2 * (outcomes[-1] != b"none")
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert set(outcomes) == {plan(b"old").plan, b"none", plan(b"new" * 100_000).plan}
