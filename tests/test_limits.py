"""What a run may use: it ends cleanly at a limit, says which, and counts what it used before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.contextplan import plan_of
from ray_agents.errors import InvalidDefinition, ModelUnavailable
from ray_agents.loop import run_agent
from ray_agents.model import (
    AnswerBroken,
    Answered,
    CallQueued,
    CallSent,
    Model,
    ModelEvent,
    ModelRequest,
    TextDelta,
    Usage,
    UsageSeen,
)
from ray_agents.models.scripted import Says, ScriptedModel
from ray_agents.prices import PRICES, Price
from ray_agents.prompting import Prompting
from ray_agents.testing.journal import Crashed, MemoryJournal
from ray_agents.testing.rules import check_messages
from ray_agents.timeline import INTERRUPTED, Timeline
from ray_agents.tools import tool

USAGE = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=3, cache_write_tokens=4)
DOLLAR_A_TOKEN = Price.of("1000000 1000000 1000000 1000000")


@tool
async def look() -> str:
    """Look."""
    return "seen"


LOOKS = Says(calls=[("look", {})], usage=USAGE)
DONE = Says(text="Done.", usage=USAGE)


async def run(
    says: Model | Sequence[Any], journal: MemoryJournal | None = None, **options: Any
) -> AgentRunResult:
    made = ScriptedModel(says) if isinstance(says, Sequence) else says
    config = AgentConfig(tools=[look], **options)
    return await run_agent(journal or MemoryJournal(), config, model=made, input="hi")


def rows(journal: MemoryJournal, type_name: str) -> list[Any]:
    return [event.value for event in journal.rows if event.type == type_name]


def check_transcript(journal: MemoryJournal) -> None:
    messages = Timeline(journal.rows).messages()
    if messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": [{"type": "text", "text": "next"}]})
    check_messages(messages)


class Steps:
    """A model that goes through lists of events, one for each call; a number is a failure."""

    provider = "scripted"

    def __init__(self, *calls: Sequence[ModelEvent | None]) -> None:
        self.calls = list(calls)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        for event in self.calls.pop(0):
            if event is None:
                await asyncio.Event().wait()
            else:
                yield event
        raise ModelUnavailable("it is gone", model=request.model)


def answer(text: str = "Done.", usage: Usage = USAGE, **more: Any) -> Answered:
    content = [{"type": "text", "text": text}]
    return Answered(content=content, stop_reason="end_turn", usage=usage, **more)


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"turns_max": 2}, "turns_max"),
        ({"tokens_max": 254}, "tokens_max"),
        ({"cost_max": Decimal(128)}, "cost_max"),
        ({"cost_max": Decimal(254)}, "cost_max"),
        ({"time_max": timedelta(milliseconds=12)}, "time_max"),
    ],
)
async def test_a_limit_ends_the_run_after_its_step(limit: dict[str, Any], reason: str) -> None:
    journal = MemoryJournal()
    prices = PRICES.but({"m": DOLLAR_A_TOKEN})
    result = await run([LOOKS] * 9, journal, model="m", prices=prices, **limit)
    assert (result.stop_reason, result.steps) == (reason, 2)
    assert rows(journal, "run")[-1]["finish_reason"] == reason
    assert [call.error for call in result.tool_calls] in (
        [None, f"Not run: the run stopped ({reason})."],
        [None, None],
    )
    check_transcript(journal)


async def test_what_ends_by_itself_has_reached_no_limit() -> None:
    result = await run([DONE], tokens_max=1)
    assert result.stop_reason == "end_turn"


async def test_a_run_without_a_budget_ends_before_its_first_call() -> None:
    journal = MemoryJournal(used_up=True)
    result = await run([], journal)
    assert (result.stop_reason, result.steps, result.text) == ("budget", 0, "")
    assert rows(journal, "step") == []
    check_transcript(journal)


async def test_a_result_carries_tokens_and_cost() -> None:
    result = await run([LOOKS, DONE])
    assert result.usage == USAGE + USAGE
    assert result.cost == 2 * Decimal("0.000410")
    assert result.uncounted == 0


async def test_a_model_without_a_price_costs_none_and_its_tokens_count() -> None:
    journal = MemoryJournal()
    result = await run([DONE], journal, model="unheard-of")
    assert (result.cost, result.usage) == (None, USAGE)
    assert rows(journal, "step")[-1]["cost_micros"] is None
    assert rows(journal, "run")[-1]["cost_micros"] is None


async def test_the_price_is_that_of_the_model_that_answered() -> None:
    prices = PRICES.but({"other": DOLLAR_A_TOKEN})
    result = await run(Steps([answer(model="other")]), prices=prices)
    assert result.cost == USAGE.tokens
    assert (await run(Steps([answer(model="unheard-of")]), prices=prices)).cost is not None


async def test_broken_answers_are_counted_as_far_as_the_provider_said() -> None:
    journal = MemoryJournal()
    seen = UsageSeen(usage=Usage(input_tokens=7, output_tokens=1))
    broken = [seen, TextDelta(block=0, text="Do"), AnswerBroken(reason="torn")]
    result = await run(Steps([*broken, AnswerBroken(reason="again"), seen, answer()]), journal)
    assert result.usage == USAGE + seen.usage
    assert result.uncounted == 2
    step = rows(journal, "step")[-1]
    assert step["voided"]["input_tokens"] == 7
    assert (step["input_tokens"], step["uncounted"]) == (107, 2)
    assert result.cost == Decimal("0.000410") + Decimal("0.000024")


async def test_that_an_answer_broke_off_is_durable_before_the_call_is_made_again() -> None:
    journal, marks = MemoryJournal(), list[int]()

    class Torn(Steps):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
            yield AnswerBroken(reason="torn")
            kept = [row for row in journal.rows_kept(posts_lost=True) if row.type == "step"]
            marks.append(kept[-1].value.get("uncounted", 0))
            yield answer()

    await run(Torn([]), journal)
    assert marks == [1]


async def test_a_call_that_failed_in_the_end_counts_in_the_run_that_goes_on() -> None:
    journal = MemoryJournal()
    seen = UsageSeen(usage=Usage(input_tokens=7, output_tokens=1))
    with pytest.raises(ModelUnavailable):
        await run(Steps([seen, AnswerBroken(reason="torn"), seen]), journal)
    assert rows(journal, "run")[-1]["input_tokens"] == 14
    again = MemoryJournal(recorded=journal.rows)
    result = await run(Steps([answer()]), again)
    assert (result.usage.input_tokens, result.uncounted) == (114, 2)


async def test_a_refused_call_has_cost_nothing() -> None:
    journal = MemoryJournal()
    with pytest.raises(ModelUnavailable):
        await run(Steps([]), journal)
    result = await run(Steps([answer()]), MemoryJournal(recorded=journal.rows))
    assert (result.usage, result.uncounted) == (USAGE, 0)


async def test_a_resumed_run_counts_what_was_used_before_the_crash() -> None:
    journal = MemoryJournal(crash_at=5)
    with pytest.raises(Crashed):
        await run([LOOKS, LOOKS, LOOKS], journal, tokens_max=254)
    again = MemoryJournal(recorded=journal.rows)
    result = await run([LOOKS, LOOKS, LOOKS], again, tokens_max=254)
    assert (result.stop_reason, result.steps) == ("tokens_max", 2)
    assert result.usage == USAGE + USAGE
    assert result.uncounted == 1  # the call in flight, whose answer nobody recorded


async def test_the_time_before_a_crash_counts() -> None:
    journal = MemoryJournal(crash_at=4)
    with pytest.raises(Crashed):
        await run([LOOKS, DONE], journal)
    late = MemoryJournal(recorded=journal.rows, began=10_000_000)
    result = await run([LOOKS, DONE], late, time_max=timedelta(seconds=5))
    assert (result.stop_reason, result.steps) == ("time_max", 1)
    assert [call.error for call in result.tool_calls] == [INTERRUPTED]  # it had begun
    check_transcript(late)


async def test_an_answer_is_cut_off_when_the_time_is_up() -> None:
    journal = MemoryJournal()
    seen = UsageSeen(usage=Usage(input_tokens=7))
    said = [seen, TextDelta(block=0, text="I am "), None]
    result = await run(Steps(said), journal, time_max=timedelta(milliseconds=50))
    assert (result.stop_reason, result.steps, result.text) == ("time_max", 0, "")
    assert (result.usage.input_tokens, result.uncounted) == (7, 1)
    assert rows(journal, "step")[-1]["status"] == "failed"
    texts = [event for event in journal.rows if event.type in ("text", "text_delta")]
    assert [event.operation.value for event in texts][-2:] == ["delete", "delete"]
    check_transcript(journal)


@pytest.mark.parametrize(
    ("events", "uncounted"),
    [
        ([CallQueued(), None], 0),
        ([CallQueued(), CallSent(), None], 1),
        ([CallQueued(), CallSent(), AnswerBroken(reason="torn"), CallQueued(), None], 1),
    ],
)
async def test_a_call_that_was_never_sent_has_cost_nothing(
    events: Sequence[ModelEvent | None], uncounted: int
) -> None:
    result = await run(Steps(events), time_max=timedelta(milliseconds=50))
    assert (result.stop_reason, result.uncounted) == ("time_max", uncounted)


class Counted(Steps):
    """A model whose provider never says how many tokens a prompt has."""

    async def count(self, request: ModelRequest) -> int | None:
        await asyncio.Event().wait()
        raise AssertionError("it has ended")


async def never() -> str:
    """A source that never has anything to say."""
    await asyncio.Event().wait()
    raise AssertionError("it has ended")


@pytest.mark.parametrize("content", [never, "a long text " * 200])
async def test_what_a_prompt_is_made_of_is_not_waited_for_beyond_the_time(content: Any) -> None:
    journal, model = MemoryJournal(), Counted()
    config = AgentConfig(time_max=timedelta(milliseconds=50))
    plan = plan_of(100, {"slow": {"content": content, "max": 100}})
    prompting = Prompting(config, model, plan=plan)
    result = await run_agent(journal, config, model=model, input="hi", prompting=prompting)
    assert (result.stop_reason, result.steps, result.uncounted) == ("time_max", 0, 0)
    assert rows(journal, "step") == []
    check_transcript(journal)


async def test_what_is_used_up_while_a_prompt_is_made_leaves_nothing_for_the_call() -> None:
    class Shared(MemoryJournal):
        def used_up(self) -> str | None:
            return "budget" if gone else None

    async def slow() -> str:
        gone.append("what another run has spent meanwhile")
        return "a text"

    gone, model, config = list[str](), Steps(), AgentConfig()
    prompting = Prompting(config, model, plan=plan_of(100, {"slow": {"content": slow}}))
    result = await run_agent(Shared(), config, model=model, input="hi", prompting=prompting)
    assert (result.stop_reason, result.steps) == ("budget", 0)


@pytest.mark.parametrize(
    "limit",
    [
        {"tokens_max": 0},
        {"cost_max": Decimal(0)},
        {"cost_max": Decimal("1e400")},
        {"cost_max": 0.5},
        {"time_max": timedelta(0)},
        {"cost_max": Decimal(1), "model": "unheard-of"},
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused(limit: dict[str, Any]) -> None:
    with pytest.raises(InvalidDefinition):
        AgentConfig(**limit)
