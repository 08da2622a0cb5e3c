"""Messages that a run takes in: where they stand in its transcript, and when it waits with them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.events import Draft, Event, MessageReceived
from ray_agents.loop import run_agent
from ray_agents.model import Message, ModelRequest
from ray_agents.models.scripted import FunctionModel, Says
from ray_agents.modes import Mode
from ray_agents.runs import RunRecord
from ray_agents.steering import JOINING_MAX, has_joined, is_steering, joining
from ray_agents.testing.journal import Crashed, MemoryJournal
from ray_agents.testing.rules import check_messages
from ray_agents.tools import tool


@tool(idempotent=True)
async def look() -> str:
    """Look."""
    return "seen"


CALL: Any = ("", [("look", {})])


def message(payload: Any, offset: int, mode: Mode = Mode.STEER) -> Event:
    received = MessageReceived(
        key=f"m{offset}",
        payload=payload,
        message_type="message",
        sender=None,
        timestamp=0,
        mode=mode,
    )
    return Event.at(offset, 0, received.draft())


class Talk:
    """Answers by a script, to which messages come while it answers, by the number of the call."""

    def __init__(self, *script: Any, comes: dict[int, Sequence[Event]] | None = None) -> None:
        self.journal = MemoryJournal()
        self.asked: list[Sequence[Message]] = []
        self._script = script
        self.comes = comes or {}

    def _answer(self, request: ModelRequest) -> Any:
        paused = request.messages[-1]["role"] == "assistant"
        check_messages(list(request.messages), ends_with_user=not paused)
        self.asked.append(request.messages)
        number = sum(message["role"] == "assistant" for message in request.messages)
        self.journal.inbox.extend(self.comes.get(len(self.asked), ()))
        return self._script[number]

    async def run(self, **options: Any) -> AgentRunResult:
        agent = AgentConfig(tools=[look], **options)
        model = FunctionModel(self._answer)
        return await run_agent(self.journal, agent, model=model, input="go")


def last_of(messages: Sequence[Message]) -> list[Any]:
    """What the blocks of the last message say."""
    return [block.get("text") or block.get("content") for block in messages[-1]["content"]]


async def test_messages_join_in_their_order_behind_the_results() -> None:
    talk = Talk(CALL, "Done.", comes={1: [message("one", 7), message({"n": 2}, 8)]})
    await talk.run()
    assert last_of(talk.asked[1]) == ["seen", "one", '{"n":2}']
    rows = [event.value for event in talk.journal.rows if event.type == "steered"]
    assert [(row["message"], row["offset"]) for row in rows] == [("m7", 7), ("m8", 8)]


async def test_of_many_a_step_takes_in_so_many_and_the_next_one_the_others() -> None:
    talk = Talk("One.", "Two.", "Three.")
    talk.journal.inbox += [message(f"m{n}", 7 + n) for n in range(2 * JOINING_MAX + 1)]
    await talk.run()
    heard = [last_of(messages)[-1] for messages in talk.asked]
    assert heard == [f"m{JOINING_MAX - 1}", f"m{2 * JOINING_MAX - 1}", f"m{2 * JOINING_MAX}"]
    joined = [sum(draft.type == "steered" for draft in rows) for rows in talk.journal.commits]
    assert max(joined) == JOINING_MAX


async def test_one_that_waits_when_a_run_begins_is_heard_at_once() -> None:
    talk = Talk("Done.")
    talk.journal.inbox.append(message("first", 7))
    await talk.run()
    assert last_of(talk.asked[0]) == ["go", "first"]


async def test_a_run_that_would_have_ended_goes_on() -> None:
    talk = Talk("One.", "Two.", comes={1: [message("and?", 7)]})
    result = await talk.run()
    assert (result.text, result.steps, result.stop_reason) == ("Two.", 2, "end_turn")


async def test_a_message_that_says_nothing_lets_it_go_on_all_the_same() -> None:
    talk = Talk("One.", "Two.", comes={1: [message("", 7)]})
    assert (await talk.run()).text == "Two."
    assert last_of(talk.asked[1]) == ["Continue."]


async def test_a_limit_comes_first() -> None:
    talk = Talk("One.", "Two.", comes={1: [message("and?", 7)]})
    result = await talk.run(turns_max=1)
    assert (result.text, result.stop_reason) == ("One.", "end_turn")
    assert talk.journal.steering()


@pytest.mark.parametrize("reason", ["max_tokens", "refusal"])
async def test_an_answer_that_was_cut_off_ends_the_run(reason: str) -> None:
    talk = Talk(Says(text="One.", stop_reason=reason), comes={1: [message("and?", 7)]})
    assert (await talk.run()).stop_reason == reason
    assert talk.journal.steering()


async def test_a_paused_turn_is_not_talked_into() -> None:
    paused = Says(text="Hm. ", stop_reason="pause_turn")
    talk = Talk(paused, "One.", "Two.", comes={1: [message("and?", 7)]})
    await talk.run()
    assert talk.asked[1][-1]["role"] == "assistant"
    assert last_of(talk.asked[2]) == ["and?"]


@pytest.mark.parametrize("at", range(1, 12))
@pytest.mark.parametrize("acknowledged_lost", [False, True])
async def test_a_run_that_dies_anywhere_has_heard_it_in_the_same_place(
    at: int, acknowledged_lost: bool
) -> None:
    talk = Talk(CALL, "One.", "Two.", comes={1: [message("one", 7)], 2: [message("two", 8)]})
    talk.journal = MemoryJournal(crash_at=at, acknowledged_lost=acknowledged_lost)
    with suppress(Crashed):
        await talk.run()
    before = talk.journal
    woken = Event.at(0, 0, Draft.of("wake", "w", value={"to_offset": 0}))
    talk.comes = {}
    talk.journal = MemoryJournal(
        recorded=before.rows, history=[woken, *before.inbox], steering=before.inbox
    )
    await talk.run()
    whole = [block for each in talk.asked[-1] for block in each["content"]]
    for request in talk.asked:
        asked = [block for each in request for block in each["content"]]
        assert asked == whole[: len(asked)]
    heard = [block["text"] for block in whole if block.get("text") in ("one", "two")]
    assert heard == [event.value["payload"] for event in before.inbox]


def test_a_step_that_is_begun_again_takes_more_in_behind_what_it_had() -> None:
    record = RunRecord("r", [])
    assert not has_joined(record, 2)
    (first,) = joining(record, 2, [message("one", 7)])
    (second,) = joining(record, 2, [message("two", 8)])
    (third,) = joining(record, 2, [message("three", 9)])
    assert [each.key for each in (first, second, third)] == [f"r:s2:steered:{n}" for n in range(3)]
    assert has_joined(record, 2)
    assert not has_joined(record, 1)


def test_only_messages_of_that_mode_steer() -> None:
    assert [mode for mode in Mode if is_steering(message("x", 1, mode))] == [Mode.STEER]
