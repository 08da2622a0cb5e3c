"""Prompts in whole wakes: what the provider's cache gives, what is recorded, what outlives whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.compaction import Compaction
from ray_agents.contextreport import ContextReport
from ray_agents.definition import Limits, Registry
from ray_agents.errors import HandlerFailed, ModelUnavailable
from ray_agents.events import Event
from ray_agents.log.history import History
from ray_agents.log.store import open_blobs
from ray_agents.model import Message, ModelRequest, ModelSettings
from ray_agents.models.anthropic import AnthropicModel, close_clients, preload
from ray_agents.models.scripted import Says
from ray_agents.ports import Blobs
from ray_agents.requests import ForkRequest
from ray_agents.testing.calls import Call
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import Answer, Body
from ray_agents.tools import tool
from tests.cluster.conftest import ask, log_of, spawned

MANUAL = "a page of the manual\n" * 400  # 2,100 tokens
STEPS = 6
registry = Registry()


@tool
async def look() -> str:
    """Look."""
    return "what is there " * 100


@registry.entity("plain")
async def plain(ctx: Any, wake: Any) -> Any:
    """Run the agent as it is."""
    ctx.use_agent(MANUAL, tools=[look])
    await ctx.agent.run()


@registry.entity("composed")
async def composed(ctx: Any, wake: Any) -> Any:
    """Run it with sources."""
    ctx.use_context(
        source_budget=6_000,
        sources={
            "manual": {"content": MANUAL, "max": 2_500, "cache": "stable"},
            "now": {"content": lambda: f"It is {wake.payload}.", "max": 100},
            "talk": {"content": ctx.timeline_messages, "max": 3_000},
        },
    )
    ctx.use_agent("You help.", tools=[look])
    await ctx.agent.run()
    return ctx.context_report().as_row()["sources"]


def looking(body: Body) -> Answer:
    """Five times a tool, then an answer."""
    last = body["messages"][-1]["content"]
    asked = sum(m["role"] == "assistant" for m in body["messages"])
    if any(block["type"] == "text" and block["text"] == "stop" for block in last):
        return Answer(text="Stopped.")
    return Answer(text="Done.") if asked % STEPS == STEPS - 1 else Answer(calls=[("look", {})])


@pytest.fixture
async def api() -> AsyncIterator[MessagesApi]:
    preload()
    async with MessagesApi(script=looking) as api:
        yield api
        await close_clients()


@pytest.fixture
async def runtime(api: MessagesApi) -> AsyncIterator[LocalRuntime]:
    model = AnthropicModel(ModelSettings(base_url=api.url))
    async with LocalRuntime("memory:", model_for=lambda _: model) as runtime:
        await runtime.register(registry)
        yield runtime


def assert_each_reads_what_was_written(calls: list[Call]) -> None:
    """Of every call the cache gives all that the one before it wrote or read."""
    for before, call in pairwise(calls):
        kept = before.usage.cache_read_tokens + before.usage.cache_write_tokens
        assert kept > 0
        assert call.usage.cache_read_tokens == kept


async def test_a_step_reads_from_the_cache_what_the_step_before_it_wrote(
    runtime: LocalRuntime, api: MessagesApi
) -> None:
    where = await spawned(runtime, "/plain/p")
    await ask(runtime, where, "go")
    await ask(runtime, where, "stop")
    assert len(api.calls) == STEPS + 1
    assert_each_reads_what_was_written(list(api.calls))
    marks = [str(call.body).count("cache_control") for call in api.calls]
    assert marks == [2, *[3] * STEPS]


async def test_with_sources_a_step_reads_what_the_step_before_it_wrote_and_a_run_what_is_stable(
    runtime: LocalRuntime, api: MessagesApi
) -> None:
    where = await spawned(runtime, "/composed/c")
    sources = (await ask(runtime, where, "noon")).value
    assert_each_reads_what_was_written(list(api.calls))
    first = len(api.calls)
    await ask(runtime, where, "night")
    later = list(api.calls)[first:]
    assert later[0].usage.cache_read_tokens > 2_000
    assert_each_reads_what_was_written(later)
    assert {"tools", "system_prompt", "manual", "now", "run"} <= set(sources)
    said = [block["text"] for block in later[0].body["messages"][-1]["content"]]
    assert said == ["It is night.", "night"]


async def test_every_step_records_its_prompt_in_figures_that_sum_to_the_providers_count(
    runtime: LocalRuntime, api: MessagesApi
) -> None:
    where = await spawned(runtime, "/composed/c")
    await ask(runtime, where, "noon")
    rows = [e.value for e in await log_of(runtime, where) if e.type == "step"]
    reports = [ContextReport.of(row["context"]) for row in rows if row["status"] == "completed"]
    counted = [call.usage.tokens - call.usage.output_tokens for call in api.calls]
    assert [report.tokens for report in reports] == counted
    assert {report.counted for report in reports} == {"provider"}
    assert all(0.5 < report.cacheable_share < 1 for report in reports)


async def test_a_source_near_its_bound_is_counted_by_the_provider_once(
    runtime: LocalRuntime, api: MessagesApi
) -> None:
    where = await spawned(runtime, "/composed/c")
    await ask(runtime, where, "noon")
    await ask(runtime, where, "night")
    assert api.totals.counts == 1  # the manual, 2,100 of 2,500


# -- without a provider ------------------------------------------------------------------------

LONG = "word " * 200


def remembering(request: ModelRequest) -> Says:
    """Answers with what it was sent: how many messages, and how they begin."""
    first = request.messages[0]["content"][0]["text"]
    return Says(text=f"{len(request.messages)} {first[:20]} {LONG}")


@registry.entity("summed", limits=Limits(attempts_max=1))
async def summed(ctx: Any, wake: Any) -> Any:
    """Sum long histories up."""
    if wake.payload == "report":
        return ctx.context_report().tokens
    if wake.payload == "shown":
        return [each.key for each in ctx.timeline_messages(since=ctx.events[0].offset)]
    if wake.payload == "whole":
        return [len(ctx.timeline_messages()), len(ctx.timeline_messages(whole=True))]
    compaction = Compaction(
        threshold=800, keep_last=2, max_tokens=100, test_responses=lambda _: "It was long."
    )
    ctx.use_agent(test_responses=remembering, compaction=compaction)
    return (await ctx.agent.run()).text[:30]


async def talked(blobs: Blobs | str, times: int) -> tuple[LocalRuntime, Address]:
    runtime = LocalRuntime(blobs)
    async with runtime:
        await runtime.register(registry)
        where = await spawned(runtime, "/summed/s")
        for number in range(times):
            await ask(runtime, where, f"message {number}")
    return runtime, where


async def test_a_summary_outlives_wakes_and_restarts(store: Blobs) -> None:
    _, where = await talked(store, 8)
    async with LocalRuntime(store) as runtime:
        reply = await ask(runtime, where, "and now?")
        assert "Summary of the conve" in reply.value
        shown, whole = (await ask(runtime, where, "whole")).value
        assert shown < whole == 2 * 9 + 1
        assert (await ask(runtime, where, "report")).value > 0


async def test_what_was_summed_up_is_not_read_again_to_tell_of_the_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts, read = list[int](), History.read

    def noting(self: History, start: int, **options: Any) -> list[Event]:
        if "step" in (options.get("types") or ()):
            starts.append(start)
        return read(self, start, **options)

    _, where = await talked(store := open_blobs("memory:"), 8)
    async with LocalRuntime(store) as runtime:
        monkeypatch.setattr(History, "read", noting)
        assert (await ask(runtime, where, "report")).value > 0
        assert starts == []
        assert len((await ask(runtime, where, "shown")).value) == 1
        rows = await log_of(runtime, where)
    summaries = [event for event in rows if event.type == "compaction"]
    assert starts == [summaries[-1].value["read_from"]] > [0]


ASKED: list[list[Message]] = []


def unreachable_once(request: ModelRequest) -> Says:
    """Notes what it is asked; the first time after a summary it cannot be reached."""
    summed_up = "Summary of" in request.messages[0]["content"][0]["text"]
    known = any("Summary of" in asked[0]["content"][0]["text"] for asked in ASKED)
    ASKED.append(list(request.messages))
    if summed_up and not known:
        raise ModelUnavailable("not now")
    return Says(text=LONG)


@registry.entity("flaky", limits=Limits(retry_delay=timedelta(milliseconds=1)))
async def flaky(ctx: Any, wake: Any) -> None:
    """Sum long histories up, with a model that is not always there."""
    compaction = Compaction(threshold=800, keep_last=2, max_tokens=100)
    ctx.use_agent(test_responses=unreachable_once, compaction=compaction)
    await ctx.agent.run()


async def test_a_run_that_resumes_behind_its_own_summary_asks_the_same_again() -> None:
    ASKED.clear()
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        where = await spawned(runtime, "/flaky/f")
        for number in range(6):
            await ask(runtime, where, f"message {number}")
    lengths = [len(asked) for asked in ASKED]
    at = next(i for i in range(1, len(ASKED)) if lengths[i] < lengths[i - 1])
    assert len(ASKED[at]) == 3
    assert ASKED[at + 1] == ASKED[at]


async def test_a_fork_as_of_before_a_summary_has_the_whole_conversation() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        where = await spawned(runtime, "/summed/s")
        for number in range(8):
            await ask(runtime, where, f"message {number}")
        rows = await log_of(runtime, where)
        first = next(event.offset for event in rows if event.type == "compaction")
        fork = Address.parse("/summed/fork")
        at = max(e.offset + 1 for e in rows if e.type == "wake" and e.offset < first - 4)
        await runtime.fork(where, ForkRequest(to=str(fork), at=at))
        shown, whole = (await ask(runtime, fork, "whole")).value
        assert shown == whole > 4


def told_again(request: ModelRequest) -> str:
    """The system prompt."""
    return request.system


@registry.entity("noting")
async def noting(ctx: Any, wake: Any) -> Any:
    """Keep notes in the context."""
    if wake.payload == "note":
        ctx.insert_context("prefs", name="Preferences", content="Short answers.")
    if wake.payload == "forget":
        ctx.remove_context("prefs")
    ctx.use_agent("You help.", test_responses=told_again)
    return (await ctx.agent.run()).text


async def test_context_entries_are_told_to_the_model_until_they_are_removed() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        where = await spawned(runtime, "/noting/n")
        told = [(await ask(runtime, where, word)).value for word in ("", "note", "x", "forget")]
    noted = 'You help.\n\n<context id="prefs" name="Preferences">\nShort answers.\n</context>'
    assert told == ["You help.", noted, noted, "You help."]


@registry.entity("wrong", limits=Limits(attempts_max=3))
async def wrong(ctx: Any, wake: Any) -> None:
    """Declare what cannot hold."""
    ctx.use_context(
        source_budget=100, sources={"a": {"content": "x", "max": 200, "cache": "pinned"}}
    )


async def test_a_plan_that_cannot_hold_parks_the_wake_with_its_numbers() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        with pytest.raises(HandlerFailed, match="200 tokens, 100 more than source_budget=100"):
            await ask(runtime, await spawned(runtime, "/wrong/w"), "go")
