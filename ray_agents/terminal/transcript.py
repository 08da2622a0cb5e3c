"""Events told as a conversation: messages, thoughts, streamed text, tool calls, wakes, errors.

:class:`Transcript` is a fold with output: it takes one event after the other and answers with
strokes, pieces of styled text to write one after the other. It writes nothing itself. Text and
thoughts come in deltas, so a line may stay open over many events; any other event closes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import cast

from ray_agents.approvals import ApprovalRecorded, awaited
from ray_agents.deferral import DeliveryDeferred
from ray_agents.events import (
    JSON,
    EffectStaged,
    EntityCreated,
    EntityStopped,
    ErrorRecorded,
    Event,
    MessageReceived,
    Operation,
    SendScheduled,
    WakeRecorded,
    WakeStatus,
)
from ray_agents.goals import GOAL_KEY
from ray_agents.interruption import InterruptReceived
from ray_agents.origin import EntityForked
from ray_agents.progress import PROGRESS_TYPE
from ray_agents.runs import COMPACTION, PURPOSE, STEERED
from ray_agents.runs import INTERRUPTED as RUN_INTERRUPTED
from ray_agents.terminal import wording
from ray_agents.terminal.flow import Flow, set_text
from ray_agents.terminal.spans import MICROSECONDS, lasting, until
from ray_agents.views import ApprovalStatus
from ray_agents.wakes import INTERRUPTED

CLOCK = "%H:%M:%S"
INDENT = 11  # a clock time, a space, a sign, a space
TEXT_WIDTH_MAX = 110

# Rows that repeat what others tell, or that only steer the runtime.
SILENT = frozenset(
    {
        "text",
        "reasoning",
        "log_manifest",
        "log_sealed",
        "replay_watermark",
        "child_status",
        "ledger",
    }
)


WORDS = frozenset({"text", "reasoning"})


@dataclass(frozen=True, slots=True)
class Stroke:
    """A piece of text in one style (a rich style; empty for the terminal's own)."""

    text: str
    style: str = ""


Strokes = Iterator[Stroke]
THOUGHT = "dim italic"
NORMAL_ENDS = frozenset({"end_turn", "stop_sequence", "stop"})


@dataclass(slots=True, kw_only=True)
class Transcript:
    """Tells one entity's events. ``width`` is the terminal's in columns, None to break no line."""

    address: str
    zone: tzinfo | None = None
    width: int | None = None
    _open: str = ""  # what the open line streams: the key of a text or of a thought
    _style: str = ""
    _flow: Flow | None = None
    _told_runs: set[str] = field(default_factory=set[str])
    _told_calls: set[str] = field(default_factory=set[str])
    _told_words: set[str] = field(default_factory=set[str])  # keys of texts and of thoughts
    _called: str = ""  # the call that the last line tells
    _running: set[str] = field(default_factory=set[str])  # calls that were told, without a result
    # Of each step and tool the calls, and of each run the approvals, by key.
    _calls: dict[tuple[str, str], set[str]] = field(default_factory=dict[tuple[str, str], set[str]])
    _approvals: dict[str, dict[str, ApprovalRecorded]] = field(
        default_factory=dict[str, dict[str, ApprovalRecorded]]
    )
    _cut: set[str] = field(default_factory=set[str])  # wakes one of whose runs nobody goes on with
    _model: str = ""
    _asked: dict[str, str] = field(default_factory=dict[str, str])  # by id, the first call's key
    _woken: dict[str, int] = field(default_factory=dict[str, int])
    _tellers: Mapping[str, Callable[[Event], Strokes]] = field(init=False)

    def __post_init__(self) -> None:
        self._tellers = {
            "text_delta": self._text_delta,
            "reasoning_delta": self._reasoning_delta,
            "run": self._run,
            "step": self._step,
            "compaction": self._compaction,
            "own_compaction": self._compaction,
            "tool_call": self._tool_call,
            ApprovalRecorded.TYPE: self._approval,
            PROGRESS_TYPE: self._progress,
            STEERED: self._steered,
            MessageReceived.TYPE: self._inbox,
            WakeRecorded.TYPE: self._wake,
            ErrorRecorded.TYPE: self._error,
            EntityCreated.TYPE: self._created,
            EntityStopped.TYPE: self._stopped,
            EntityForked.TYPE: self._forked,
            EffectStaged.TYPE: self._outbox,
            InterruptReceived.TYPE: self._interrupt,
            DeliveryDeferred.TYPE: self._deferred,
            SendScheduled.TYPE: self._manifest,
        }

    def tell(self, event: Event) -> Strokes:
        """What to write now that ``event`` has happened."""
        if event.type in WORDS and event.operation is Operation.DELETE:
            yield from self._taken_back(event)
        if event.type in SILENT:
            return
        teller = self._tellers.get(event.type)
        if event.type == SendScheduled.TYPE and event.operation is Operation.DELETE:
            yield from self._line(event, "◎", f"{event.key} cleared", style="bold")
        elif teller is None:
            yield from self._line(event, "=", wording.row(event), style="blue")
        elif event.operation is not Operation.DELETE:
            yield from teller(event)

    def close(self) -> Strokes:
        """End an open line."""
        if self._flow is not None:
            yield Stroke(self._flow.close(), self._style)
            yield Stroke("\n")
        self._flow, self._open = None, ""

    # -- lines ---------------------------------------------------------------------------------

    def _line(self, event: Event, sign: str, text: str, *, style: str, note: str = "") -> Strokes:
        yield from self._begin(event, sign, style)
        yield Stroke(set_text(text, indent=INDENT, width=self._text_width), style)
        yield Stroke(f"  {note}\n" if note else "\n", "dim")

    def _begin(self, event: Event, sign: str, style: str) -> Strokes:
        yield from self.close()
        self._called = ""
        clock = datetime.fromtimestamp(event.time / MICROSECONDS, tz=self.zone)
        yield Stroke(clock.strftime(CLOCK) + " ", "dim")
        yield Stroke(sign + " ", style or "bold green")

    @property
    def _text_width(self) -> int | None:
        return None if self.width is None else max(min(self.width, TEXT_WIDTH_MAX), INDENT + 20)

    def _stream(self, event: Event, source: str, *, sign: str, style: str) -> Strokes:
        if self._open != source or self._flow is None:
            yield from self._begin(event, sign, style)
            self._flow = Flow(indent=INDENT, width=self._text_width)
            self._open, self._style = source, style
        if ready := self._flow.feed(_fields(event).get("delta") or ""):
            yield Stroke(ready, style)

    # -- one method for each type of row ---------------------------------------------------------

    def _text_delta(self, event: Event) -> Strokes:
        row = _fields(event)
        self._told_runs.add(str(row.get("run_id")))
        self._told_words.add(str(row.get("text_id")))
        yield from self._stream(event, f"text {row.get('text_id')}", sign="●", style="")

    def _reasoning_delta(self, event: Event) -> Strokes:
        row = _fields(event)
        self._told_words.add(str(row.get("reasoning_id")))
        source = f"reasoning {row.get('reasoning_id')}"
        yield from self._stream(event, source, sign="~", style=THOUGHT)

    def _taken_back(self, event: Event) -> Strokes:
        """What was streamed is deleted: its answer broke off, and the model is asked again."""
        if event.key in self._told_words:
            self._told_words.discard(event.key)
            told = "the answer broke off: what it said is taken back"
            yield from self._line(event, "!", told, style="yellow")

    def _run(self, event: Event) -> Strokes:
        row = _fields(event)
        reason = str(row.get("finish_reason") or "no reason recorded")
        if row.get("status") == "failed":
            if reason != RUN_INTERRUPTED:  # of that its error row tells
                yield from self._line(event, "✗", f"run failed: {reason}", style="red")
        elif row.get("text") and event.key not in self._told_runs:
            yield from self._line(event, "●", row["text"], style="")
        if row.get("status") == "completed" and "steps" in row:
            normal = reason in NORMAL_ENDS
            if row["steps"] != 1 or not normal:
                waits = awaited(self._approvals.get(event.key, {}).values())
                told = wording.run(row, None if normal else reason, awaited=waits)
                yield from self._line(event, "·", told, style="dim" if normal else "yellow")

    def _step(self, event: Event) -> Strokes:
        row = _fields(event)
        if row.get("status") == "completed":
            if row.get(PURPOSE) != COMPACTION:  # what it says is the summary, which has a row
                yield from self._unstreamed(event, row)
            model = str(row.get("model_id") or "")
            told = wording.step(row, model="" if model == self._model else model)
            self._model = model
            yield from self._line(event, "·", told, style="dim")

    def _unstreamed(self, event: Event, row: Mapping[str, JSON]) -> Strokes:
        """What a step has thought and said of which there are no deltas, or none any more."""
        for index, block in enumerate(row.get("content") or ()):
            kind = block.get("type")
            if kind == "redacted_thinking":
                yield from self._line(event, "~", "(thoughts that are not shown)", style=THOUGHT)
            elif kind == "thinking" and f"{event.key}:reasoning:{index}" not in self._told_words:
                if block["thinking"]:
                    yield from self._line(event, "~", block["thinking"], style=THOUGHT)
            elif kind == "text" and f"{event.key}:text:{index}" not in self._told_words:
                self._told_runs.add(str(row.get("run_id")))
                yield from self._line(event, "●", block["text"], style="")

    def _compaction(self, event: Event) -> Strokes:
        row = _fields(event)
        told = f"{row.get('turns')} turns, about {row.get('tokens'):,} tokens, are summed up:"
        yield from self._line(event, "≡", f"{told} {row.get('summary')}", style="dim")

    def _tool_call(self, event: Event) -> Strokes:
        row = _fields(event)
        name, status = str(row.get("tool_name")), row.get("status")
        self._count(event.key, name)
        ended, begun = status in ("completed", "failed"), event.key in self._told_calls
        if status == "failed" and not begun and not row.get("duration_ms"):
            called = wording.call(name, row.get("args"))
            refused = wording.outcome(called, {**row, "duration_ms": None})
            yield from self._line(event, "✗", refused, style="red")
            return  # it never ran; older logs have 0 of it
        if status != "started" and not begun:
            self._told_calls.add(event.key)
            called = wording.call(name, row.get("args"))
            yield from self._line(event, "→", called, style="yellow")
            self._called = event.key
            self._running.add(event.key)
        if ended:
            # Of calls side by side, and of one tool in one step, the result says which it is of.
            alone = self._called == event.key and self._running <= {event.key}
            alone = alone and len(self._count(event.key, name)) == 1
            sign, style = ("✗", "red") if status == "failed" else ("←", "green")
            self._running.discard(event.key)
            which = (
                name
                if alone
                else wording.call(name, row.get("args"), chars_max=wording.CALL_CHARS_MAX)
            )
            yield from self._line(event, sign, wording.outcome(which, row), style=style)

    def _count(self, key: str, tool_name: str) -> set[str]:
        """The keys of the calls of one tool that are known of a step, that of ``key`` included."""
        step = key.rpartition(":tool:")[0] or key
        calls = self._calls.setdefault((step, tool_name), set())
        calls.add(key)
        return calls

    def _progress(self, event: Event) -> Strokes:
        yield from self._line(event, "…", wording.progress(_fields(event)), style="dim yellow")

    def _approval(self, event: Event) -> Strokes:
        approval = ApprovalRecorded.of(event)
        self._count(approval.key, approval.tool_name)
        self._approvals.setdefault(approval.run_id, {})[approval.key] = approval
        called = wording.call(approval.tool_name, approval.args)
        match approval.status:
            case ApprovalStatus.PENDING:
                call_id, key = approval.tool_call_id, approval.key
                repeated = self._asked.setdefault(call_id, key) != key
                which = f"{self.address} {key if repeated else call_id}"
                verbs = f"ray-agents approve {which}, or deny {which}"
                told = f"waits for approval: {called}\n{verbs}"
                yield from self._line(event, "?", told, style="bold yellow")
            case ApprovalStatus.APPROVED:
                yield from self._line(event, "✓", wording.decided(approval), style="green")
            case ApprovalStatus.WITHDRAWN:
                yield from self._line(event, "·", wording.decided(approval), style="dim")
            case ApprovalStatus.DENIED | ApprovalStatus.EXPIRED:
                yield from self._line(event, "✗", wording.decided(approval), style="red")

    def _inbox(self, event: Event) -> Strokes:
        text, note = wording.message(MessageReceived.of(event))
        yield from self._line(event, "❯", text, style="bold cyan", note=note)

    def _is_told(self, wake: WakeRecorded) -> bool:
        """Whether other rows tell what a wake's row says: what joined it, stopped it, ended it."""
        match wake.status:
            case WakeStatus.STARTED:
                return wake.key in self._woken and bool(wake.joined or wake.interrupted)
            case WakeStatus.WAITING:
                return wake.interrupted
            case WakeStatus.SKIPPED:
                return wake.key in self._cut
            case _:
                return False

    def _wake(self, event: Event) -> Strokes:
        wake = WakeRecorded.of(event)
        if self._is_told(wake):
            return
        match wake.status:
            case WakeStatus.STARTED:
                self._woken[wake.key] = event.time
                yield from self._line(event, "·", wording.woken(wake), style="dim")
            case WakeStatus.WAITING:
                yield from self._line(event, "·", "waits for approval, may sleep", style="dim")
            case WakeStatus.HANDLED:
                begun = self._woken.pop(wake.key, None)
                took = f" in {lasting((event.time - begun) / 1000)}" if begun else ""
                how = "interrupted" if wake.interrupted else "handled"
                yield from self._line(event, "·", f"{how}{took}, may sleep", style="dim")
            case WakeStatus.FAILED if wake.error == INTERRUPTED:
                yield from self._line(event, "·", INTERRUPTED, style="dim")
            case WakeStatus.FAILED if wake.attempt == 0:
                yield from self._line(event, "·", "to be tried again, as asked", style="dim")
            case WakeStatus.FAILED:
                wait = lasting(max(wake.retry_at - event.time, 0) / 1000)
                told = f"attempt {wake.attempt} failed: {wake.error}; again in {wait}"
                yield from self._line(event, "!", told, style="yellow")
            case WakeStatus.PARKED:
                told = f"parked after {wording.attempts(wake.attempt)}: {wake.error}\n"
                verbs = f"ray-agents retry {self.address}, or skip {self.address}"
                yield from self._line(event, "✗", told + verbs, style="red")
            case WakeStatus.SKIPPED:
                yield from self._line(event, "·", "skipped", style="dim")

    def _manifest(self, event: Event) -> Strokes:
        """A goal; or a delayed send, when it is accepted: when it is due, its inbox row tells."""
        if event.key == GOAL_KEY:
            yield from self._line(event, "◎", wording.goal(_fields(event)), style="bold")
        if not SendScheduled.is_row(event.type, event.key):
            return
        if event.headers.get(SendScheduled.STATUS_HEADER) == SendScheduled.PENDING:
            send = SendScheduled.of(event)
            text, note = wording.message(send.message(now=event.time))
            told = f"{until(send.fire_at, now=event.time)}: {text}"
            yield from self._line(event, "◷", told, style="cyan", note=note)

    def _error(self, event: Event) -> Strokes:
        error = ErrorRecorded.of(event)
        if error.error_code == RUN_INTERRUPTED:
            self._cut.add(str(_fields(event).get("run_id")).partition("-run-")[0])
        told = wording.error(error.error_code, error.message)
        yield from self._line(event, "✗", told, style="red")
        if error.traceback:
            trace = set_text(error.traceback, indent=INDENT, width=None)
            yield Stroke(" " * INDENT + trace + "\n", "dim red")

    def _created(self, event: Event) -> Strokes:
        yield from self._line(event, "+", wording.created(EntityCreated.of(event)), style="bold")

    def _forked(self, event: Event) -> Strokes:
        yield from self._line(event, "+", wording.forked(EntityForked.of(event)), style="bold")

    def _stopped(self, event: Event) -> Strokes:
        told = wording.stopped(EntityStopped.of(event))
        yield from self._line(event, "■", told, style="bold red")

    def _deferred(self, event: Event) -> Strokes:
        waits = DeliveryDeferred.of(event)
        again = until(waits.retry_at, now=event.time)
        told = f"{waits.target} is out of reach: {waits.error}; again {again}"
        yield from self._line(event, "!", told, style="yellow")

    def _interrupt(self, event: Event) -> Strokes:
        told = wording.interrupt(InterruptReceived.of(event))
        yield from self._line(event, "■", told, style="yellow")

    def _steered(self, event: Event) -> Strokes:
        offset = _fields(event).get("offset")
        yield from self._line(event, "↳", f"took in the message at {offset}", style="dim cyan")

    def _outbox(self, event: Event) -> Strokes:
        yield from self._line(event, "↗", wording.leaving(EffectStaged.of(event)), style="magenta")


def _fields(event: Event) -> Mapping[str, JSON]:
    value = event.value
    return cast("dict[str, JSON]", value) if isinstance(value, dict) else {}
