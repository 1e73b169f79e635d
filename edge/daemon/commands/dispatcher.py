"""Dispatcher of commands: permission, rate limit, exactly one run and one answer each; pure.

`edge.daemon.commands.handlers` does what a command asks; `edge.daemon.commands.service` receives it and sends the
answer.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge.core.clock import now_ns
from edge.core.config import CommandName, CommandsSettings
from edge.core.errors import EdgeError
from edge.core.records import CommandRequest
from edge.daemon.commands.arguments import ARGS, CommandError, checked_args, id_of, read_object
from edge.mqtt.encode import MessageHead

log = logging.getLogger(__name__)

MOST_KNOWN = 256  # answers that are kept to be repeated
MOST_REPEATS = 16  # of one command that is still running
WINDOW_NS = 60 * 1_000_000_000
_NAME = re.compile(r"[a-z_]{1,32}")

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a command, or the reason why there is none."""

    result: dict[str, Any] | None = None
    reason: str | None = None


def unexpected(error: Exception) -> str:
    """Return the reason for a command that failed by a defect of ours."""
    return f"unexpected failure ({error!r:.200}); see the log"


OutcomeCallback = Callable[[Outcome], None]
# Gets the validated arguments and a callback for the outcome, which may come later and on another thread; raises
# EdgeError where the command is refused.
CommandHandler = Callable[[Any, OutcomeCallback], None]


class RateLimit:
    """At most so many in any minute."""

    def __init__(self, most_per_min: int) -> None:
        self._times_ns: deque[int] = deque(maxlen=most_per_min)

    def acquire(self) -> bool:
        """Count one more; return False, without counting it, where that exceeds the limit."""
        now = now_ns()
        if len(self._times_ns) == self._times_ns.maxlen and now - self._times_ns[0] < WINDOW_NS:
            return False
        self._times_ns.append(now)
        return True


@dataclass(slots=True, eq=False)  # two equal commands are still two, and each is answered
class _PendingCommand:
    """One command with the requests that wait for its answer, or with the answer."""

    name: str
    id: str | int | None
    args: Any
    requests: list[CommandRequest] = field(default_factory=list)
    answer: Answer | None = None


class Dispatcher:
    """Runs each request once and answers it; a repeated id gets the first answer again."""

    def __init__(
        self,
        settings: CommandsSettings,
        head: MessageHead,
        handlers: Mapping[CommandName, CommandHandler],
        answer: Callable[[str, list[CommandRequest], Answer], None],
        audit: Callable[[Answer, Any], None],
    ) -> None:
        """Set up `answer(command, requests, answer)`, which sends an answer, and `audit`, which records it."""
        self._allowed = settings.allow
        self._most_per_min = settings.max_per_min
        self._head = head
        self._handlers = handlers
        self._answer = answer
        self._audit = audit
        self._rate_limit = RateLimit(settings.max_per_min)
        self._refusal_limit = RateLimit(settings.max_per_min)  # a flood must not become a flood of answers
        self._known: OrderedDict[tuple[str, str | int], _PendingCommand] = OrderedDict()
        self._running: list[_PendingCommand] = []
        self._outcomes: deque[tuple[_PendingCommand, Outcome]] = deque()  # from whatever thread
        self.accepted = 0
        self.refused = 0

    def accept(self, name: str, request: CommandRequest, *, has_room: bool = True) -> None:
        """Run a command, or refuse it with a sentence."""
        if not _NAME.fullmatch(name):  # a topic of any length and characters; there is none like it to answer on
            self.refused += 1
            return
        pending = _PendingCommand(name, None, None, [request])
        try:
            values = read_object(request.body)
            pending.id, pending.args = id_of(values), values.get("args")
            known = self._permitted(name, request, has_room=has_room)
            args = checked_args(known, values)
            if not self._is_repeated(pending, request):
                self._run(known, pending, args)
        except EdgeError as error:
            self._refuse(pending, str(error))
        # Whatever a request fails with must not end the daemon that it was sent to.
        except Exception as error:
            log.exception("command %s failed unexpectedly", name)
            self._refuse(pending, unexpected(error))

    def _permitted(self, name: str, request: CommandRequest, *, has_room: bool) -> CommandName:
        """Return the command if it may run now; raise CommandError otherwise."""
        known = next((each for each in ARGS if each == name), None)
        if known is None:
            raise CommandError(f"command {name!r} does not exist; wanted one of {', '.join(ARGS)}")
        if known not in self._allowed:
            raise CommandError(f"command {name} is not allowed; add it to [commands] allow on the device")
        if request.retained:
            raise CommandError(
                f"a retained {name} is not run, as it would run at every start; publish it without retain"
            )
        if not has_room:
            raise CommandError("busy: too many commands are waiting; send it again later")
        if not self._rate_limit.acquire():
            raise CommandError(f"more than {self._most_per_min} commands in a minute; send it again later")
        return known

    def _is_repeated(self, pending: _PendingCommand, request: CommandRequest) -> bool:
        """Return whether the id was seen before; if so, repeat its answer, or have the request wait for it."""
        if pending.id is None:
            return False
        before = self._known.get((pending.name, pending.id))
        if before is None:
            return False
        if before.answer is not None:
            self._answer(before.name, [request], before.answer)
        elif len(before.requests) < MOST_REPEATS:
            before.requests.append(request)
        return True

    def _run(self, name: CommandName, pending: _PendingCommand, args: Any) -> None:
        self.accepted += 1
        self._running.append(pending)
        if pending.id is not None:
            self._known[pending.name, pending.id] = pending
            self._forget_oldest()
        try:
            self._handlers[name](args, lambda outcome: self._outcomes.append((pending, outcome)))
        except EdgeError as error:
            self._outcomes.append((pending, Outcome(reason=str(error))))
        # Whatever a command fails with must not end the daemon that it was sent to.
        except Exception as error:
            log.exception("command %s failed unexpectedly", name)
            self._outcomes.append((pending, Outcome(reason=unexpected(error))))
        self.settle()

    def settle(self) -> None:
        """Answer what has finished."""
        while self._outcomes:
            pending, outcome = self._outcomes.popleft()
            if pending.answer is None:
                self._running.remove(pending)
                self._finish(pending, outcome)

    def close(self) -> None:
        """Answer what has not finished, as it never will."""
        self.settle()
        for pending in self._running:
            self._finish(pending, Outcome(reason="the daemon stops before this has finished"))
        self._running.clear()

    def _refuse(self, pending: _PendingCommand, reason: str) -> None:
        self.refused += 1
        if self._refusal_limit.acquire():
            self._finish(pending, Outcome(reason=reason))

    def _finish(self, pending: _PendingCommand, outcome: Outcome) -> None:
        """Record and answer; if the answer cannot be sent, answer with that."""
        requests, pending.requests = pending.requests, []
        failure = self._try_answer(pending, requests, outcome)
        if failure is not None:
            self._try_answer(pending, requests, Outcome(reason=unexpected(failure)))
        pending.args = None

    def _try_answer(
        self, pending: _PendingCommand, requests: list[CommandRequest], outcome: Outcome
    ) -> Exception | None:
        """Record and answer; return the error, already logged, that kept the answer from being sent."""
        pending.answer = self._head.stamped() | {
            "id": pending.id,
            "command": pending.name,
            "ok": outcome.reason is None,
            "reason": outcome.reason,
            "result": outcome.result,
        }
        try:
            self._audit(pending.answer, pending.args)
        except Exception:
            log.exception("command %s cannot be recorded", pending.name)
        try:
            self._answer(pending.name, requests, pending.answer)
        except Exception as error:
            log.exception("command %s cannot be answered", pending.name)
            return error
        return None

    def _forget_oldest(self) -> None:
        """Forget all but the newest answers; commands that still run are kept in any case."""
        for key in list(self._known)[: max(0, len(self._known) - MOST_KNOWN)]:
            if self._known[key].answer is not None:
                del self._known[key]
