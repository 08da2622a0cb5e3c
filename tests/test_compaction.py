"""Compaction: when it comes, what stays, that it is paid once, and that nothing is lost by it."""

import re
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.compaction import Compaction, cut_of
from ray_agents.contextplan import plan_of
from ray_agents.conversation import timed_messages
from ray_agents.errors import InvalidDefinition, ModelUnavailable
from ray_agents.estimates import tokens_in_blocks
from ray_agents.events import Event
from ray_agents.ledger import Spent
from ray_agents.loop import run_agent
from ray_agents.model import AnswerBroken, ModelEvent, ModelRequest, Usage, UsageSeen
from ray_agents.models.scripted import FunctionModel, Says
from ray_agents.prompting import Prompting
from ray_agents.testing.journal import Crashed, MemoryJournal
from ray_agents.testing.rules import check_messages
from ray_agents.timeline import Timeline
from ray_agents.tools import tool

LONG = "word " * 80  # 100 tokens
SMALL = Compaction(threshold=600, keep_last=4, max_tokens=50)


@tool(idempotent=True)
async def look(number: int) -> str:
    """Look."""
    return f"{number} {LONG}"


class Looking:
    """Calls ``look`` so many times, then says it is done; sums up by what it was asked to."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.summaries: list[str] = []
        self.prompts: list[ModelRequest] = []

    def __call__(self, request: ModelRequest) -> Says:
        check_messages(list(request.messages))
        if request.system.startswith("You sum up"):
            self.summaries.append(request.messages[0]["content"][0]["text"])
            return Says(text=f"Summary {len(self.summaries)}.")
        self.prompts.append(request)
        if len(self.prompts) > self.times:
            return Says(text="Done.")
        return Says(calls=[("look", {"number": len(self.prompts)})])


async def run(
    asked: Any, journal: MemoryJournal | None = None, *, text: str = "hi", **options: Any
) -> AgentRunResult:
    given: dict[str, Any] = {"tools": [look], "compaction": SMALL}
    config = AgentConfig(**given | options)
    journal = journal or MemoryJournal()
    return await run_agent(journal, config, model=FunctionModel(asked), input=text)


def rows(events: Sequence[Event], type_name: str) -> list[Any]:
    return [event.value for event in events if event.type == type_name]


def first_text(request: ModelRequest) -> str:
    return request.messages[0]["content"][0]["text"]


async def test_a_long_transcript_goes_on_as_summary_and_its_end() -> None:
    asked, journal = Looking(12), MemoryJournal()
    result = await run(asked, journal)
    assert (result.text, result.steps, len(result.tool_calls)) == ("Done.", 13, 12)
    assert len(asked.summaries) > 1
    assert all(len(request.messages) < 18 for request in asked.prompts)
    assert "Summary of the conversation" in first_text(asked.prompts[-1])
    assert "Summary 1." in asked.summaries[1]
    assert "EARLIER SUMMARY" in asked.summaries[1]


async def test_the_summariser_is_asked_seldom() -> None:
    asked = Looking(40)
    await run(asked)
    assert len(asked.summaries) <= 40 * 130 // (SMALL.threshold // 4)
    assert len(asked.summaries) <= 14


async def test_its_call_is_billed_and_limited_and_is_no_step_of_the_result() -> None:
    asked, journal = Looking(12), MemoryJournal()
    result = await run(asked, journal)
    steps = {event.key: event.value for event in journal.rows if event.type == "step"}
    paid = sum((Spent.in_row(row) for row in steps.values()), Spent())
    assert result.usage == paid.usage
    assert sum("purpose" in row for row in steps.values()) == len(asked.summaries)
    limited = await run(Looking(12), tokens_max=2_000)
    assert limited.stop_reason == "tokens_max"


async def test_that_a_summary_broke_off_is_durable_before_it_is_asked_for_again() -> None:
    journal, marks = MemoryJournal(), list[int]()

    class Torn(FunctionModel):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
            if request.system.startswith("You sum up"):
                yield UsageSeen(usage=Usage(input_tokens=7))
                yield AnswerBroken(reason="torn")
                kept = [row for row in journal.rows_kept(posts_lost=True) if row.type == "step"]
                marks.append(kept[-1].value.get("uncounted", 0))
            async with aclosing(super().stream(request)) as events:
                async for event in events:
                    yield event

    config = AgentConfig(tools=[look], compaction=SMALL)
    result = await run_agent(journal, config, model=Torn(Looking(8)), input="hi")
    assert marks == [1] * len(marks) != []
    voided = {e.key: e.value["voided"] for e in journal.rows if "voided" in (e.text or "")}
    assert [each["input_tokens"] for each in voided.values()] == [7] * len(marks)
    assert result.uncounted == len(marks)


async def test_a_summary_is_durable_before_anything_else_is_waited_for() -> None:
    journal, kept = MemoryJournal(), list[int]()

    async def source() -> str:
        durable = journal.rows_kept(posts_lost=True)
        kept.append(sum(event.type == "compaction" for event in durable))
        return "what is asked for anew when a summary was made"

    asked, config = Looking(12), AgentConfig(tools=[look], compaction=SMALL)
    model = FunctionModel(asked)
    prompting = Prompting(config, model, plan=plan_of(100, {"slow": {"content": source}}))
    await run_agent(journal, config, model=model, input="hi", prompting=prompting)
    assert kept == list(range(1 + len(asked.summaries)))
    assert len(kept) > 1


async def test_what_was_summed_up_is_still_there_for_who_reads_the_whole() -> None:
    asked, journal = Looking(12), MemoryJournal()
    await run(asked, journal)
    whole = Timeline(journal.rows, whole=True).messages()
    assert len(whole) == 26
    assert whole == Timeline(e for e in journal.rows if e.type != "compaction").messages()
    assert len(Timeline(journal.rows).messages()) < 18
    assert timed_messages(journal.rows)[0].content[0]["text"].startswith("Summary")  # type: ignore[index, union-attr]


async def test_as_of_an_offset_before_it_the_conversation_is_whole() -> None:
    asked, journal = Looking(12), MemoryJournal()
    await run(asked, journal)
    at = next(event.offset for event in journal.rows if event.type == "compaction")
    before = [event for event in journal.rows if event.offset < at]
    assert Timeline(before).messages() == Timeline(before, whole=True).messages()


async def test_a_later_run_goes_on_from_the_summary() -> None:
    journal = MemoryJournal()
    await run(Looking(12), journal)
    asked = Looking(0)
    await run(asked, MemoryJournal("run-2", history=journal.rows), text="and now?")
    assert "Summary of the conversation" in first_text(asked.prompts[0])
    assert asked.prompts[0].messages[-1]["content"][-1]["text"] == "and now?"


async def test_a_summary_that_was_answered_is_never_paid_again() -> None:
    whole = MemoryJournal()
    await run(Looking(8), whole)
    for crash_at in range(1, whole.appends + 1):
        asked = Looking(8)
        crashed = MemoryJournal(crash_at=crash_at, acknowledged_lost=True)
        with pytest.raises(Crashed):
            await run(asked, crashed)
        kept = crashed.rows_kept(posts_lost=False)
        recorded = sum(event.type == "compaction" for event in kept)
        again = Looking(8)
        again.prompts = asked.prompts[: len(completed(kept))]
        resumed = MemoryJournal(recorded=kept)
        await run(again, resumed)
        made = sum(event.type == "compaction" for event in resumed.rows)
        assert len(again.summaries) == made - recorded


def completed(events: Sequence[Event]) -> set[str]:
    """The steps that were answered, summaries left out."""
    return {
        event.key
        for event in events
        if event.type == "step"
        and event.value["status"] == "completed"
        and "purpose" not in event.value
    }


async def test_a_summary_that_a_dead_owner_left_begun_is_ended_with_its_run() -> None:
    class Dying(Looking):
        def __call__(self, request: ModelRequest) -> Says:
            if request.system.startswith("You sum up"):
                raise Crashed("while it was asked for a summary")
            return super().__call__(request)

    journal = MemoryJournal()
    with pytest.raises(Crashed):
        await run(Dying(12), journal)
    again = MemoryJournal(recorded=journal.rows)
    again.interruption.set()
    result = await run(Looking(12), again)
    steps = {event.key: event.value["status"] for event in again.rows if event.type == "step"}
    assert steps["run-1:c1"] == "failed"
    assert (result.stop_reason, result.uncounted) == ("interrupted", 1)


@pytest.mark.parametrize(
    "nothing", [Says(text=" "), Says(text="I had rather not.", stop_reason="refusal")]
)
async def test_a_summary_that_says_nothing_is_asked_for_once_in_a_run(nothing: Says) -> None:
    class Silent(Looking):
        def __call__(self, request: ModelRequest) -> Says:
            if request.system.startswith("You sum up"):
                self.summaries.append("")
                return nothing
            return super().__call__(request)

    asked, journal = Silent(12), MemoryJournal()
    result = await run(asked, journal)
    assert (result.text, len(asked.summaries)) == ("Done.", 1)
    assert not rows(journal.rows, "compaction")


async def test_a_summariser_that_cannot_be_reached_fails_the_run_and_is_asked_again() -> None:
    class Refusing(Looking):
        def __call__(self, request: ModelRequest) -> Says:
            if request.system.startswith("You sum up"):
                raise ModelUnavailable("not today")
            return super().__call__(request)

    asked, journal = Refusing(12), MemoryJournal()
    with pytest.raises(ModelUnavailable, match="not today"):
        await run(asked, journal)
    assert rows(journal.rows, "run")[-1]["status"] == "failed"
    again = Looking(12)
    again.prompts = asked.prompts
    result = await run(again, MemoryJournal(recorded=journal.rows))
    assert (result.text, len(again.summaries) > 0) == ("Done.", True)


async def test_a_step_costs_as_much_however_many_were_before_it() -> None:
    few, many = [await calls_made_by(steps) for steps in (30, 120)]
    assert many < 6 * few


WINDOW = 900  # tokens; the threshold is 600


class Narrow(Looking):
    """A model that refuses whatever is beyond its window, as providers do."""

    def __call__(self, request: ModelRequest) -> Says:
        asked = [block for each in request.messages for block in each["content"]]
        if tokens_in_blocks(asked) > WINDOW:
            raise ModelUnavailable("prompt is too long", model=request.model)
        return super().__call__(request)


async def long_history(looks: int) -> list[Event]:
    """A conversation of about 130 tokens a look, before compaction was switched on."""
    journal = MemoryJournal("run-0")
    await run(Looking(looks), journal, compaction=None, turns_max=60)
    return journal.rows


async def test_a_conversation_beyond_the_window_is_summed_up_in_parts_that_fit() -> None:
    history, asked = await long_history(50), Narrow(0)
    journal = MemoryJournal("run-1", history=history)
    result = await run(asked, journal, text="and now?")
    assert (result.text, result.steps) == ("Done.", 1)
    assert 10 < len(asked.summaries) <= 50 * 130 // (SMALL.threshold // 4)
    made = [event.value for event in journal.rows if event.type == "compaction"]
    assert len(made) == len(asked.summaries)
    told = "".join(asked.summaries)
    assert all(told.count(f"RESULT: {number} word") == 1 for number in range(1, 49))
    assert all(f"Summary {n}." in asked.summaries[n] for n in range(1, len(made)))
    newest = made[-1]
    short = [each for each in (*history, *journal.rows) if each.offset >= newest["read_from"]]
    row = next(event for event in reversed(journal.rows) if event.type == "compaction")
    assert Timeline([row, *short]).messages() == Timeline([*history, *journal.rows]).messages()


async def test_of_a_conversation_that_is_summed_up_in_parts_no_part_is_paid_twice() -> None:
    history = await long_history(14)
    whole = MemoryJournal("run-1", history=history)
    await run(Narrow(0), whole)
    for crash_at in range(1, whole.appends + 1):
        first, crashed = Narrow(0), MemoryJournal("run-1", history=history, crash_at=crash_at)
        with pytest.raises(Crashed):
            await run(first, crashed)
        kept = crashed.rows_kept(posts_lost=False)
        again, resumed = Narrow(0), MemoryJournal("run-1", history=history, recorded=kept)
        assert (await run(again, resumed)).text == "Done."
        lost = len(first.summaries) - sum(event.type == "compaction" for event in kept)
        assert lost <= 1  # one in flight, whose answer was not recorded
        made = sum(event.type == "compaction" for event in resumed.rows)
        assert len(first.summaries) + len(again.summaries) == made + lost


async def test_limits_are_looked_at_between_the_parts() -> None:
    asked, journal = Narrow(0), MemoryJournal("run-1", history=await long_history(50))
    result = await run(asked, journal, tokens_max=1_000)
    assert (result.stop_reason, result.steps) == ("tokens_max", 0)
    assert 1 <= len(asked.summaries) < 5


async def calls_made_by(steps: int) -> int:
    """How many calls a run of so many steps makes, whose prompts stay as long as they are."""
    made = 0

    def see(_: Any, event: str, __: Any) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    config = AgentConfig(tools=[look], compaction=SMALL, turns_max=steps + 1, tokens_max=10**9)
    model = FunctionModel(Looking(steps))
    sys.setprofile(see)
    try:
        await run_agent(MemoryJournal(), config, model=model, input="hi")
    finally:
        sys.setprofile(None)
    return made


async def test_a_summary_keeps_to_the_time_of_the_run() -> None:
    asked = Looking(30)
    result = await run(asked, MemoryJournal(), time_max=timedelta(milliseconds=120))
    assert result.stop_reason == "time_max"


def test_its_settings_are_checked() -> None:
    with pytest.raises(InvalidDefinition, match=r"Compaction\(keep_last=0\): at least 1"):
        Compaction(threshold=1_000, keep_last=0, max_tokens=10)
    with pytest.raises(InvalidDefinition, match=r"threshold=1000, max_tokens=4000"):
        Compaction(threshold=1_000)
    with pytest.raises(InvalidDefinition, match="no price of 'unheard-of'"):
        AgentConfig(cost_max=Decimal(1), compaction=Compaction(threshold=9_000, model="unheard-of"))


def test_the_readmes_example_can_come_to_its_threshold() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    talk = re.search(r'"content": ctx.timeline_messages, "max": ([\d_]+)', readme)
    compaction = re.search(r"Compaction\(threshold=([\d_]+), keep_last=(\d+)\)", readme)
    assert talk is not None
    assert compaction is not None
    made = Compaction(threshold=int(compaction[1]), keep_last=int(compaction[2]))
    assert made.threshold < int(talk[1])
    assert f"`max_tokens`, {made.max_tokens:,}" in readme


async def test_so_many_messages_stay_and_no_call_is_parted_from_its_result() -> None:
    journal = MemoryJournal()
    await run(Looking(12), journal, compaction=None)
    turns = Timeline(journal.rows).turns()
    for keep_last in range(1, 12):
        cut = cut_of(turns, Compaction(threshold=1_400, keep_last=keep_last, max_tokens=50))
        assert cut is not None
        assert turns[cut].role == "assistant"
        assert keep_last <= len(turns) - cut <= keep_last + 1


async def test_counts_of_the_provider_decide_where_they_are_known() -> None:
    class Costly(Looking):
        def __call__(self, request: ModelRequest) -> Says:
            said = super().__call__(request)
            return Says(text=said.text, calls=said.calls, usage=Usage(input_tokens=5_000))

    asked = Costly(4)
    await run(asked)
    assert asked.summaries
    few = Looking(4)
    await run(few)
    assert not few.summaries


@pytest.mark.parametrize("runs", [1, 3])
async def test_a_summary_and_the_rows_it_names_give_what_all_rows_give(runs: int) -> None:
    history: list[Event] = []
    for number in range(runs):
        journal = MemoryJournal(f"run-{number}", history=history)
        await run(Looking(9), journal, text=f"do {number}")
        history += journal.rows
        newest = [event for event in history if event.type == "compaction"][-1]
        read = [event for event in history if event.offset >= newest.value["read_from"]]
        short, full = Timeline([newest, *read]), Timeline(history)
        assert (short.messages(), short.answers) == (full.messages(), full.answers)
        assert len(read) < len(history)
        assert timed_messages([newest, *read]) == timed_messages(history)
        for timeline in (short, full):
            timeline.take("run", "next", {"status": "started", "input": "go on"})
        assert short.turns("next") == full.turns("next")
        assert short.messages() == full.messages()
