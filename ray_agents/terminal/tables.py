"""Entities, types and descriptions as tables: aligned, one line each, addresses whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ray_agents.events import JSON, encode
from ray_agents.findings import Verification
from ray_agents.goals import GoalStatus
from ray_agents.terminal import cells, wording
from ray_agents.terminal.flow import visible
from ray_agents.terminal.spans import ago, until
from ray_agents.terminal.wording import attempts
from ray_agents.views import (
    ApprovalView,
    CostLine,
    EntityView,
    ParkedWake,
    Spending,
    StateView,
    Status,
    TypeView,
)

STATUS_STYLE: Mapping[Status, str] = {
    Status.SLEEPING: "dim",
    Status.WAITING: "yellow",
    Status.IDLE: "cyan",
    Status.RUNNING: "green",
    Status.RETRYING: "yellow",
    Status.STOPPED: "red",
}
NOTHING = "-"
_PLAIN = {"null": "none", "true": "yes", "false": "no"}
GAP = 3


def entities(items: Iterable[EntityView], *, now: int) -> RenderableType:
    """``ps``: one line an entity; ``now`` is microseconds since the epoch."""
    headers = ("ADDRESS", "STATUS", "CREATED", "LAST ACTIVE", "BACKLOG", "HOST")
    rows = [
        (
            Text(entity.address),
            status(entity),
            Text(ago(entity.created, now=now)),
            Text(ago(entity.last_event, now=now)),
            Text(str(entity.backlog)),
            host(entity),
        )
        for entity in items
    ]
    return _table(headers, rows)


def types(items: Iterable[TypeView]) -> RenderableType:
    """``types``: one line a type, then what its definition says."""
    headers = ("TYPE", "VERSION", "PLACEMENT", "SOURCE", "DESCRIPTION")
    cells = [
        (item.type, str(item.version), item.placement, item.source or NOTHING, item.description)
        for item in items
    ]
    return _table(headers, [tuple(Text(visible(cell)) for cell in row) for row in cells])


def entity(view: EntityView, *, now: int) -> RenderableType:
    """``inspect``: everything there is to say of one entity, what is empty left out."""
    rows: list[tuple[str, Text | str]] = [
        ("address", Text(view.address, style="bold")),
        ("status", status(view)),
        ("created", ago(view.created, now=now)),
        ("last active", ago(view.last_event, now=now)),
        ("backlog", str(view.backlog)),
        ("host", host(view)),
        ("log", f"{_kept(view)}, life {view.life}, epoch {view.epoch}"),
        ("durability", view.durability.value),
    ]
    if view.next_due is not None:
        count = f", {view.schedules} delayed" if view.schedules else ""
        rows.append(("next due", f"{until(view.next_due, now=now)}{count}"))
    if view.spent.tokens or view.over_budget:
        used_up = Text(", budget used up", style="red") if view.over_budget else Text()
        rows.append(("spent", Text(wording.spent(view.spent)).append(used_up)))
    rows += _budgets(view)
    if view.definition_version is not None:
        rows.append(("definition", f"version {view.definition_version}"))
    rows += _origin(view)
    rows += _facts(view.args, view.tags)
    below = [_approvals(view.approvals, now=now)] if view.approvals else []
    below += [_parked(view.parked)] if view.parked else []
    return Group(_pairs(rows), *(each for part in below for each in (Text(), part)))


def _budgets(view: EntityView) -> list[tuple[str, Text | str]]:
    """What bounds the entity's spending, what it has given away of it, and its goal."""
    rows: list[tuple[str, Text | str]] = []
    for bound in view.budgets:
        whose = " with all that descend from it" if bound.tree else ""
        kind = "share" if bound.share and view.parent else "budget"
        told = wording.limits(bound.tokens_max, bound.cost_micros_max)
        rows.append((kind, f"{told}{whose}"))
    if view.granted_tokens or view.granted_micros:
        given = wording.limits(view.granted_tokens or None, view.granted_micros or None)
        rows.append(("given", f"{given} to children"))
    if view.goal is not None:
        row = view.goal.model_dump()
        limited = ", used up" if view.goal.status == GoalStatus.BUDGET_LIMITED else ""
        rows.append(("goal", Text(visible(wording.goal(row).removeprefix("goal: ") + limited))))
    return rows


def _kept(view: EntityView) -> str:
    kept = f", those from {view.first:,} on are kept" if view.first else ""
    return f"{view.events:,} events{kept}"


def state(view: StateView, *, now: int) -> RenderableType:
    """``inspect --at``: what the log said up to an offset, then each collection."""
    life = f", life {view.life}" + (", killed" if view.stopped else "")
    lines: list[tuple[str, Text | str]] = [
        ("address", Text(view.address, style="bold")),
        ("as of", f"offset {view.at:,} of {view.tip:,}, {ago(view.time, now=now)}"),
        ("created", f"{ago(view.created, now=now)}{life}"),
        ("backlog", str(view.backlog)),
        ("open wakes", f"{view.open_wakes}, {len(view.parked)} parked"),
    ]
    if view.schedules or view.outgoing:
        lines.append(("left to do", f"{view.schedules} delayed, {view.outgoing} to be sent"))
    lines += _origin(view)
    lines += _facts(view.args, view.tags)
    for name, table in view.collections.items():
        lines += [(name if n == 0 else "", Text(visible(encode(r)))) for n, r in enumerate(table)]
    return _pairs(lines)


def _origin(view: EntityView | StateView) -> list[tuple[str, Text | str]]:
    lines: list[tuple[str, Text | str]] = []
    if view.parent:
        lines.append(("parent", Text(view.parent)))
    if view.forked_from:
        origin = view.forked_from
        kind = "fork of" if origin.cause == "fork" else "imported from"
        lines.append((kind, Text(f"{origin.address}, offset {origin.offset}")))
    return lines


def _facts(args: Mapping[str, JSON], tags: Mapping[str, str]) -> list[tuple[str, Text | str]]:
    lines: list[tuple[str, Text | str]] = []
    if args:
        lines.append(("arguments", Text(visible(encode(args)))))
    if tags:
        told = ", ".join(f"{k}={v}" for k, v in sorted(tags.items()))
        lines.append(("tags", Text(visible(told))))
    return lines


def rows(columns: Iterable[str], values: Iterable[Iterable[object]]) -> RenderableType:
    """``query``: a line for each row."""
    lines = [tuple(Text(cells.line(value)) for value in row) for row in values]
    return _table([cells.line(name) for name in columns], lines)


def costs(lines: Sequence[CostLine], *, by: str) -> RenderableType:
    """``cost``: a line for each type, entity, model or day, and their sum."""
    headers = (by.upper(), "STEPS", "INPUT", "OUTPUT", "CACHE READ", "CACHE WRITE", "COST")
    names = ("steps", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    told = [
        (visible(line.of), *(f"{getattr(line, name):,}" for name in names), wording.cost(line))
        for line in lines
    ]
    sums = (f"{sum(getattr(line, name) for line in lines):,}" for name in names)
    told.append(("total", *sums, wording.cost(_sum(lines))))
    return _table(headers, [tuple(Text(cell) for cell in row) for row in told])


def _sum(lines: Sequence[CostLine]) -> Spending:
    unpriced = sum(line.unpriced_tokens for line in lines)
    priced = sum(line.priced_micros for line in lines)
    return Spending(
        cost_micros=None if unpriced else priced, priced_micros=priced, unpriced_tokens=unpriced
    )


def summary(view: EntityView) -> RenderableType:
    """One line under a conversation: what the entity is doing now."""
    backlog = f", {view.backlog} in the inbox" if view.backlog else ""
    where = Text(" on ").append(host(view)) if view.host else Text()
    told = Text(f"{view.address} is ").append(status(view)).append(where).append(backlog)
    return told.append(f"; spent: {wording.spent(view.spent)}") if view.spent.tokens else told


def description(facts: Mapping[str, JSON]) -> RenderableType:
    """What ``start``, ``stop`` and ``status`` report: names and values; a list fills lines."""
    rows: list[tuple[str, Text | str]] = []
    for name, value in facts.items():
        lines = cast("Sequence[JSON]", value) if isinstance(value, list | tuple) else [value]
        for number, line in enumerate(lines or ["none"]):
            text = line if isinstance(line, str) else _PLAIN.get(encode(line), encode(line))
            rows.append((name.replace("_", " ") if number == 0 else "", Text(visible(text))))
    return _pairs(rows)


def runtime(facts: Mapping[str, JSON]) -> RenderableType:
    """``status``: as a description, with a line for each model that was called."""
    models = cast("Sequence[Mapping[str, Any]]", facts.get("models") or ())
    told: dict[str, JSON] = {name: value for name, value in facts.items() if name != "models"}
    return description(
        told | ({"models": [wording.at_model(each) for each in models]} if models else {})
    )


def verification(found: Verification, *, micros: int) -> RenderableType:
    """``log verify``: each finding with its place and what to do, then the sum of it."""
    lines = Text()
    for finding in found.findings:
        lines.append(f"{finding.fault.value:<{GAP + 10}}", style="bold red")
        lines.append(f"{visible(finding.place)}\n{visible(finding.what)}\n", style="default")
        lines.append(f"→ {visible(finding.remedy)}\n\n", style="dim")
    for name in found.repaired:
        lines.append(f"{'cut':<{GAP + 10}}", style="bold green").append(f"{name}\n\n")
    seconds = max(micros, 1) / 1e6
    count = len(found.findings)
    verdict = "nothing is wrong" if not count else f"{count:,} finding{'s' * (count > 1)}"
    what = f"{found.logs:,} logs, {found.files:,} files, {found.rows:,} rows, {found.bytes:,} bytes"
    lines.append(f"{what} in {seconds:.1f} s ({found.logs / seconds:,.0f} logs/s): {verdict}")
    return lines


def status(entity: EntityView) -> Text:
    """An entity's status in its colour, with what it waits for and what is parked."""
    text = Text(entity.status.value, style=STATUS_STYLE[entity.status])
    if entity.waiting_for:
        text.append(f" for {entity.waiting_for}")
    if entity.parked:
        text.append(f", {len(entity.parked)} parked", style="red")
    return text


def host(entity: EntityView) -> Text:
    """The host in which an entity is awake, with its process id; a dash if there is none."""
    if entity.host is None:
        return Text(NOTHING, style="dim")
    return Text(entity.host if entity.pid is None else f"{entity.host} (pid {entity.pid})")


def _approvals(waiting: Sequence[ApprovalView], *, now: int) -> RenderableType:
    rows = [
        (
            Text(visible(name), style="bold"),
            Text(visible(wording.call(each.tool, each.args))),
            Text(ago(each.requested, now=now)),
            Text(NOTHING if each.expires is None else until(each.expires, now=now)),
            Text(each.wake),
        )
        for name, each in wording.told_apart(waiting)
    ]
    return _table(("WAITS FOR APPROVAL", "CALL", "ASKED", "EXPIRES", "WAKE"), rows)


def _parked(wakes: Iterable[ParkedWake]) -> RenderableType:
    rows = [
        (
            Text(wake.wake),
            Text(str(wake.messages)),
            Text(attempts(wake.attempts)),
            Text(visible(wake.error), style="red"),
        )
        for wake in wakes
    ]
    return _table(("PARKED WAKE", "MESSAGES", "AFTER", "ERROR"), rows)


def _table(headers: Sequence[str], rows: Sequence[Sequence[Text]]) -> Text:
    """Aligned columns, numbers to the right. Nothing is cut: a line too long runs on.

    Not a rich Table, which drops columns on a narrow terminal; an address must stay copyable.
    """
    lines = [[Text(header, style="bold") for header in headers], *rows]
    for number in range(len(headers)):
        column = [line[number] for line in lines]
        width = max(cell.cell_len for cell in column)
        is_last = number == len(headers) - 1
        for cell in column:
            if _are_numbers(column[1:]):
                cell.pad_left(width - cell.cell_len)
            if not is_last:
                cell.pad_right(width - cell.cell_len + GAP)
    return Text("\n").join(Text().join(line) for line in lines)


def _are_numbers(column: Sequence[Text]) -> bool:
    return bool(column) and all(cell.plain.strip().replace(",", "").isdigit() for cell in column)


def _pairs(rows: Iterable[tuple[str, Text | str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, GAP, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table
