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
from typing import Any, cast

from ray_agents.events import JSON, Event, Operation, encode
from ray_agents.media import blocks_in
from ray_agents.model import Block, Message
from ray_agents.runs import ENDED, STEERED, calls_in

TYPES = frozenset({"inbox", "wake", "run", "step", "tool_call", STEERED})
INTERRUPTED = (
    "Interrupted: the process ended while this tool ran, before its result was recorded. It may "
    "or may not have taken effect, and it was not run again."
)
NOT_RUN = "Not run: {reason}."
REFUSED = "refusal"


class Timeline:
    """Messages built from rows, fed in log order."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._messages: list[Message] = []
        self._waiting: dict[int, list[Block]] = {}  # by offset: messages no wake has covered yet
        self._covered: int | None = None
        self._source: str | None = None
        self._wakes: set[str] = set()
        self._runs: set[str] = set()
        self._open: list[Block] = []  # tool calls of the last step
        self._results: dict[str, Block] = {}
        for event in events:
            self.see(event)

    def see(self, event: Event) -> None:
        """Take in one row that is in the log."""
        if event.type not in TYPES or event.operation is Operation.DELETE:
            return
        row = event.value
        if event.type == "inbox":
            self._waiting[event.offset] = blocks_said_in(row["payload"])
        elif event.type == "wake":
            self._covered = max(self._covered or 0, row["to_offset"])
            if event.key not in self._wakes:  # a later row of the same wake is no other reason
                self._wakes.add(event.key)
                self._source = row.get("source")
        else:
            self.take(event.type, event.key, row)

    def take(self, type_name: str, key: str, row: dict[str, Any]) -> None:
        """Take in a row of a run, wherever it comes from."""
        if type_name == "run" and key not in self._runs:
            self._runs.add(key)
            self._begin(row.get("input"))
        elif type_name == "step" and row["status"] == "completed" and self._runs:
            self._answer(row)
        elif type_name == STEERED and self._runs:
            self._join(row["offset"])
        elif type_name == "tool_call" and row["status"] in ENDED:
            self._results[row["tool_call_id"]] = result_block(row)

    def messages(self) -> list[Message]:
        """The transcript so far; tool calls without a result are answered as interrupted."""
        messages = list(self._messages)
        _say(messages, "user", self._pending_results())
        return messages

    def _begin(self, text: str | None) -> None:
        """A run begins: what it is told comes before it."""
        self._close()
        self._drop_unfinished_server_tools()
        covered = [at for at in self._waiting if self._is_covered(at)]
        seen = [self._waiting.pop(at) for at in covered]
        if text is not None:
            seen.append(_text(text))
        if not any(seen) and self._needs_user():
            seen = [_text(f"Woken by {self._source}." if self._source else "Continue.")]
        self._source = None
        _say(self._messages, "user", [block for said in seen for block in said])

    def _join(self, offset: int) -> None:
        """A run takes a message in, between the results of its last step and its next call."""
        said = self._waiting.pop(offset, None)
        if said is None:  # its row was let go
            return
        self._close()
        self._drop_unfinished_server_tools()
        if not said and self._needs_user():
            said = _text("Continue.")
        _say(self._messages, "user", said)

    def _is_covered(self, offset: int) -> bool:
        return self._covered is None or offset < self._covered

    def _needs_user(self) -> bool:
        return not self._messages or self._messages[-1]["role"] == "assistant"

    def _answer(self, step: dict[str, Any]) -> None:
        self._close()
        if step["finish_reason"] == REFUSED:  # the provider asks that a refused turn be left out
            return
        content = sendable(step["content"])
        _say(self._messages, "assistant", content)
        self._open = calls_in(content)

    def _close(self) -> None:
        """Answer the last step's tool calls."""
        pending = self._pending_results()
        self._open, self._results = [], {}
        _say(self._messages, "user", pending)

    def _pending_results(self) -> list[Block]:
        return [self._results.get(block["id"]) or _interrupted(block) for block in self._open]

    def _drop_unfinished_server_tools(self) -> None:
        """A paused turn is not continued: its unanswered server tool calls would be invalid."""
        if not self._messages or self._messages[-1]["role"] == "user":
            return
        content = cast("list[Block]", self._messages.pop()["content"])
        answered = {block["tool_use_id"] for block in content if "tool_use_id" in block}
        kept = [b for b in content if b["type"] != "server_tool_use" or b["id"] in answered]
        _say(self._messages, "assistant", sendable(kept))


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


def _say(messages: list[Message], role: str, content: list[Block]) -> None:
    """Add a message, or join it to the last one of its role. Messages are replaced, not changed."""
    if not content:
        return
    if messages and messages[-1]["role"] == role:
        content = [*messages.pop()["content"], *content]
    messages.append({"role": role, "content": content})
