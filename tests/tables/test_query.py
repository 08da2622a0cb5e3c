"""``query``: the seven views, held to what the runtime itself says of the same entities."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ray_agents
from ray_agents.approvals import ApprovalRecorded
from ray_agents.cli import main
from ray_agents.client import Client
from ray_agents.definition import Definition, Limits, Registry
from ray_agents.errors import (
    CorruptLog,
    HandlerFailed,
    InvalidPayload,
    MissingPackage,
    StoreUnavailable,
)
from ray_agents.events import Draft, Event, Operation, WakeRecorded, WakeStatus
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.store import open_blobs
from ray_agents.model import Block
from ray_agents.models.scripted import Says
from ray_agents.ports import Blobs
from ray_agents.records import latest_rows
from ray_agents.runs import RunRecord
from ray_agents.tables import query as querying
from ray_agents.tables.query import query
from ray_agents.tables.views import VIEWS
from ray_agents.terminal.failures import ExitCode
from ray_agents.testing import local_client
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import message
from ray_agents.testing.scan_suite import ADA, append, created, flip_a_bit, log_of
from ray_agents.tools import tool
from ray_agents.views import ApprovalStatus

registry = Registry()


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    if a == 13:
        raise ValueError("not that number")
    return a + b


@registry.entity("sum", limits=Limits(retry_delay=timedelta(milliseconds=1)))
async def sums(ctx: Any, wake: Any) -> Any:
    """Add what it is sent, by a model; refuse one word, and keep a tag."""
    if wake.payload == "no":
        raise ValueError("not that word")
    ctx.set_tag("seen", "yes")
    ctx.remove_tag("new")
    says = [Says(text="Let me add.", calls=[("add", {"a": a, "b": 2})]) for a in (1, 13)]
    ctx.use_agent("You add.", tools=[add], test_responses=[*says, "Done."])
    await ctx.agent.run()
    return {"done": True}


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[Client, Blobs]]:
    """Two entities: one that did its work, one with a parked wake; and a second life."""
    blobs = MemoryBlobs()
    with local_client(blobs) as client:
        client.register(registry)
        client.spawn("/sum/one", args={"n": 1}, tags={"team": "a", "new": "1"})
        client.ask("/sum/one", "1 + 2, then 13 + 2?")
        client.spawn("/sum/two")
        with pytest.raises(HandlerFailed):
            client.ask("/sum/two", "no")
        client.spawn("/sum/three")
        client.ask("/sum/three", "the first life")
        client.kill("/sum/three", reason="enough")
        yield client, blobs


def rows(fleet: tuple[Client, Blobs], sql: str) -> list[dict[str, Any]]:
    return query(fleet[1], sql).to_pylist()


def test_events_are_the_rows_of_the_logs(fleet: tuple[Client, Blobs]) -> None:
    client, _ = fleet
    found = rows(fleet, """select "offset", type, value from events where address = '/sum/one'""")
    events = list(client.observe("/sum/one", offset=0, live=False))
    assert [tuple(row.values()) for row in found] == [
        (event.offset, event.type, event.text or None) for event in events
    ]


def test_runs_have_their_totals(fleet: tuple[Client, Blobs]) -> None:
    (run,) = rows(fleet, "select * from runs where address = '/sum/one'")
    assert (run["status"], run["steps"], run["text"], run["error"]) == (
        "completed",
        3,
        "Done.",
        None,
    )
    assert run["started"].tzinfo is not None
    (total,) = rows(
        fleet,
        """select sum(input_tokens)::bigint as tokens from steps where address = '/sum/one'""",
    )
    assert run["input_tokens"] == total["tokens"] > 0


def test_steps_are_numbered_and_typed(fleet: tuple[Client, Blobs]) -> None:
    steps = rows(fleet, "from steps where address = '/sum/one' order by step_number")
    assert [step["step_number"] for step in steps] == [1, 2, 3]
    assert {step["status"] for step in steps} == {"completed"}
    assert all(step["duration_ms"] >= 0 and step["model_id"] for step in steps)


def test_tool_calls_have_arguments_results_and_errors(fleet: tuple[Client, Blobs]) -> None:
    sql = """
        select step_number, tool_name, tool_calls.status, args->>'$.a' as a, result->>'$' as result,
            tool_calls.error
        from tool_calls join steps using (address, step) where address = '/sum/one' order by all
    """
    first, second = rows(fleet, sql)
    assert (first["status"], first["a"], first["result"], first["error"]) == (
        "completed",
        "1",
        "3",
        None,
    )
    assert (second["status"], second["step_number"]) == ("failed", 2)
    assert "not that number" in second["error"]


def test_the_inbox_says_what_became_of_each_message(fleet: tuple[Client, Blobs]) -> None:
    sql = "select address, status, wake_status, reply, error from inbox order by address"
    one, three, two = rows(fleet, sql)
    assert (one["status"], one["wake_status"]) == ("processed", "handled")
    assert one["reply"] == '{"done":true}'
    assert three["status"] == "processed"
    assert (two["status"], two["wake_status"]) == ("pending", "parked")
    assert "not that word" in two["error"]


def test_entities_are_as_the_runtime_shows_them(fleet: tuple[Client, Blobs]) -> None:
    client, _ = fleet
    found = {row["address"]: row for row in rows(fleet, "from entities")}
    for address in ("/sum/one", "/sum/two", "/sum/three"):
        view, row = client.inspect(address), found[address]
        assert (row["id"], row["entity_type"], row["life"]) == (view.id, view.type, view.life)
        assert (row["backlog"], row["parked"]) == (view.backlog, len(view.parked))
        assert (row["stopped"] is not None) == (view.status.value == "stopped")
    assert found["/sum/one"]["tags"] == '{"team":"a","seen":"yes"}'
    assert found["/sum/three"]["stop_reason"] == "enough"
    assert found["/sum/one"]["last_active"] >= found["/sum/one"]["created"]


async def test_a_new_life_begins_without_the_rows_of_the_old_one() -> None:
    blobs = MemoryBlobs()
    with closing(log_of(blobs, ADA)) as log:
        for life in range(2):
            owner = await log.claim()
            await owner.append([created(life), message(f"m{life}")])
            await owner.seal()
    assert query(blobs, "select message, life from inbox").to_pylist() == [
        {"message": "m1", "life": 1}
    ]
    assert query(blobs, "from runs").num_rows == 0


async def test_what_failed_says_why_and_what_was_taken_back_is_gone() -> None:
    record = RunRecord("r", [])
    call: Block = {"id": "t", "name": "add", "input": {}}
    drafts = [
        created(),
        record.run_started("hi", 0),
        *record.step_started(1, provider="p", model="m", now=1),
        record.tool_call(record.call_key(1, 0), call, "started"),
        *record.run_failed(1, code="overloaded", message="try later"),
    ]
    blobs = MemoryBlobs()
    with closing(log_of(blobs, ADA)) as log:
        await append(log, drafts)
    failed = {"status": "failed", "error": "try later"}
    assert query(blobs, "select status, error from runs").to_pylist() == [failed]
    assert query(blobs, "select status, error from steps").to_pylist() == [failed]
    assert query(blobs, "from tool_calls").num_rows == 0


async def test_how_long_a_call_took_is_null_where_nobody_knows() -> None:
    blobs = MemoryBlobs()
    ends = [("completed", 0), ("failed", None), ("failed", 7)]
    drafts = [
        Draft.of("tool_call", f"r:s1:tool:{n}", value={"status": status, "duration_ms": lasted})
        for n, (status, lasted) in enumerate(ends)
    ]
    with closing(log_of(blobs, ADA)) as log:
        await append(log, [created(), *drafts])
    found = query(blobs, "select duration_ms from tool_calls order by tool_call").to_pylist()
    assert [row["duration_ms"] for row in found] == [0, None, 7]


async def test_approvals_say_who_decided_what_and_why() -> None:
    asked = ApprovalRecorded(
        key="wake-1-run-1:s1:tool:0",
        status=ApprovalStatus.PENDING,
        run_id="wake-1-run-1",
        tool_call_id="toolu_1",
        tool_name="delete",
        args={"path": "a"},
        requested_at=1_000_000,
    )
    denied = asked.decided(ApprovalStatus.DENIED, now=2_000_000, by="ann", reason="no")
    blobs = MemoryBlobs()
    with closing(log_of(blobs, ADA)) as log:
        await append(log, [created(), asked.draft(), denied.draft()])
    sql = """select run, tool_name, args->>'$.path' as path, status, decided_by, reason,
        epoch(decided - requested) as took, expires from approvals"""
    (row,) = query(blobs, sql).to_pylist()
    assert list(row.values()) == [
        "wake-1-run-1",
        "delete",
        "a",
        "denied",
        "ann",
        "no",
        1.0,
        None,
    ]


CHANGES = st.lists(
    st.tuples(st.sampled_from(["life", *Operation]), st.sampled_from("abc"), st.integers(0, 99)),
    max_size=30,
)


@settings(max_examples=10)
@given(CHANGES)
def test_a_view_shows_the_rows_that_the_fold_leaves(changes: list[tuple[str, str, int]]) -> None:
    lives = count()
    drafts = [created(next(lives))]
    for what, key, number in changes:
        if what == "life":
            drafts.append(created(next(lives)))
        else:
            value = {"steps": number}
            drafts.append(Draft.of("run", key, value=value, operation=Operation(what)))
    begin = max(n for n, draft in enumerate(drafts) if draft.type == "entity_created")
    events = [Event.at(n, 0, draft) for n, draft in enumerate(drafts)][begin + 1 :]
    blobs = MemoryBlobs()
    with closing(log_of(blobs, ADA)) as log:
        asyncio.run(append(log, drafts))
    found = query(blobs, "select run, steps from runs").to_pylist()
    left = {key: row["steps"] for key, row in latest_rows(events).items()}
    assert {row["run"]: row["steps"] for row in found} == left
    assert len(found) == len(left)


async def test_it_is_asked_from_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(log_of(open_blobs(str(tmp_path)), ADA)) as log:
        await append(log, [created(), message("m")])
    sql = "select address, message, received, wake from inbox"
    assert main(["query", sql, "--store", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()[1].split()
    assert printed == [ADA, "m", "2023-11-14T22:13:20.003000+00:00", "-"]
    assert main(["query", "from nothing", "--store", str(tmp_path)]) == ExitCode.USAGE
    assert main(["query", sql, "--store", str(tmp_path / "none")]) == ExitCode.UNAVAILABLE


def test_a_view_may_be_named_twice(fleet: tuple[Client, Blobs]) -> None:
    sql = 'select count(*) as n from events as a join events as b using (address, "offset")'
    (count,) = rows(fleet, sql)
    assert count["n"] == query(fleet[1], "from events").num_rows


NAMED = [
    ("select 1", set[str]()),
    ("from runs", {"runs"}),
    ("select steps from RUNS", {"runs"}),
    ("with steps as (select 1) from steps, main.events", {"events"}),
    ("select 1; describe inbox", {"inbox"}),
    ("from runs join steps using (address, run)", {"runs", "steps"}),
    ("pivot tool_calls on status using count(*)", {"tool_calls"}),
]


@pytest.mark.parametrize(("sql", "views"), NAMED)
def test_only_the_views_that_are_named_are_scanned(sql: str, views: set[str]) -> None:
    blobs = FaultyBlobs(MemoryBlobs())
    with closing(querying.import_duckdb().connect()) as database:
        assert querying.views_named_in(sql, database) == views
    query(blobs, sql)
    assert bool(blobs.calls["names"]) == bool(views)


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_has_its_columns_when_there_is_nothing(name: str) -> None:
    table = query(MemoryBlobs(), f"from {name}")
    assert table.num_rows == 0
    assert {"address", "entity_type", "life"} <= set(table.column_names)


def test_a_statement_that_answers_nothing_gives_an_empty_table(tmp_path: Path) -> None:
    assert query(MemoryBlobs(), "").num_columns == 0
    written = tmp_path / "events.parquet"
    query(MemoryBlobs(), f"copy (from events) to '{written}'")
    assert written.exists()


@pytest.mark.parametrize("sql", ["select (", "from nowhere", "select nothing from runs"])
def test_a_wrong_statement_is_the_callers(sql: str) -> None:
    with pytest.raises(InvalidPayload, match="tool_calls"):
        query(MemoryBlobs(), sql)


async def test_a_corrupt_log_is_named_or_left_out() -> None:
    blobs = MemoryBlobs()
    with closing(log_of(blobs, ADA)) as log:
        await log.wake("a")
    flip_a_bit(blobs, f"{log.folder}/0000000001.arrows")
    with pytest.raises(CorruptLog, match=ADA):
        query(blobs, "from events")
    reported: list[str] = []
    query(blobs, "from events", on_corrupt=lambda address, _: reported.append(address))
    assert reported == [ADA]


def test_without_duckdb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingPackage, match=r"pip install 'ray-agents\[query\]'"):
        query(MemoryBlobs(), "select 1")


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        ray_agents.query(tmp_path / "nowhere", "from events")
    assert list(tmp_path.iterdir()) == []


def test_a_fork_is_an_entity_of_its_own_with_nothing_left_to_do() -> None:
    registry = Registry()
    registry.define("box", Definition(type="box", handler=_hang))
    with local_client(blobs := MemoryBlobs()) as client:
        client.register(registry)
        client.spawn("/box/a", tags={"t": "1"})
        for n in range(2):
            client.send("/box/a", n)
        client.fork("/box/a", "/box/b")
        source, fork = query(blobs, "from entities order by address").to_pylist()
        assert (source["forked_from"], source["backlog"]) == (None, 2)
        assert (fork["forked_from"], fork["backlog"], fork["parked"]) == ("/box/a", 0, 0)
        assert (fork["tags"], fork["parent"]) == ('{"t":"1"}', None)
        assert fork["created"] > source["created"]
        found = query(blobs, "select address, wake_status from inbox where address = '/box/b'")
        assert set(found["wake_status"].to_pylist()) == {"skipped"}


async def test_a_message_that_was_steered_belongs_to_the_wake_that_took_it_in() -> None:
    facts: dict[str, Any] = {"source": "inbox", "event_count": 1, "attempt": 1, "deaths": 0}
    facts |= {"host": "h", "definition_version": 1, "timestamp": 0, "status": WakeStatus.STARTED}
    with closing(log_of(blobs := MemoryBlobs(), ADA)) as log:
        owner = await log.claim()
        _, go = await owner.append([created(), message("go")])
        first = WakeRecorded(key="w1", from_offset=go.offset, to_offset=go.offset + 1, **facts)
        _, steer, later = await owner.append([first.draft(), message("steer"), message("later")])
        steered = replace(first, joined=(steer.offset,))
        await owner.append([steered.draft()])
        await owner.seal()
        assert query(blobs, BACKLOG).to_pylist() == [{"backlog": 3}]
        assert query(blobs, OF_WHICH).to_pylist() == []
        at = {"from_offset": later.offset, "to_offset": later.offset + 1}
        second = replace(first, key="w2", **at)
        ends = [replace(wake, status=WakeStatus.HANDLED).draft() for wake in (steered, second)]
        await append(log, ends)
        assert [row["wake"] for row in query(blobs, OF_WHICH).to_pylist()] == ["w1", "w1", "w2"]
        assert query(blobs, BACKLOG).to_pylist() == [{"backlog": 0}]


BACKLOG = "select backlog from entities"
OF_WHICH = """select wake from inbox where status = 'processed' order by "offset" """


async def _hang(ctx: Any, wake: Any) -> None:
    await asyncio.Event().wait()
