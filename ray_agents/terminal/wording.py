"""The words in which one row of a log is told: payloads, tool calls, wakes, everything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ray_agents.approvals import ApprovalRecorded
from ray_agents.budgets import Budget
from ray_agents.contextreport import ContextReport
from ray_agents.events import (
    JSON,
    EffectStaged,
    EntityCreated,
    EntityStopped,
    Event,
    MessageReceived,
    Operation,
    OutboxKind,
    WakeRecorded,
    encode,
)
from ray_agents.interruption import InterruptReceived
from ray_agents.modes import Mode
from ray_agents.origin import Cause, EntityForked
from ray_agents.terminal.spans import MICROSECONDS, lasting, until
from ray_agents.views import ApprovalView, Spending

TEXT_LENGTH_MAX = 500
CALL_CHARS_MAX = 60
UNKNOWN = "cost unknown"
USER_ROW_PREFIX = "state:"


def short(value: JSON, *, chars_max: int = TEXT_LENGTH_MAX) -> str:
    """A value on little space: text as it is, all else as JSON, cut if it is longer."""
    text = value if isinstance(value, str) else encode(value)
    if len(text) <= chars_max:
        return text
    return f"{text[:chars_max]}… ({len(text):,} characters)"


def payload(value: JSON) -> str:
    """A message as its sender wrote it: the bare text if it is nothing else."""
    if isinstance(value, dict):
        fields = cast("dict[str, JSON]", value)
        if set(fields) == {"text"} and isinstance(fields["text"], str):
            return fields["text"]
    return short(value)


def message(received: MessageReceived) -> tuple[str, str]:
    """A message's text, and what else there is to say of it."""
    notes = [] if received.message_type == "message" else [f"as {received.message_type}"]
    if received.sender:
        notes.append(f"from {received.sender}")
    if received.mode is not Mode.QUEUED:
        notes.append(received.mode.value)
    return payload(received.payload), ", ".join(notes)


def call(tool_name: str, args: JSON, *, chars_max: int = TEXT_LENGTH_MAX) -> str:
    """A tool call as Python would write it: ``multiply(a=17, b=23)``."""
    if isinstance(args, Mapping):
        fields = cast("Mapping[str, JSON]", args)
        told = ", ".join(f"{name}={encode(value)}" for name, value in fields.items())
        return f"{tool_name}({short(told, chars_max=chars_max)})"
    return f"{tool_name}({'' if args is None else short(args, chars_max=chars_max)})"


def outcome(which: str, row: Mapping[str, JSON]) -> str:
    """What came of a tool call, named ``which``: its result or error, and how long it took.

    Nobody knows that of a call that never began, or that was interrupted by a crash.
    """
    failed = row.get("status") == "failed"
    said = (row.get("error") or "failed") if failed else row.get("result")
    took = row.get("duration_ms")
    if isinstance(said, list):
        said = "\n".join(block(each) for each in cast("list[Mapping[str, JSON]]", said))
    return f"{which}: {short(said)}" + (f" ({lasting(took)})" if took is not None else "")


def block(content: Mapping[str, JSON]) -> str:
    """A content block of a result: its text, or what kind of thing it is and how large."""
    if content.get("type") == "text":
        return str(content.get("text"))
    source = cast("Mapping[str, JSON]", content.get("source") or {})
    kind = source.get("media_type") or source.get("url") or content.get("type")
    size = f", {len(source['data']) * 3 // 4:,} bytes" if source.get("data") else ""
    return f"[{kind}{size}]"


def progress(row: Mapping[str, JSON]) -> str:
    """How far a tool has come: ``load: reading 3 of 10``."""
    done, total = row.get("done"), row.get("total")
    far = "" if done is None else f" {done:g}" + ("" if total is None else f" of {total:g}")
    return f"{row.get('tool_name')}: {row.get('message') or ''}{far}"


def decided(approval: ApprovalRecorded) -> str:
    """What people decided on which tool call, who, and why."""
    by = f" by {approval.by}" if approval.by else ""
    why = f": {approval.reason}" if approval.reason else ""
    called = call(approval.tool_name, approval.args, chars_max=CALL_CHARS_MAX)
    return f"{approval.status.value}{by}: {called}{why}"


def step(row: Mapping[str, JSON], *, model: str) -> str:
    """One model call in figures; ``model`` is empty if it is that of the step before."""
    told = [f"step {row['step_number']}" if "step_number" in row else row.get("purpose") or "step"]
    told += _figures(row)
    if row.get("finish_reason") in ("max_tokens", "refusal", "model_context_window_exceeded"):
        told.append(str(row["finish_reason"]))
    return " · ".join([*told, *([model] if model else [])])


def run(row: Mapping[str, JSON], stopped_by: str | None, *, awaited: int = 0) -> str:
    """A run in figures, and the limit that ended it, if one did.

    ``awaited`` is how much of its time it waited for people, in microseconds.
    """
    told = [f"run of {row['steps']} step{'' if row['steps'] == 1 else 's'}", *_figures(row)]
    if awaited and row.get("duration_ms") is not None:
        told[-1] += f", of which {lasting(awaited / 1000)} waiting"
    return " · ".join([*told, *([f"stopped: {stopped_by}"] if stopped_by else [])])


def _figures(row: Mapping[str, JSON]) -> list[str]:
    """Tokens, cost and time of a step or a run, as far as its row has them."""
    told: list[str] = []
    if row.get("input_tokens") is not None:
        read, written = row.get("cache_read_tokens") or 0, row.get("cache_write_tokens") or 0
        cached = f" ({read:,} of them cached)" if read else ""
        into = row["input_tokens"] + read + written
        told.append(f"{into:,} tokens in{cached}, {row.get('output_tokens') or 0:,} out")
    if "cost_micros" in row:
        told.append(UNKNOWN if row["cost_micros"] is None else money(row["cost_micros"]))
    if asked := row.get("context"):
        told.append(f"{ContextReport.of(asked).cacheable_share:.0%} cacheable")
    if row.get("duration_ms") is not None:
        told.append(lasting(row["duration_ms"]))
    return told


def goal(row: Mapping[str, JSON]) -> str:
    """What an entity works towards, and how far it may go for it."""
    said = f": {row['summary']}" if row.get("summary") else ""
    if row.get("status") == "complete":
        return f"goal complete{said}"
    budget = row.get("token_budget")
    bound = "" if budget is None else f" ({row['tokens_used']:,} of {budget:,} tokens used)"
    return f"goal: {short(row.get('objective'))}{bound}"


def limits(tokens: int | None, micros: int | None) -> str:
    """What may be spent: ``1,000 tokens and $0.50``."""
    parts = [] if tokens is None else [f"{tokens:,} tokens"]
    parts += [] if micros is None else [money(micros)]
    return " and ".join(parts)


def money(micros: int) -> str:
    """Micro-dollars as dollars, to the last of them: ``$0.000410``, ``$12.34``."""
    whole, rest = divmod(micros, 1_000_000)
    cents = f"{rest:06d}"
    return f"${whole:,}.{cents[:2] if cents.endswith('0000') else cents}"


def cost(spending: Spending) -> str:
    """What was paid; what has no price is unknown, not nothing."""
    known = money(spending.priced_micros)
    if spending.cost_micros is not None:
        return known
    return f"{known} + unknown" if spending.priced_micros else UNKNOWN


def spent(spending: Spending) -> str:
    """Tokens and money."""
    told = f"{spending.tokens:,} tokens, {cost(spending)}"
    return told + (f", {missed(spending.uncounted)}" if spending.uncounted else "")


def missed(uncounted: int) -> str:
    """How many model calls may have cost more than is counted."""
    return f"{uncounted:,} broken call{'' if uncounted == 1 else 's'} not wholly counted"


def woken(wake: WakeRecorded) -> str:
    """Why a handler begins."""
    cause = "message" if wake.source == "inbox" else f"{wake.source} event"
    plural = "" if wake.event_count == 1 else "s"
    again = f", attempt {wake.attempt}" if wake.attempt > 1 else ""
    deaths = f"{wake.deaths} host death{'' if wake.deaths == 1 else 's'}"
    died = f", {deaths} before" if wake.deaths else ""
    return f"awake for {wake.event_count} {cause}{plural}{again}{died}"


def error(code: str, message: str) -> str:
    """An error's code and what it says, which may begin with the code."""
    said = message.startswith((f"{code}:", f"the run was {code}:"))
    return message if said else f"{code}: {message}"


def attempts(count: int) -> str:
    """``1 attempt``, ``3 attempts``."""
    return f"{count} attempt{'' if count == 1 else 's'}"


def created(entity: EntityCreated) -> str:
    """Where an entity came from."""
    told = f"{entity.entity_type} created"
    if entity.parent:
        told += f" by {entity.parent}"
    return told + (f" with {short(entity.args)}" if entity.args else "")


def forked(origin: EntityForked) -> str:
    """Where the rows before come from."""
    kind = "forked from" if origin.cause is Cause.FORK else "imported from"
    return f"{kind} {origin.source}, whose log counts below offset {origin.offset}"


def stopped(entity: EntityStopped) -> str:
    """How an entity ended."""
    return f"killed: {entity.reason}" if entity.reason else "killed"


def interrupt(received: InterruptReceived) -> str:
    """Who told a wake to stop, and why."""
    told = f"told to stop by {received.sender}" if received.sender else "told to stop"
    return f"{told}: {received.reason}" if received.reason else told


def at_model(row: Mapping[str, Any]) -> str:
    """What goes on at one model, as the gateway knows it; see ``sharing.ModelSharing.status``."""
    told = [f"{row['in_flight']} of {row['limit']} calls under way"]
    if row["waiting"]:
        longest = lasting(row["waited_seconds"] * 1000)
        told.append(f"{row['waiting']} wait, the longest for {longest}")
    if row["paused_seconds"]:
        told.append(f"paused for {lasting(row['paused_seconds'] * 1000)}")
    told += [
        f"{row[what]['used']:,} of {row[what]['allowed']:,} {what} a minute"
        for what in ("requests", "tokens")
        if row[what]
    ]
    told.append(f"{row['hosts']} host{'' if row['hosts'] == 1 else 's'}")
    return f"{row['model']} ({row['provider']}): {', '.join(told)}"


def told_apart(waiting: Sequence[ApprovalView]) -> list[tuple[str, ApprovalView]]:
    """The calls that wait, each behind what names it: its id, or its key if ids repeat."""
    times = Counter(each.id for each in waiting)
    return [(each.id if times[each.id] == 1 else each.key, each) for each in waiting]


def leaving(effect: EffectStaged) -> str:
    """What a handler sends away."""
    if effect.kind is OutboxKind.SPAWN:
        share = Budget.of_row(effect.body.get("budget") or {}).limits
        told = f", which may spend {limits(share.get('tokens'), share.get('micros'))}"
        return f"spawns {effect.target}{told if share else ''}"
    after = effect.body.get("after_seconds")
    later = f" {until(round(after * MICROSECONDS), now=0)}" if after else ""
    return f"sends to {effect.target}{later}: {payload(effect.body.get('payload'))}"


def row(event: Event) -> str:
    """Any other row: a user's collection, a tag, a context entry, something newer than this."""
    name = event.type.removeprefix(USER_ROW_PREFIX)
    if event.operation is Operation.DELETE:
        return f"{name} {event.key} deleted"
    return f"{name} {event.key} = {short(event.value)}"
