"""Commands: who may ask for what and how often, each run once, each answered; pure.

What a command does is `edge.daemon.commands.handlers`; where it comes from and where its answer goes is
`edge.daemon.commands.service`.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge.core.clock import now_ns, utc_text, wall_ns
from edge.core.config import CommandName, CommandsSettings
from edge.core.errors import EdgeError
from edge.core.records import CommandRequest
from edge.daemon.commands.arguments import ARGS, CommandError, checked_args, id_of, read_object

log = logging.getLogger(__name__)

MOST_KNOWN = 256  # answers that are kept to be given again
MOST_ASKERS = 16  # of one command that is still at work
WINDOW_NS = 60 * 1_000_000_000
_NAME = re.compile(r"[a-z_]{1,32}")

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command: its result, or why there is none."""

    result: dict[str, Any] | None = None
    reason: str | None = None


def unexpected(error: Exception) -> str:
    """Return the reason of a command that a defect of ours made fail."""
    return f"unexpected failure ({error!r:.200}); see the log"


# Takes the checked arguments and whom to tell the outcome, which may be later and on another thread; raises EdgeError
# where the command is refused.
Effect = Callable[[Any, Callable[[Outcome], None]], None]


class Allowance:
    """So many in any minute."""

    def __init__(self, most_per_min: int) -> None:
        self._times_ns: deque[int] = deque(maxlen=most_per_min)

    def take(self) -> bool:
        """Count one more; False where that would be too many, and it is not counted."""
        now = now_ns()
        if len(self._times_ns) == self._times_ns.maxlen and now - self._times_ns[0] < WINDOW_NS:
            return False
        self._times_ns.append(now)
        return True


@dataclass(slots=True, eq=False)  # two that are alike are still two, and each is answered
class _PendingCommand:
    """One command: who waits for its answer, or the answer."""

    name: str
    id: str | int | None
    args: Any
    askers: list[CommandRequest] = field(default_factory=list)
    answer: Answer | None = None


class Dispatcher:
    """Takes requests and answers each; those with an id that was seen before get the answer of that time."""

    def __init__(
        self,
        settings: CommandsSettings,
        head: dict[str, Any],
        effects: Mapping[CommandName, Effect],
        answer: Callable[[str, list[CommandRequest], Answer], None],
        audit: Callable[[Answer, Any], None],
    ) -> None:
        """Take `head`, which every answer begins with, and what sends an answer to its askers and what records it."""
        self._allowed = settings.allow
        self._most_per_min = settings.max_per_min
        self._head = head
        self._effects = effects
        self._answer = answer
        self._audit = audit
        self._allowance = Allowance(settings.max_per_min)
        self._refusals = Allowance(settings.max_per_min)  # a flood must not become a flood of answers
        self._known: OrderedDict[tuple[str, str | int], _PendingCommand] = OrderedDict()
        self._at_work: list[_PendingCommand] = []
        self._outcomes: deque[tuple[_PendingCommand, Outcome]] = deque()  # from whatever thread
        self.taken = 0
        self.refused = 0

    def take(self, name: str, request: CommandRequest, *, has_room: bool = True) -> None:
        """Run a command, or refuse it with a sentence."""
        if not _NAME.fullmatch(name):  # a topic of whatever length and signs; there is none like it to answer on
            self.refused += 1
            return
        asked = _PendingCommand(name, None, None, [request])
        try:
            values = read_object(request.body)
            asked.id, asked.args = id_of(values), values.get("args")
            known = self._permitted(name, request, has_room=has_room)
            args = checked_args(known, values)
            if not self._is_repeated(asked, request):
                self._run(known, asked, args)
        except EdgeError as error:
            self._refuse(asked, str(error))
        # Whatever a request stumbles over must not end the daemon that it was sent to.
        except Exception as error:
            log.exception("command %s failed unexpectedly", name)
            self._refuse(asked, unexpected(error))

    def _permitted(self, name: str, request: CommandRequest, *, has_room: bool) -> CommandName:
        """Return the command where it may be run now; raise CommandError where it may not."""
        known = next((each for each in ARGS if each == name), None)
        if known is None:
            raise CommandError(f"command {name!r} does not exist; wanted one of {', '.join(ARGS)}")
        if known not in self._allowed:
            raise CommandError(f"command {name} is not allowed; name it in [commands] allow on the device")
        if request.retained:
            raise CommandError(
                f"a retained {name} is not run, for it would be at every start; publish it without retain"
            )
        if not has_room:
            raise CommandError("busy: too many commands wait already; send it again later")
        if not self._allowance.take():
            raise CommandError(f"more than {self._most_per_min} commands in a minute; send it again later")
        return known

    def _is_repeated(self, asked: _PendingCommand, request: CommandRequest) -> bool:
        """Tell whether a command was seen before; give its answer again, or let its asker wait for that."""
        if asked.id is None:
            return False
        before = self._known.get((asked.name, asked.id))
        if before is None:
            return False
        if before.answer is not None:
            self._answer(before.name, [request], before.answer)
        elif len(before.askers) < MOST_ASKERS:
            before.askers.append(request)
        return True

    def _run(self, effect: CommandName, asked: _PendingCommand, args: Any) -> None:
        self.taken += 1
        self._at_work.append(asked)
        if asked.id is not None:
            self._known[asked.name, asked.id] = asked
            self._forget_oldest()
        try:
            self._effects[effect](args, lambda outcome: self._outcomes.append((asked, outcome)))
        except EdgeError as error:
            self._outcomes.append((asked, Outcome(reason=str(error))))
        # Whatever a command stumbles over must not end the daemon that it was sent to.
        except Exception as error:
            log.exception("command %s failed unexpectedly", effect)
            self._outcomes.append((asked, Outcome(reason=unexpected(error))))
        self.settle()

    def settle(self) -> None:
        """Answer what has come to its end."""
        while self._outcomes:
            asked, outcome = self._outcomes.popleft()
            if asked.answer is None:
                self._at_work.remove(asked)
                self._finish(asked, outcome)

    def close(self) -> None:
        """Answer what has not come to its end, as it will not any more."""
        self.settle()
        for asked in self._at_work:
            self._finish(asked, Outcome(reason="the daemon stops before this has come to its end"))
        self._at_work.clear()

    def _refuse(self, asked: _PendingCommand, reason: str) -> None:
        self.refused += 1
        if self._refusals.take():
            self._finish(asked, Outcome(reason=reason))

    def _finish(self, asked: _PendingCommand, outcome: Outcome) -> None:
        """Record and answer; where the answer cannot be sent, that is the answer."""
        askers, asked.askers = asked.askers, []
        failure = self._tell(asked, askers, outcome)
        if failure is not None:
            self._tell(asked, askers, Outcome(reason=unexpected(failure)))
        asked.args = None

    def _tell(self, asked: _PendingCommand, askers: list[CommandRequest], outcome: Outcome) -> Exception | None:
        """Record and answer; return what kept the answer from being sent, which is in the log."""
        asked.answer = self._head | {
            "at": utc_text(wall_ns()),
            "id": asked.id,
            "command": asked.name,
            "ok": outcome.reason is None,
            "reason": outcome.reason,
            "result": outcome.result,
        }
        try:
            self._audit(asked.answer, asked.args)
        except Exception:
            log.exception("command %s cannot be recorded", asked.name)
        try:
            self._answer(asked.name, askers, asked.answer)
        except Exception as error:
            log.exception("command %s cannot be answered", asked.name)
            return error
        return None

    def _forget_oldest(self) -> None:
        """Keep the newest answers; what is still at work is kept in any case."""
        for key in list(self._known)[: max(0, len(self._known) - MOST_KNOWN)]:
            if self._known[key].answer is not None:
                del self._known[key]
