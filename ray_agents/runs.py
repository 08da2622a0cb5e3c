"""One agent run as rows of its entity's log: their keys, their values, and reading them back.

Keys follow from the run's key and counters alone, so a resumed run goes on with the same ones::

    run          {run}
    step         {run}:s1                 one per model call, counted from 1
    text         {run}:s1:text:0          by index of the content block
    text_delta   {run}:s1:text:0:0        then :1, :2, …
    reasoning    {run}:s1:reasoning:0     and reasoning_delta likewise
    tool_call    {run}:s1:tool:0          by order of the call in its step
    approval     {run}:s1:tool:0          of the same call, if people must approve it
    steered      {run}:s1:steered:0       a message that was taken in before it; see ``steering.py``

    compaction   {run}:c1                 one per summary, and the step of that key paid for it;
                                          or own_compaction, see ``compaction.py``

A handler's runs are ``{wake}-run-1``, ``-run-2``, …; those of an agent inside of a tool follow from
the tool call's key instead, its colons as hyphens: ``{run}-s1-tool-0-run-1``.

A step that broke off is begun again under its key with ``attempt`` one higher, and every row its
broken attempt wrote under ``{step}:`` is deleted in the same append: whoever reads the log sees
the deletion of the ``text`` row and takes that text back.

A step's counts are those of all its attempts, and grow: what broken ones cost, as far as the
provider had said, stands in ``voided`` too, and ``uncounted`` says how many attempts broke off.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any

from ray_agents.agent import AgentRunResult, ToolCallResult
from ray_agents.approvals import ApprovalRecorded, awaited
from ray_agents.contextreport import ContextReport
from ray_agents.errors import NondeterministicWake
from ray_agents.events import Draft, Event, Operation
from ray_agents.ledger import COST, STEP, UNCOUNTED, Spent
from ray_agents.model import USAGE_FIELDS, Answered, Block, Usage
from ray_agents.prices import PRICES, Prices, dollars_of
from ray_agents.views import ApprovalStatus

Row = dict[str, Any]

DELTA_TYPES = frozenset({"text_delta", "reasoning_delta"})
STEERED = "steered"
_ANSWER_TYPES = DELTA_TYPES | {"text", "reasoning", "tool_call"}
SUMMARIES = frozenset({"compaction", "own_compaction"})
RUN_TYPES = _ANSWER_TYPES | SUMMARIES | {"run", "step", STEERED, ApprovalRecorded.TYPE}
Number = int | str  # of a step, from 1; one that sums up has a name, c1
ENDED = frozenset({"completed", "failed"})
AWAITING = "awaiting"  # of a tool call: an agent inside of it waits for approval
BEGUN = frozenset({"executing", AWAITING})
TURNS_MAX, TOKENS_MAX, COST_MAX, TIME_MAX = "turns_max", "tokens_max", "cost_max", "time_max"
BUDGET, GOAL_BUDGET = "budget", "goal_budget"
LIMITS = frozenset({TURNS_MAX, TOKENS_MAX, COST_MAX, TIME_MAX, BUDGET, GOAL_BUDGET})
VOIDED = "voided"
COMPACTION = "compaction"
OWN_COMPACTION = "own_compaction"  # for its own run alone: others have said what it does not know
PURPOSE = "purpose"  # of a step that is no answer to the conversation
CONTEXT = "context"  # of a step: the tokens it was asked with, by source
_BILLED = (*USAGE_FIELDS, COST)
INTERRUPTED = "interrupted"


class RunRecord:
    """The rows of one run, as they stand in the log or are about to.

    Built from the rows already there; every ``*_drafts`` method takes its rows as written.
    ``prices`` are those by which costs are recorded.
    """

    def __init__(self, run_key: str, recorded: Sequence[Event], *, prices: Prices = PRICES) -> None:
        self.key = run_key
        self._prices = prices
        self._rows: dict[tuple[str, str], Row] = {}
        self._approvals: dict[str, ApprovalRecorded] = {}
        self._asked: dict[Number, ContextReport] = {}
        self._queued: set[Number] = set()
        self._steps_completed = 0  # as far as was looked; a complete step stays one
        self._summaries: list[str] = []
        self._spent = Spent()
        for event in recorded:
            self._take(event)

    def _take(self, event: Event) -> None:
        at = (event.type, event.key)
        if event.type == ApprovalRecorded.TYPE:
            self._approvals[event.key] = ApprovalRecorded.of(event)
        elif event.operation is Operation.DELETE:
            self._rows.pop(at, None)
        else:
            self._keep(at, {} if event.type in DELTA_TYPES else event.value)

    def _keep(self, at: tuple[str, str], row: Row) -> None:
        """Keep a row, and with it what would else be asked of all rows before each step."""
        kind, key = at
        before = self._rows.get(at)
        if kind == STEP:
            self._spent += Spent.in_row(row) - Spent.in_row(before or {})
            if PURPOSE in row and before is None:
                self._summaries.append(key[len(self.key) + 1 :])
        self._rows[at] = row

    # -- reading -----------------------------------------------------------------------------

    @property
    def run(self) -> Row | None:
        """The run's own row."""
        return self._rows.get(("run", self.key))

    def row(self, type_name: str, key: str) -> Row | None:
        """One row of the run, None if it is not there."""
        return self._rows.get((type_name, key))

    def approval(self, key: str) -> ApprovalRecorded | None:
        """The approval of the tool call of that key; None if it has asked for none."""
        return self._approvals.get(key)

    @property
    def awaited(self) -> int:
        """How long the run has waited for people, in microseconds, as far as that has ended.

        Those asked inside of its tool calls count, if their rows were among those given.
        """
        return awaited(self._approvals.values())

    def step_key(self, number: Number) -> str:
        """The key of the step of that number, from 1, or of that name."""
        return f"{self.key}:{number}" if isinstance(number, str) else f"{self.key}:s{number}"

    def call_key(self, number: int, index: int) -> str:
        """The key of a step's tool call, by its order from 0."""
        return f"{self.step_key(number)}:tool:{index}"

    def completed_step(self, number: Number) -> Row | None:
        """The row of a step whose answer is complete, else None."""
        step = self.row("step", self.step_key(number))
        return step if step is not None and step["status"] == "completed" else None

    @property
    def steps_completed(self) -> int:
        """How many steps are complete; they are numbered without a gap."""
        while self.completed_step(self._steps_completed + 1) is not None:
            self._steps_completed += 1
        return self._steps_completed

    def summaries(self) -> list[str]:
        """The names of the steps that were to sum up, in order."""
        return list(self._summaries)

    def unanswered(self, number: int) -> list[tuple[str, Block, str | None]]:
        """Tool calls of a completed step without a result: key, block, and status so far."""
        step = self.completed_step(number)
        found: list[tuple[str, Block, str | None]] = []
        for index, block in enumerate(calls_in(step["content"]) if step else ()):
            key = self.call_key(number, index)
            status = (self.row("tool_call", key) or {}).get("status")
            if status not in ENDED:
                found.append((key, block, status))
        return found

    @property
    def scale(self) -> float | None:
        """Tokens of the provider for one of our estimate, as the last answer told; None if none."""
        step = self.completed_step(self.steps_completed) or {}
        asked = ContextReport.of(step[CONTEXT]) if CONTEXT in step else ContextReport()
        if asked.counted != "provider" or not asked.estimate:
            return None
        return asked.tokens / asked.estimate

    @property
    def spent(self) -> Spent:
        """What the run has cost so far, failed steps included."""
        return self._spent

    def result(self) -> AgentRunResult:
        """What the completed run gave, from its rows alone."""
        run = self.run or {}
        cost = run.get(COST)
        return AgentRunResult(
            text=run["text"],
            tool_calls=tuple(self._calls()),
            usage=Usage.of(run),
            duration=timedelta(milliseconds=run["duration_ms"]),
            steps=run["steps"],
            stop_reason=run["finish_reason"],
            cost=None if cost is None else dollars_of(cost),
            uncounted=run.get(UNCOUNTED, 0),
        )

    def _calls(self) -> list[ToolCallResult]:
        return [
            ToolCallResult(
                tool_name=row["tool_name"],
                args=row["args"],
                result=row["result"],
                error=row["error"],
                duration=timedelta(milliseconds=row["duration_ms"] or 0),
            )
            for number in range(1, self.steps_completed + 1)
            for index in range(len(calls_in(self._content(number))))
            if (row := self.row("tool_call", self.call_key(number, index)))
        ]

    def _content(self, number: int) -> list[Block]:
        step = self.completed_step(number)
        return step["content"] if step else []

    # -- writing -----------------------------------------------------------------------------

    def put(self, type_name: str, key: str, row: Row) -> Draft:
        """``row`` under its key: an insert the first time, then an update of the whole row."""
        known = (type_name, key) in self._rows
        self._keep((type_name, key), row)
        operation = Operation.UPDATE if known else Operation.INSERT
        return Draft.of(type_name, key, value={"key": key, **row}, operation=operation)

    def check_input(self, text: str | None) -> None:
        """Check that a run which has begun is asked for with the same input again.

        Raises:
            NondeterministicWake: it began with another input.
        """
        before = self.run
        if before is not None and before["input"] != text:
            message = (
                f"run {self.key!r} began with the input {before['input']!r} and is now asked to "
                f"go on with {text!r}; a handler that runs again must do the same"
            )
            raise NondeterministicWake(message, run=self.key)

    def run_started(self, text: str | None, now: int) -> Draft:
        """The run begins, or goes on after a failure; raises as :meth:`check_input`."""
        self.check_input(text)
        before = self.run
        started = before["started_at"] if before else now
        row = {"status": "started", "finish_reason": None, "input": text, "started_at": started}
        return self.put("run", self.key, row)

    def asked(self, number: Number, report: ContextReport) -> None:
        """Keep what the next answer of a step is asked with, to record it with the answer."""
        self._asked[number] = report

    def step_started(self, number: Number, *, provider: str, model: str, now: int) -> list[Draft]:
        """A model call is about to begin; what a broken attempt left behind is deleted."""
        key = self.step_key(number)
        before = self.row("step", key)
        named = {PURPOSE: COMPACTION} if isinstance(number, str) else {"step_number": number}
        row = {
            "run_id": self.key,
            **named,
            "status": "started",
            "finish_reason": None,
            "model_provider": provider,
            "model_id": model,
            "attempt": 1 + (before["attempt"] if before else 0),
            "started_at": now,
        }
        if before is None:
            return [self.put("step", key, row)]
        # Whoever left it "started" died, so nobody saw its end.
        row |= _voided(before, broken=before["status"] == "started")
        return [*self.answer_voided(number), self.put("step", key, row)]

    def queued(self, number: Number) -> None:
        """Keep in mind that the call of a step waits for its turn: it costs nothing."""
        self._queued.add(number)

    def sent(self, number: Number) -> None:
        """Keep in mind that it does so no more."""
        self._queued.discard(number)

    def usage_seen(self, number: Number, usage: Usage) -> Draft:
        """The provider has counted so much of the answer that is coming."""
        row = self._rows["step", self.step_key(number)]
        return self.put(
            "step", self.step_key(number), row | self._bill(row, usage, row["model_id"])
        )

    def attempt_broken(self, number: Number) -> Draft:
        """The answer broke off; its call may be made again."""
        key = self.step_key(number)
        row = self._rows["step", key]
        return self.put("step", key, row | _voided(row, broken=True))

    def _bill(self, row: Row, usage: Usage, model: str) -> Row:
        """What a step has cost with an answer of that usage, broken ones before it included."""
        price = self._prices.of(model, row["model_id"])
        before = Spent.in_row(row.get(VOIDED) or {})
        now = Spent(
            usage=usage,
            micros=price.micros(usage) if price else 0,
            unpriced=0 if price else usage.tokens,
        )
        return {name: value for name, value in (before + now).as_row().items() if name in _BILLED}

    def answer_voided(self, number: Number, kinds: Collection[str] = _ANSWER_TYPES) -> list[Draft]:
        """Delete the rows of a step's unfinished answer, or of a part of it."""
        prefix = f"{self.step_key(number)}:"
        void = [at for at in self._rows if at[0] in kinds and at[1].startswith(prefix)]
        for at in void:
            del self._rows[at]
        return [Draft.of(kind, key, operation=Operation.DELETE) for kind, key in void]

    def step_completed(self, number: Number, answer: Answered, now: int) -> Draft:
        """The answer is complete: the step's row carries all of it."""
        key = self.step_key(number)
        before = self._rows["step", key]
        row = before | {
            "status": "completed",
            "finish_reason": answer.stop_reason,
            "model_id": answer.model or before["model_id"],
            "duration_ms": (now - before["started_at"]) // 1000,
            **self._bill(before, answer.usage, answer.model),
            "content": list(answer.content),
        }
        asked = self._asked.pop(number, None)
        if asked is not None:
            row[CONTEXT] = asked.scaled(answer.usage).as_row()
        return self.put("step", key, row)

    def compacted(self, kind: str, name: str, **fields: Any) -> Draft:
        """A summary has taken the place of turns: see :mod:`ray_agents.compaction`."""
        return self.put(kind, self.step_key(name), {"run_id": self.key, **fields})

    def tool_call(self, key: str, block: Block, status: str, **fields: Any) -> Draft:
        """A tool call came to ``status``; how long it took is None where nobody knows."""
        row = {
            "run_id": self.key,
            "tool_call_id": block["id"],
            "tool_name": block["name"],
            "status": status,
            "args": block.get("input"),
            "result": None,
            "error": None,
            "duration_ms": None,
        }
        return self.put("tool_call", key, row | fields)

    def approval_put(self, approval: ApprovalRecorded) -> Draft:
        """A tool call waits for approval, or does so no more."""
        self._approvals[approval.key] = approval
        return approval.draft()

    def approval_withdrawn(self, key: str, now: int) -> list[Draft]:
        """Nobody need decide any more on the tool call of that key; nothing if nobody need have."""
        approval = self._approvals.get(key)
        if approval is None or not approval.pending:
            return []
        return [self.approval_put(approval.decided(ApprovalStatus.WITHDRAWN, now=now))]

    def run_completed(self, number: int, stop_reason: str, now: int) -> Draft:
        """The run is over after that many steps; its row carries text and totals."""
        before = self._rows["run", self.key]
        row = before | {
            "status": "completed",
            "finish_reason": stop_reason,
            "text": text_of(self._content(number)),
            "steps": number,
            "duration_ms": (now - before.get("started_at", now)) // 1000,
            **self.spent.as_row(),
        }
        return self.put("run", self.key, row)

    def run_ended(
        self, told: Callable[[str | None], str], *, failure: str | None, now: int
    ) -> list[Draft]:
        """End a run that nobody goes on with, where it stands; nothing if it has ended.

        Its last step's tool calls without a result get the error that ``told`` gives for their
        status so far. Without a ``failure`` the run counts as completed, being interrupted.
        """
        run, number = self.run, self.steps_completed
        if run is None or run["status"] != "started":
            return []
        drafts = [
            draft
            for key, block, status in self.unanswered(number)
            for draft in (
                *self.approval_withdrawn(key, now),
                self.tool_call(key, block, "failed", error=told(status)),
            )
        ]
        drafts += self.steps_abandoned(INTERRUPTED)
        if failure is None:
            return [*drafts, self.run_completed(number, INTERRUPTED, now)]
        value = {"error_code": INTERRUPTED, "message": failure, "run_id": self.key}
        error = self.put("error", f"{self.key}:{INTERRUPTED}", value)
        ended = {"status": "failed", "finish_reason": INTERRUPTED}
        return [*drafts, error, self.put("run", self.key, run | self.spent.as_row() | ended)]

    def step_interrupted(self, number: int, content: Sequence[Block], now: int) -> list[Draft]:
        """The answer was cut short by an interrupt; what was said until then stands as said.

        A call of a tool that was being made is taken back: its arguments are not known.
        """
        key = self.step_key(number)
        before = self._rows["step", key]
        row = before | {
            "status": "completed",
            "finish_reason": INTERRUPTED,
            "duration_ms": (now - before["started_at"]) // 1000,
            UNCOUNTED: before.get(UNCOUNTED, 0) + 1,
            "content": list(content),
        }
        return [*self.answer_voided(number, {"tool_call"}), self.put("step", key, row)]

    def steps_abandoned(self, reason: str) -> list[Draft]:
        """End every model call that a dead attempt had begun and that nobody makes again."""
        begun = [
            name
            for name in (self.steps_completed + 1, *self.summaries())
            if (self.row("step", self.step_key(name)) or {}).get("status") == "started"
        ]
        return [draft for name in begun for draft in self.step_cut_off(name, reason)]

    def step_cut_off(self, number: Number, reason: str) -> list[Draft]:
        """The answer of a step was not waited for any longer."""
        key = self.step_key(number)
        row = self._rows["step", key]
        broken = number not in self._queued
        ended = _voided(row, broken=broken) | {"status": "failed", "finish_reason": reason}
        return [*self.answer_voided(number), self.put("step", key, row | ended)]

    def run_failed(self, number: Number, *, code: str, message: str) -> list[Draft]:
        """The model call of a step failed; running the wake again goes on from there."""
        key = self.step_key(number)
        ended = {"status": "failed", "finish_reason": "error"}
        row = self._rows["step", key]
        begun = Usage.of(row) != Usage.of(row.get(VOIDED) or {})
        step = row | _voided(row, broken=begun) | ended
        error = {"error_code": code, "message": message, "run_id": self.key, "step_id": key}
        return [
            *self.answer_voided(number),
            self.put("error", f"{key}:error:{step['attempt']}", error),
            self.put("step", key, step),
            self.put("run", self.key, self._rows["run", self.key] | self.spent.as_row() | ended),
        ]


def _voided(row: Row, *, broken: bool) -> Row:
    """The fields of a step whose attempts so far came to nothing; the last one may have broken."""
    billed = {name: row[name] for name in _BILLED if name in row}
    kept = billed | {VOIDED: billed} if billed else {}
    uncounted = row.get(UNCOUNTED, 0) + broken
    return kept | {UNCOUNTED: uncounted} if uncounted else kept


def runs_inside(scope: str, *, wake: str) -> str:
    """How the keys of the runs begin that are made in a scope: a tool call, or ``""``, the handler.

    There is no colon in it, so that the key of a run is what stands before the first one.
    """
    return f"{scope.replace(':', '-') or wake}-run-"


def calls_in(content: Sequence[Block]) -> list[Block]:
    """The calls of our tools among content blocks."""
    return [block for block in content if block["type"] == "tool_use"]


def text_of(content: Sequence[Block]) -> str:
    """What content blocks say."""
    return "".join(block["text"] for block in content if block["type"] == "text")
