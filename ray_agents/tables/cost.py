"""``cost``: what a fleet's agents have spent, from its logs, by type, entity, model, day or tree.

The steps are read as columns: of each step its newest row counts, in every life an entity had, for
what a life that is over has cost was paid all the same. The steps that a fork or an import has
inherited stand in another log as well, and count there alone: one that was under way, too, which
the fork's own rows end (``closing.py``). What a retention has let go is not counted any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from typing import Any, get_args

from ray_agents.errors import InvalidPayload
from ray_agents.events import EntityCreated, decode
from ray_agents.ledger import COST, UNCOUNTED
from ray_agents.log.arrow import Batch, pa, pc
from ray_agents.model import USAGE_FIELDS
from ray_agents.origin import EntityForked
from ray_agents.tables.fleet import Selection
from ray_agents.tables.scan import OnCorrupt, Store, microseconds, open_store, read_batches
from ray_agents.views import CostBy, CostLine

pa_json: Any = import_module("pyarrow.json")

_KEYS: Mapping[str, str] = {"type": "entity_type", "entity": "address", "model": "model_id"}
_FACTS: Any = pa.schema(
    [("model_id", pa.string())] + [(name, pa.int64()) for name in (*USAGE_FIELDS, COST, UNCOUNTED)]
)
_ROW = ("address", "entity_type", "life", "offset", "time", "key")
_SUMS = (*USAGE_FIELDS, "tokens", COST, "unpriced", UNCOUNTED)


def cost(
    store: Store,
    *,
    by: CostBy = "type",
    since: datetime | None = None,
    on_corrupt: OnCorrupt | None = None,
) -> list[CostLine]:
    """What was spent, a line for each type, entity, model, day (UTC) or tree, by name.

    A step counts on the day it ended, and with ``since`` if that was then or later. A tree is an
    entity without a parent and all that descend from it. It wakes nobody and needs no runtime.

    Args:
        store: where the logs are kept, as in ``RAY_AGENTS_STORE``.
        by: what a line stands for.
        since: only steps of that time and later; it must carry its zone.
        on_corrupt: as in :func:`ray_agents.scan`.

    Raises:
        CorruptLog: a log is damaged; ``facts["address"]`` says which.
        InvalidPayload: an argument does not say what it must.
        StoreUnavailable: there is no such store, or it cannot be read.
    """
    if by not in get_args(CostBy):
        raise InvalidPayload(f"by={by!r}: write {', '.join(get_args(CostBy))}", field="by")
    begin = None if since is None else microseconds(since)
    families = [EntityCreated.TYPE] if by == "tree" else []
    selection = Selection(types=frozenset({"step", EntityForked.TYPE, *families}))
    steps: list[Any] = []
    inherited: dict[str, int] = {}
    parents: dict[str, tuple[int, str | None]] = {}
    for batch in read_batches(open_store(store), selection, on_corrupt=on_corrupt):
        _note_origins(batch, inherited, parents)
        steps.append(_facts_of(batch))
    if not steps:
        return []
    own = _own(_newest(pa.concat_tables(steps)), inherited)
    if by == "tree":
        roots = [_root(each, parents) for each in own.column("address").to_pylist()]
        own = own.append_column("tree", pa.array(roots, pa.string()))
    return _lines(own, by, begin)


async def cost_in(store: Store, *, by: CostBy, since: datetime | None) -> list[CostLine]:
    """As :func:`cost`, in a thread."""
    return await asyncio.to_thread(cost, store, by=by, since=since)


def _note_origins(
    batch: Batch, inherited: dict[str, int], parents: dict[str, tuple[int, str | None]]
) -> None:
    """Up to which offset the rows of a log are another's, and who has spawned whom."""
    kinds = pa.array([EntityCreated.TYPE, EntityForked.TYPE], pa.string())
    rows: Any = batch.filter(pc.is_in(batch.column("type"), kinds))
    for row in rows.select(["address", "offset", "type", "value"]).to_pylist():
        address, offset = row["address"], row["offset"]
        if row["type"] == EntityForked.TYPE:
            inherited[address] = max(offset, inherited.get(address, 0))
        parents[address] = max(parents.get(address, (-1, None)), (offset, _parent_in(row)))


def _parent_in(row: Mapping[str, Any]) -> str | None:
    return decode(row["value"]).get("parent") if row["value"] else None


def _root(address: str, parents: Mapping[str, tuple[int, str | None]]) -> str:
    """The ancestor that nobody has spawned; one whose log is gone is the last that is known."""
    seen = {address}
    while (parent := parents.get(address, (0, None))[1]) is not None and parent not in seen:
        address = parent
        seen.add(address)
    return address


def _facts_of(batch: Batch) -> Any:
    """The steps of a batch, with what their values say of their cost as columns."""
    mask = pc.and_(
        pc.equal(batch.column("type"), "step"), pc.not_equal(batch.column("operation"), "delete")
    )
    steps = pa.Table.from_batches([batch.filter(mask)])
    values = steps.column("value").combine_chunks().cast(pa.large_string())
    text = "\n".join(values.to_pylist()).encode()
    facts = _FACTS.empty_table() if not text else _parsed(text)
    table = pa.table({name: steps.column(name) for name in _ROW} | _columns(facts))
    life = table.column("life").fill_null(-1)  # its row was let go; nulls would match nothing
    return table.set_column(table.column_names.index("life"), "life", life)


def _columns(facts: Any) -> dict[str, Any]:
    return {name: facts.column(name) for name in _FACTS.names}


def _parsed(text: bytes) -> Any:
    """JSON texts, one a line, read by column; fields that are not asked for are passed over."""
    return pa_json.read_json(
        pa.BufferReader(text),
        read_options=pa_json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=pa_json.ParseOptions(
            explicit_schema=_FACTS, unexpected_field_behavior="ignore"
        ),
    )


def _newest(steps: Any) -> Any:
    """The newest row of each step; ``begun`` is the offset of its first."""
    ends = steps.group_by(["address", "life", "key"]).aggregate(
        [("offset", "max"), ("offset", "min")]
    )
    ends = ends.rename_columns(["address", "life", "key", "offset", "begun"])
    return steps.join(ends, keys=["address", "life", "key", "offset"], join_type="inner")


def _own(steps: Any, inherited: Mapping[str, int]) -> Any:
    """The steps that were not inherited, and of which it is known what they cost, or that they did.

    A call that broke before the provider had counted anything is an uncounted one of no tokens.
    """
    mask: Any = pc.or_(
        pc.is_valid(steps.column(USAGE_FIELDS[0])), pc.is_valid(steps.column(UNCOUNTED))
    )
    if inherited:
        starts = [inherited.get(each, -1) for each in steps.column("address").to_pylist()]
        mask = pc.and_(mask, pc.greater(steps.column("begun"), pa.array(starts, pa.int64())))
    return steps.filter(mask)


def _lines(steps: Any, by: CostBy, begin: int | None) -> list[CostLine]:
    if begin is not None:
        late = pc.greater_equal(steps.column("time"), pa.scalar(begin, pa.timestamp("us", "UTC")))
        steps = steps.filter(late)
    for name in (*USAGE_FIELDS, UNCOUNTED):
        column = steps.column(name).fill_null(0)
        steps = steps.set_column(steps.column_names.index(name), name, column)
    tokens = steps.column(USAGE_FIELDS[0])
    for name in USAGE_FIELDS[1:]:
        tokens = pc.add(tokens, steps.column(name))
    unpriced = pc.if_else(pc.is_null(steps.column(COST)), tokens, 0)
    steps = steps.append_column("tokens", tokens).append_column("unpriced", unpriced)
    if by == "day":
        steps = steps.append_column("day", pc.strftime(steps.column("time"), format="%Y-%m-%d"))
    key = _KEYS.get(by, by)
    sums = steps.group_by(key).aggregate([*((name, "sum") for name in _SUMS), ("key", "count")])
    return sorted((_line(row, key) for row in sums.to_pylist()), key=lambda line: line.of)


def _line(row: Mapping[str, Any], key: str) -> CostLine:
    priced, unpriced = row[f"{COST}_sum"] or 0, row["unpriced_sum"]
    return CostLine(
        of=row[key] or "",
        steps=row["key_count"],
        **{name: row[f"{name}_sum"] for name in USAGE_FIELDS},
        cost_micros=None if unpriced else priced,
        priced_micros=priced,
        unpriced_tokens=unpriced,
        uncounted=row[f"{UNCOUNTED}_sum"],
    )
