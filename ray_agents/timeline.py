"""The transcript: an entity's log, read as the messages a model is sent.

Whatever prefix of a log it is built from, the transcript obeys the Messages API: user and
assistant alternate, every tool call is answered in the very next message, nothing is empty, and
thinking blocks stand as they came, with their signatures.

A log whose oldest rows were let go may begin in the middle of a run: the transcript begins with the
first run that is told of from its start.

Messages enter in the order in which runs saw them. One that arrives while a run is going on
belongs to a later wake, so it is held back until that wake's range of offsets covers it: no run's
transcript changes because of what came after it. One that the run took in itself stands where the
run's ``steered`` row does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

from ray_agents.callids import CallIds
from ray_agents.events import JSON, Event, Operation, encode
from ray_agents.media import blocks_in, check_media
from ray_agents.model import Block, Message
from ray_agents.runs import COMPACTION, ENDED, PURPOSE, STEERED, SUMMARIES, calls_in
from ray_agents.transcript import Turn, as_messages, replaced, turn

TYPES = SUMMARIES | {"inbox", "wake", "run", "step", "tool_call", STEERED}
INTERRUPTED = (
    "Interrupted: the process ended while this tool ran, before its result was recorded. It may "
    "or may not have taken effect, and it was not run again."
)
NOT_RUN = "Not run: {reason}."
REFUSED = "refusal"
SUMMARY = "Summary of the conversation so far, of which only the end follows:\n\n{summary}"


class Timeline:
    """Turns built from rows, fed in log order; a ``whole`` one passes over compactions.

    ``run`` is the run for which it is: of the summaries that are for one run alone it takes its.
    """

    def __init__(
        self, events: Iterable[Event] = (), *, whole: bool = False, run: str | None = None
    ) -> None:
        self._whole = whole
        self._run = run
        self._turns: list[Turn] = []
        self._waiting: dict[int, tuple[str, list[Block]]] = {}  # messages no wake has covered yet
        self._covered: int | None = None
        self._source: str | None = None
        self._wakes: dict[str, tuple[int, int]] = {}  # where each was last told of, and its range
        self._begun: dict[str, int] = {}  # where each run's turns begin
        self._unended: set[str] = set()  # runs
        self._gone_on: dict[str, int] = {}  # where a run was last told to begin, or to go on
        self._offsets: dict[str, int] = {}  # of what turns are anchored to, as far as it is known
        self._open: list[Block] = []  # tool calls of the last step
        self._opened: tuple[str, int | None] = ("", None)  # its run, and its offset
        self._results: dict[str, Block] = {}
        self._ids = CallIds()
        self._summed_up = 0  # answers that are in no turn any more
        for event in events:
            self.see(event)

    def see(self, event: Event) -> None:
        """Take in one row that is in the log."""
        if event.type not in TYPES or event.operation is Operation.DELETE:
            return
        row = event.value
        if event.type == "inbox":
            said = blocks_said_in(row["payload"])
            self._waiting[event.offset] = (event.key, said)
            self._offsets[f"inbox {event.key}"] = event.offset
        elif event.type == "wake":
            self._covered = max(self._covered or 0, row["to_offset"])
            if event.key not in self._wakes:  # a later row of the same wake is no other reason
                self._source = row.get("source")
                self._wakes[event.key] = (event.offset, self._covered)
        else:
            self.take(event.type, event.key, row, at=event.offset)

    def take(self, type_name: str, key: str, row: dict[str, Any], *, at: int | None = None) -> None:
        """Take in a row of a run, wherever it comes from; ``at`` is its offset, if it has one."""
        if at is not None:
            self.placed(type_name, key, at)
        if type_name == "run":
            self._take_run(key, row, at)
        elif type_name == "step" and row["status"] == "completed" and PURPOSE not in row:
            if self._has_begun:
                self._answer(key, row, at)
        elif type_name == STEERED and self._has_begun:
            self._join(row["message"], row["offset"], at)
        elif type_name == "tool_call" and row["status"] in ENDED:
            self._hear_result(row)
        elif type_name in SUMMARIES and self._takes_summary(type_name, key):
            self._compact(key, row)

    def _takes_summary(self, type_name: str, key: str) -> bool:
        own = type_name == COMPACTION or key.partition(":")[0] == self._run
        return own and not self._whole

    def placed(self, type_name: str, key: str, at: int) -> None:
        """Take note of the offset of a row that was taken in before it had one."""
        if type_name in ("run", "step"):
            self._offsets.setdefault(f"{type_name} {key}", at)

    def messages(self) -> list[Message]:
        """The transcript so far; tool calls without a result are answered as interrupted."""
        return as_messages(self.turns())

    @property
    def answers(self) -> int:
        """How many messages of the model there are, those in a summary's place included."""
        return self._summed_up + _answers_in(self._turns)

    def turns(self, run: str | None = None) -> list[Turn]:
        """The turns so far, or those since a run began, what it was told included."""
        since = 0 if run is None else self._begun.get(run, len(self._turns))
        return [*self._turns[since:], *self._pending_results()]

    def waiting(self) -> list[Turn]:
        """The messages that no run has been told yet, and that a wake has covered."""
        return [
            turn("inbox", key, role="user", content=said, at=at)
            for at, (key, said) in self._waiting.items()
            if said and self._is_covered(at)
        ]

    def begins_at(self, count: int) -> int | None:
        """The offset behind which stands all but the first ``count`` turns; None if not known."""
        kept = self._turns[count]
        if kept.at is not None or kept.kind != "run" or kept.anchor is None:
            return kept.at
        return self._offsets.get(kept.anchor)

    def cut(self, count: int) -> dict[str, Any]:
        """What the row of a compaction says of the place behind the first ``count`` turns.

        ``kept_from`` names the turn that comes next. Whoever reads that row first and then the rows
        from ``read_from`` on, if it is known, comes to the same transcript as from all rows.
        """
        kept = self._turns[count:]
        last = {kept[0].key} if kept[0].kind == "run" else set[str]()
        needed = [kept[0].anchor, *(each.anchor for each in kept if each.kind == "inbox")]
        offsets = [self._offsets.get(anchor) for anchor in needed if anchor is not None]
        answers = self._summed_up + _answers_in(self._turns[:count])
        known = [offset for offset in offsets if offset is not None]
        if len(known) < len(offsets):
            return {"kept_from": kept[0].anchor, "read_from": None, "answers": answers}
        read_from = min([*known, *self._waiting])
        begun = {
            run
            for run, since in self._begun.items()
            if since < count and self._offsets.get(f"run {run}", read_from) < read_from
        }
        told = {run for run, offset in self._gone_on.items() if offset >= read_from}
        before = [
            (covered, key) for key, (offset, covered) in self._wakes.items() if offset < read_from
        ]
        return {
            "kept_from": kept[0].anchor,
            "read_from": read_from,
            "wake": before[-1] if before else None,
            "runs": sorted(begun & (self._unended | last | told)),
            "answers": answers,
        }

    def _take_run(self, key: str, row: dict[str, Any], at: int | None) -> None:
        if row.get("status", "started") != "started":
            self._unended.discard(key)
            return
        self._unended.add(key)
        if at is not None:
            self._gone_on[key] = at
        if key not in self._begun:
            self._begin(key, row.get("input"), at)

    def _begin(self, run: str, text: str | None, at: int | None) -> None:
        """A run begins: what it is told comes before it."""
        self._close()
        self._drop_unfinished_server_tools()
        self._begun[run] = len(self._turns)
        covered = [offset for offset in self._waiting if self._is_covered(offset)]
        seen = [self._waiting.pop(offset) for offset in covered]
        told = [] if text is None else _text(text)
        if not told and not any(said for _, said in seen) and self._needs_user():
            told = _text(f"Woken by {self._source}." if self._source else "Continue.")
        self._source = None
        for key, said in seen:
            self._say(turn("inbox", key, role="user", content=said, at=at, anchor=f"inbox {key}"))
        self._say(turn("run", run, role="user", content=told, at=at, anchor=f"run {run}"))

    def _say(self, said: Turn) -> None:
        if said.content:
            self._turns.append(said)

    def _join(self, key: str, offset: int, at: int | None) -> None:
        """A run takes a message in, between the results of its last step and its next call.

        It counts as said also if its row is not there, but let go or before what is read.
        """
        _, said = self._waiting.pop(offset, (key, list[Block]()))
        self._close()
        self._drop_unfinished_server_tools()
        if not said and self._needs_user():
            said = _text("Continue.")
        self._say(turn("inbox", key, role="user", content=said, at=at, anchor=f"inbox {key}"))

    @property
    def _has_begun(self) -> bool:
        """Whether the transcript has a beginning: a run's, or a summary."""
        return bool(self._begun or self._turns)

    def _is_covered(self, offset: int) -> bool:
        return self._covered is None or offset < self._covered

    def _needs_user(self) -> bool:
        return not self._turns or self._turns[-1].role == "assistant"

    def _answer(self, key: str, step: dict[str, Any], at: int | None) -> None:
        self._close()
        if step["finish_reason"] == REFUSED:  # the provider asks that a refused turn be left out
            return
        content = self._ids.told(sendable(step["content"]))
        run = key.partition(":")[0]
        anchor = None if self._needs_user() else f"step {key}"  # a paused turn is not cut in two
        self._say(turn("run", run, role="assistant", content=content, at=at, anchor=anchor))
        self._open, self._opened = calls_in(content), (run, at)

    def _close(self) -> None:
        """Answer the last step's tool calls."""
        self._turns.extend(self._pending_results())
        self._open, self._results = [], {}

    def _pending_results(self) -> list[Turn]:
        blocks = [self._result_of(block) for block in self._open]
        run, at = self._opened
        return [turn("run", run, role="user", content=blocks, at=at)] if blocks else []

    def _result_of(self, call: Block) -> Block:
        found = self._results.get(self._ids.given(call["id"]))
        return found | {"tool_use_id": call["id"]} if found else _interrupted(call)

    def _hear_result(self, row: dict[str, Any]) -> None:
        """Keep the result of an open call, or put it where one was missed.

        The latter if another run has begun since the call: one inside of it, or beside.
        """
        run, call = row["run_id"], row["tool_call_id"]
        if run == self._opened[0] and self._open:
            self._results[call] = result_block(row)
            return
        since = self._begun.get(run, len(self._turns))
        for at in range(len(self._turns) - 1, since - 1, -1):
            said = self._turns[at]
            blocks = [self._arrived(block, row) for block in said.content]
            if said.key == run and blocks != said.content:
                self._turns[at] = replaced(said, blocks)
                return

    def _arrived(self, block: Block, row: dict[str, Any]) -> Block:
        """A block, or if it stands for this result that was not there the result."""
        told = block.get("tool_use_id", "")
        if block != _interrupted({"id": told}) or self._ids.given(told) != row["tool_call_id"]:
            return block
        return result_block(row) | {"tool_use_id": told}

    def _compact(self, key: str, row: dict[str, Any]) -> None:
        """Put a summary in the place of all turns before the one it names.

        If that one is not there, it is still to come, or was let go with what stood before it.
        """
        anchors = [each.anchor for each in self._turns]
        kept_from = row["kept_from"]
        cut = anchors.index(kept_from) if kept_from in anchors else self._summaries
        at = self._turns[cut].at if cut < len(self._turns) else None
        if not self._turns and row["read_from"] is not None:
            self._go_on_from(row)
        self._summed_up = row["answers"]
        told = _text(SUMMARY.format(summary=row["summary"]))
        said = turn("summary", key, role="user", content=told, at=at)
        self._turns = [said, *self._ids.of(self._turns[cut:])]
        if self._open:
            self._open = calls_in(self._turns[-1].content)
        self._begun = {
            run: 0 if since < cut else since - cut + 1 for run, since in self._begun.items()
        }

    def _go_on_from(self, row: dict[str, Any]) -> None:
        """Know what the rows would have told that are not read: see :meth:`cut`."""
        self._begun = dict.fromkeys(row["runs"], 0)
        self._offsets |= {f"run {run}": 0 for run in row["runs"]}  # before all that is read
        self._unended = set(row["runs"])
        if row["wake"] is not None:
            self._covered, wake = row["wake"]
            self._wakes[wake] = (0, row["wake"][0])

    @property
    def _summaries(self) -> int:
        """How many of the first turns are one."""
        return int(bool(self._turns) and self._turns[0].kind == "summary")

    def _drop_unfinished_server_tools(self) -> None:
        """A paused turn is not continued: its unanswered server tool calls would be invalid."""
        paused: list[Turn] = []
        while self._turns and self._turns[-1].role == "assistant":
            paused.append(self._turns.pop())
        blocks = [block for each in paused for block in each.content]
        answered = {block["tool_use_id"] for block in blocks if "tool_use_id" in block}
        kept: list[Turn] = []
        for each in paused:  # from the last on: what ends a message is not thinking
            content = [
                b for b in each.content if b["type"] != "server_tool_use" or b["id"] in answered
            ]
            content = content if kept else sendable(content)
            if content:
                kept.append(replaced(each, content))
        self._turns.extend(reversed(kept))


def _answers_in(turns: Iterable[Turn]) -> int:
    roles = [each.role for each in turns]
    return sum(
        role == "assistant" and before != role for before, role in pairwise(["user", *roles])
    )


def check_said(payload: Any) -> None:
    """Refuse what a model could not be shown; raises as :func:`ray_agents.media.check_media`."""
    if isinstance(payload, dict) and set(cast("dict[str, JSON]", payload)) == {"content"}:
        check_media(cast("dict[str, JSON]", payload)["content"])


def blocks_said_in(payload: JSON) -> list[Block]:
    """What a message's payload says to a model, as blocks; none if it says nothing.

    ``{"content": [block, …]}`` with an image or a document among them is said as it stands.
    """
    if isinstance(payload, dict) and set(cast("dict[str, JSON]", payload)) == {"content"}:
        blocks = blocks_in(cast("dict[str, JSON]", payload)["content"])
        if blocks is not None:
            return blocks
    return _text(said_in(payload))


def _text(text: str) -> list[Block]:
    return [{"type": "text", "text": text}] if text.strip() else []


def said_in(payload: JSON) -> str:
    """What a message's payload says to a model: its text, or else its JSON."""
    if isinstance(payload, str):
        return payload
    if isinstance(payload, dict):
        fields = cast("dict[str, JSON]", payload)
        if set(fields) == {"text"} and isinstance(fields["text"], str):
            return fields["text"]
    return encode(payload)


def sendable(content: Sequence[Block]) -> list[Block]:
    """Content blocks of an answer that may be sent back: no blank text, no thinking at the end."""
    kept = [block for block in content if block["type"] != "text" or block["text"].strip()]
    while kept and kept[-1]["type"] in ("thinking", "redacted_thinking"):
        kept.pop()
    return kept


def result_block(row: dict[str, Any]) -> Block:
    """The answer to a tool call, from its ended row."""
    failed = row["status"] == "failed"
    block: Block = {
        "type": "tool_result",
        "tool_use_id": row["tool_call_id"],
        "content": row["error"] if failed else row["result"],
    }
    return block | {"is_error": True} if failed else block


def _interrupted(call: Block) -> Block:
    row = {"status": "failed", "tool_call_id": call["id"], "error": INTERRUPTED}
    return result_block(row)
