"""The words in which one row of a log is told: payloads, tool calls, wakes, everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from ray_agents.approvals import ApprovalRecorded
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
from ray_agents.views import Spending

TEXT_LENGTH_MAX = 500
UNKNOWN = "cost unknown"
USER_ROW_PREFIX = "state:"


def short(value: JSON) -> str:
    """A value on little space: text as it is, all else as JSON, cut after 500 characters."""
    text = value if isinstance(value, str) else encode(value)
    if len(text) <= TEXT_LENGTH_MAX:
        return text
    return f"{text[:TEXT_LENGTH_MAX]}… ({len(text):,} characters)"


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


def call(tool_name: str, args: JSON) -> str:
    """A tool call as Python would write it: ``multiply(a=17, b=23)``."""
    if isinstance(args, Mapping):
        fields = cast("Mapping[str, JSON]", args)
        return f"{tool_name}({short(', '.join(f'{k}={encode(v)}' for k, v in fields.items()))})"
    return f"{tool_name}({'' if args is None else short(args)})"


def outcome(tool_name: str, row: Mapping[str, JSON]) -> str:
    """What came of a tool call: its result or error, and how long it took."""
    failed = row.get("status") == "failed"
    said = (row.get("error") or "failed") if failed else row.get("result")
    took = row.get("duration_ms")
    return f"{tool_name}: {short(said)}" + (f" ({lasting(took)})" if took is not None else "")


def progress(row: Mapping[str, JSON]) -> str:
    """How far a tool has come: ``load: reading 3 of 10``."""
    done, total = row.get("done"), row.get("total")
    far = "" if done is None else f" {done:g}" + ("" if total is None else f" of {total:g}")
    return f"{row.get('tool_name')}: {row.get('message') or ''}{far}"


def decided(approval: ApprovalRecorded) -> str:
    """What people decided on a tool call, who, and why."""
    by = f" by {approval.by}" if approval.by else ""
    why = f": {approval.reason}" if approval.reason else ""
    return f"{approval.status.value}{by}: {approval.tool_name}{why}"


def step(row: Mapping[str, JSON]) -> str:
    """One model call in figures."""
    told = [f"step {row['step_number']}" if "step_number" in row else row.get("purpose") or "step"]
    if row.get("input_tokens") is not None:
        told.append(f"{row['input_tokens']:,} tokens in, {row.get('output_tokens') or 0:,} out")
    if "cost_micros" in row:
        told.append(UNKNOWN if row["cost_micros"] is None else money(row["cost_micros"]))
    if asked := row.get("context"):
        told.append(f"{ContextReport.of(asked).cacheable_share:.0%} cacheable")
    if row.get("duration_ms") is not None:
        told.append(lasting(row["duration_ms"]))
    if row.get("model_id"):
        told.append(str(row["model_id"]))
    return " · ".join(told)


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
    plural = "" if spending.uncounted == 1 else "s"
    missed = f", {spending.uncounted} broken call{plural} not wholly counted"
    told = f"{spending.tokens:,} tokens, {cost(spending)}"
    return told + (missed if spending.uncounted else "")


def woken(wake: WakeRecorded) -> str:
    """Why a handler begins."""
    cause = "message" if wake.source == "inbox" else f"{wake.source} event"
    plural = "" if wake.event_count == 1 else "s"
    again = f", attempt {wake.attempt}" if wake.attempt > 1 else ""
    died = f", {wake.deaths} host deaths before" if wake.deaths else ""
    return f"awake for {wake.event_count} {cause}{plural}{again}{died}"


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


def leaving(effect: EffectStaged) -> str:
    """What a handler sends away."""
    if effect.kind is OutboxKind.SPAWN:
        return f"spawns {effect.target}"
    after = effect.body.get("after_seconds")
    later = f" {until(round(after * MICROSECONDS), now=0)}" if after else ""
    return f"sends to {effect.target}{later}: {payload(effect.body.get('payload'))}"


def row(event: Event) -> str:
    """Any other row: a user's collection, a tag, a context entry, something newer than this."""
    name = event.type.removeprefix(USER_ROW_PREFIX)
    if event.operation is Operation.DELETE:
        return f"{name} {event.key} deleted"
    return f"{name} {event.key} = {short(event.value)}"
