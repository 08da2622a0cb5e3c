"""Forks and looks at the past: a conversation goes on twice from one point, each on its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import (
    EntityExists,
    EntityGone,
    HandlerFailed,
    InvalidAddress,
    UnknownEntity,
    UnknownOffset,
)
from ray_agents.log.examination import examine_log
from ray_agents.model import ModelRequest
from ray_agents.models.scripted import Says
from ray_agents.requests import ForkRequest, ListQuery, SendRequest, SpawnRequest
from ray_agents.tools import tool
from ray_agents.views import EntityView, Status
from tests.cluster import gates
from tests.cluster.conftest import ask, log_of, spawned

registry = Registry()
SOURCE, FORK = "/counter/a", "/counter/b"
B = Address.parse(FORK)


class Sum(BaseModel):
    key: str
    n: int


@registry.entity("counter", state={"sums": Sum}, limits=Limits(attempts_max=1))
async def counter(ctx: Any, wake: Any) -> Any:
    """Add up what it is told, and tell a friend."""
    total = ctx.state.sums.get("total").n if "total" in ctx.state.sums else 0
    match wake.payload:
        case "sum":
            return total
        case "first":
            return ctx.first_wake
        case "park":
            ctx.state.sums.upsert({"key": "parked", "n": 1})
            await ctx.commit()
            raise ValueError("as told")
        case "hang":
            ctx.state.sums.upsert({"key": "hung", "n": 1})
            await ctx.commit()
            await gates.wait("hang")
        case {"tell": friend}:
            await ctx.send(friend, 7)
        case n:
            ctx.state.sums.upsert({"key": "total", "n": total + n})
            return total + n
    return None


@tool
async def look(place: str) -> str:
    """Look somewhere.

    Args:
        place: where.
    """
    await gates.wait("tool")
    return f"nothing in {place}"


transcripts: list[Any] = []


def answer(request: ModelRequest) -> Any:
    transcripts.append(request.messages)
    said = request.messages[-1]["content"][-1]
    if said["type"] == "text" and said["text"] == "look":
        return Says(text="I look.", calls=[("look", {"place": "the box"})])
    return f"answer {len(request.messages)}"


@registry.entity("chat")
async def chat(ctx: Any, wake: Any) -> None:
    ctx.use_agent("Be brief.", tools=[look], test_responses=answer)
    await ctx.agent.run()


@pytest.fixture(autouse=True)
async def registered(runtime: LocalRuntime) -> None:
    transcripts.clear()
    await runtime.register(registry)


async def forked(runtime: LocalRuntime, source: Address, **options: Any) -> EntityView:
    return await runtime.fork(source, ForkRequest(to=FORK, **options))


async def test_both_go_on_from_the_fork_each_on_its_own(runtime: LocalRuntime) -> None:
    source = await spawned(runtime, SOURCE)
    assert (await ask(runtime, source, 1)).value == 1
    view = await forked(runtime, source)
    assert (await ask(runtime, source, 10)).value == 11
    assert (await ask(runtime, B, 100)).value == 101
    assert view.forked_from is not None
    at = view.forked_from.offset
    ours, theirs = await log_of(runtime, B), await log_of(runtime, source)
    assert [e for e in ours if e.offset < at] == [e for e in theirs if e.offset < at]
    assert (await ask(runtime, source, "sum")).value == 11


async def test_a_fork_is_as_listed_asleep_and_says_where_it_comes_from(
    runtime: LocalRuntime,
) -> None:
    source = Address.parse(SOURCE)
    request = SpawnRequest(args={"x": 1}, tags={"team": "red"}, parent="/counter/p")
    before = await runtime.spawn(source, request)
    view = await forked(runtime, source)
    assert view == await runtime.inspect(B) == (await runtime.list(ListQuery(tag="team"))).items[1]
    assert (view.status, view.args, view.tags) == (Status.SLEEPING, {"x": 1}, {"team": "red"})
    assert view.parent is None
    assert view.created >= before.created
    assert view.forked_from is not None
    assert view.forked_from.model_dump() == {
        "cause": "fork",
        "address": SOURCE,
        "offset": before.events,
    }
    assert len(runtime.hosts.host.awake) == 1


async def test_a_fork_is_made_once_and_its_repetition_is_known(runtime: LocalRuntime) -> None:
    source = await spawned(runtime, SOURCE)
    first = await forked(runtime, source, fork_id="f1")
    assert (await ask(runtime, B, 1)).value == 1
    again = await forked(runtime, source, fork_id="f1")
    assert again.forked_from == first.forked_from
    for taken in (ForkRequest(to=FORK, fork_id="f2"), ForkRequest(to=SOURCE)):
        with pytest.raises(EntityExists):
            await runtime.fork(source, taken)


async def test_of_many_forks_at_once_one_is_made(runtime: LocalRuntime) -> None:
    source = await spawned(runtime, SOURCE)
    made = await asyncio.gather(
        *(forked(runtime, source) for _ in range(10)),
        runtime.spawn(B, SpawnRequest()),
        return_exceptions=True,
    )
    assert sum(isinstance(each, EntityExists) for each in made) == 10


async def test_what_cannot_be_forked_is_refused(runtime: LocalRuntime) -> None:
    source = await spawned(runtime, SOURCE)
    with pytest.raises(UnknownEntity):
        await forked(runtime, Address.parse("/counter/nobody"))
    with pytest.raises(UnknownEntity, match="before offset 1"):
        await forked(runtime, source, at=1)
    with pytest.raises(UnknownOffset, match="lies beyond the end"):
        await forked(runtime, source, at=99)
    with pytest.raises(InvalidAddress, match="keeps its type"):
        await runtime.fork(source, ForkRequest(to="/chat/b"))
    await runtime.kill(source)
    with pytest.raises(EntityGone):
        await forked(runtime, source)
    killed = next(e for e in await log_of(runtime, source) if e.type == "entity_stopped")
    assert (await forked(runtime, source, at=killed.offset)).status is Status.SLEEPING


async def test_message_ids_begin_anew_and_those_of_its_own_count(runtime: LocalRuntime) -> None:
    source = await spawned(runtime, SOURCE)
    assert (await ask(runtime, source, 1, "m1")).value == 1
    await forked(runtime, source)
    assert (await ask(runtime, B, 5, "m1")).value == 6
    assert (await runtime.send(B, SendRequest(payload=5, id="m1"))).duplicate
    assert (await runtime.send(source, SendRequest(payload=1, id="m1"))).duplicate


async def test_what_is_open_stays_with_the_source_and_what_was_committed_comes_along(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    source = await spawned(runtime, SOURCE)
    with pytest.raises(HandlerFailed):
        await ask(runtime, source, "park")
    await runtime.send(source, SendRequest(payload=1, after_seconds=1000))
    await runtime.send(source, SendRequest(payload="hang"))
    await gates.reached["hang"].wait()
    await runtime.send(source, SendRequest(payload=3))
    view = await forked(runtime, source)
    assert (view.backlog, view.parked, view.schedules, view.next_due) == (0, (), 0, None)
    sums = {row["key"]: row["n"] for row in (await runtime.state(B)).collections["sums"]}
    assert sums == {"parked": 1, "hung": 1}
    assert (await ask(runtime, B, "first")).value is False
    gates.opened["hang"].set()
    await wait_until(lambda: not runtime.hosts.host.awake[0].state.pending)
    assert (await ask(runtime, source, "sum")).value == 3
    assert len((await runtime.inspect(source)).parked) == 1


async def test_both_send_to_others_under_ids_of_their_own(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    """Their wakes have the same offsets, and their messages are two all the same."""
    source, friend = await spawned(runtime, SOURCE), await spawned(runtime, "/counter/friend")
    await forked(runtime, source)
    for each in (source, B):
        await ask(runtime, each, {"tell": str(friend)})

    async def total() -> object:
        return (await ask(runtime, friend, "sum")).value

    for _ in range(100):
        if await total() == 14:
            break
    assert await total() == 14


async def test_a_fork_in_the_midst_of_a_run_goes_on_with_a_valid_transcript(
    runtime: LocalRuntime,
) -> None:
    source = await spawned(runtime, "/chat/a")
    await ask(runtime, source, "hello")
    await runtime.send(source, SendRequest(payload="look"))
    await gates.reached["tool"].wait()
    await runtime.fork(source, ForkRequest(to="/chat/b"))
    fork = Address.parse("/chat/b")
    assert (await ask(runtime, fork, "and?")).text == "answer 5"
    said = transcripts[-1]
    assert [message["role"] for message in said] == ["user", "assistant"] * 2 + ["user"]
    result, more = said[-1]["content"]
    assert (result["type"], result["is_error"]) == ("tool_result", True)
    assert more == {"type": "text", "text": "and?"}
    ended = {e.key: e.value["status"] for e in await log_of(runtime, fork) if e.type == "run"}
    assert list(ended.values()) == ["completed", "failed", "completed"]
    gates.opened["tool"].set()


async def test_every_offset_of_a_conversation_can_be_forked(runtime: LocalRuntime) -> None:
    source = await spawned(runtime, "/chat/a")
    gates.opened["tool"].set()
    for payload in ("hello", "look", "bye"):
        await ask(runtime, source, payload)
    tip = (await runtime.inspect(source)).events
    for at in range(2, tip + 1):
        fork = Address.parse(f"/chat/f{at}")
        await runtime.fork(source, ForkRequest(to=str(fork), at=at))
        assert (await ask(runtime, fork, "go on")).text.startswith("answer")
        roles = [message["role"] for message in transcripts[-1]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert await runtime.state(source, at=at) is not None


async def test_a_fork_of_a_fork_lives_when_both_are_gone(store: Any) -> None:
    source, c = Address.parse(SOURCE), Address.parse("/counter/c")
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        await spawned(runtime, SOURCE)
        for n in range(3):
            await ask(runtime, source, n)
        await forked(runtime, source)
        await ask(runtime, B, 10)
        view = await runtime.fork(B, ForkRequest(to=str(c)))
        assert view.forked_from is not None
        assert view.forked_from.address == FORK
    for gone in (source, B):
        for folder in (f"{entity_folder(gone)}/sealed", entity_folder(gone)):
            for name in runtime.blobs.names(folder):
                runtime.blobs.delete(f"{folder}/{name}")
    async with LocalRuntime(runtime.blobs) as after:
        assert (await ask(after, c, 100)).value == 113
    assert examine_log(runtime.blobs, entity_folder(c), in_use=lambda _: False).sound


async def test_a_fork_has_what_was_acknowledged_before_it_while_the_source_appends(
    runtime: LocalRuntime,
) -> None:
    source = await spawned(runtime, SOURCE)
    for n in range(20):
        sending = [runtime.send(source, SendRequest(payload=1)) for _ in range(5)]
        receipts = await asyncio.gather(*sending)
        more = asyncio.create_task(runtime.send(source, SendRequest(payload=1)))
        view = await runtime.fork(source, ForkRequest(to=f"/counter/f{n}"))
        await more
        assert view.forked_from is not None
        at = view.forked_from.offset
        assert at > max(receipt.offset for receipt in receipts)
        theirs = [e for e in await log_of(runtime, source) if e.offset < at]
        fork = Address.parse(f"/counter/f{n}")
        assert [e for e in await log_of(runtime, fork) if e.offset < at] == theirs


async def test_an_entity_is_shown_as_of_any_offset_and_a_fork_of_it_is_just_that(
    runtime: LocalRuntime,
) -> None:
    source = await spawned(runtime, SOURCE)
    replies = [await ask(runtime, source, n) for n in (1, 2, 3)]
    tip = (await runtime.inspect(source)).events
    totals: list[int] = []
    for at in range(2, tip + 1):
        then = await runtime.state(source, at=at)
        totals += [row["n"] for row in then.collections.get("sums", [])]
        view = await runtime.fork(source, ForkRequest(to=f"/counter/f{at}", at=at))
        now = await runtime.state(Address.parse(view.address))
        assert (now.collections, now.tags, now.args) == (then.collections, then.tags, then.args)
        assert (now.backlog, now.open_wakes) == (0, 0)
        assert now.woken == bool(then.woken or then.open_wakes)
    assert sorted(set(totals)) == [1, 3, 6]
    assert replies[-1].value == 6
    assert await runtime.state(source) == await runtime.state(source, at=tip)


async def test_the_past_is_shown_and_nothing_beyond_the_end(runtime: LocalRuntime) -> None:
    source = await spawned(runtime, SOURCE)
    await ask(runtime, source, 1)
    tip = (await runtime.inspect(source)).events
    with pytest.raises(UnknownOffset):
        await runtime.state(source, at=tip + 1)
    with pytest.raises(UnknownEntity):
        await runtime.state(source, at=0)
    with pytest.raises(UnknownEntity):
        await runtime.state(Address.parse("/counter/nobody"))
    await runtime.kill(source)
    assert (await runtime.state(source)).stopped
    assert not (await runtime.state(source, at=tip)).stopped
