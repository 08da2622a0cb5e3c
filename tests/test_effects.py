"""Effects: staged, committed together, and answered from the log when a wake runs again."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest

from ray_agents.effects import Effects
from ray_agents.errors import Fenced, NondeterministicWake
from ray_agents.events import Draft, Event, Operation, decode
from ray_agents.projection import Committed, EffectId


def write(effects: Effects, key: str, value: object) -> bool:
    draft = Draft.of("state:r", key, value=value, operation=Operation.UPSERT)
    return effects.stage("upsert", f"state:r/{key}", content=value, drafts=[draft])


def again(drafts: list[Draft], *, shown: bool = False) -> Effects:
    """The next attempt, which finds these rows in the log."""
    committed: dict[EffectId, Committed] = {}
    for draft in drafts:
        place = (draft.headers["scope"], int(draft.headers["ordinal"]))
        event = Event.at(0, 0, draft)
        committed[place] = Committed(digest=draft.headers["digest"], events=[event], shown=shown)
    return Effects("wake-1", committed, {})


def test_what_is_staged_is_seen_at_once_and_committed_together() -> None:
    effects = Effects("wake-1", {}, {"state:r": {"old": "0"}})
    assert write(effects, "a", 1)
    assert write(effects, "b", 2)
    assert effects.rows("state:r") == {"old": "0", "a": "1", "b": "2"}
    assert [draft.key for draft in effects.take()] == ["a", "b"]
    assert effects.take() == []


def test_a_deleted_row_is_gone_at_once() -> None:
    effects = Effects("wake-1", {}, {"state:r": {"a": "0"}})
    gone = Draft(type="state:r", key="a", operation=Operation.DELETE)
    effects.stage("delete", "state:r/a", content=None, drafts=[gone])
    assert effects.row("state:r", "a") is None
    assert effects.rows("state:r") == {}


def test_the_same_effect_again_is_answered_from_the_log() -> None:
    first = Effects("wake-1", {}, {})
    write(first, "a", 1)
    second = again(first.take())
    assert second.repeats()
    assert not write(second, "a", 1)
    assert second.row("state:r", "a") == "1"
    assert write(second, "b", 2)
    assert [draft.key for draft in second.take()] == ["b"]


@pytest.mark.parametrize(("key", "value"), [("a", 2), ("b", 1)])
def test_another_effect_in_its_place_is_refused(key: str, value: int) -> None:
    first = Effects("wake-1", {}, {})
    write(first, "a", 1)
    with pytest.raises(NondeterministicWake, match="same order"):
        write(again(first.take()), key, value)


def test_after_parking_only_kind_and_target_must_be_the_same() -> None:
    first = Effects("wake-1", {}, {})
    write(first, "a", 1)
    drafts = first.take()
    retried = again(drafts, shown=True)
    assert not write(retried, "a", 2)
    assert retried.row("state:r", "a") is None  # it is in the state, newer or older, already
    with pytest.raises(NondeterministicWake):
        write(again(drafts, shown=True), "b", 1)


def test_effects_of_a_tool_wait_for_its_result() -> None:
    effects = Effects("wake-1", {}, {})
    with effects.within("tool-1"):
        write(effects, "a", 1)
        assert effects.take() == []
    write(effects, "b", 2)
    assert [draft.key for draft in effects.take()] == ["b"]
    effects.release("tool-1")
    assert [draft.key for draft in effects.take()] == ["a"]


def test_a_failed_tool_leaves_nothing() -> None:
    effects = Effects("wake-1", {}, {})
    with effects.within("tool-1"):
        write(effects, "a", 1)
        effects.drop("tool-1")
    effects.release("tool-1")
    assert effects.take() == []


def test_a_tool_whose_result_comes_before_its_end_leaves_nothing_either() -> None:
    effects = Effects("wake-1", {}, {})
    with effects.within("tool-1"):
        write(effects, "a", 1)
        effects.release("tool-1")
        with pytest.raises(Fenced):
            write(effects, "b", 2)
    assert effects.take() == []


async def test_tools_that_run_side_by_side_count_apart() -> None:
    effects = Effects("wake-1", {}, {})

    async def run(tool: str) -> None:
        with effects.within(tool):
            for n in range(3):
                await asyncio.sleep(0)
                write(effects, f"{tool}-{n}", n)
        effects.release(tool)

    await asyncio.gather(run("x"), run("y"))
    places = {(d.headers["scope"], d.headers["ordinal"]): d.key for d in effects.take()}
    assert places == {(t, str(n)): f"{t}-{n}" for t in "xy" for n in range(3)}


def test_a_tool_that_is_not_run_again_keeps_its_effects() -> None:
    first = Effects("wake-1", {}, {})
    with first.within("tool-1"):
        write(first, "a", 1)
    first.release("tool-1")
    second = again(first.take())
    second.adopt({"tool-1"})
    assert second.row("state:r", "a") == "1"
    with second.within("tool-1"):
        assert second.next_ordinal() == 1


def test_what_a_failed_tool_staged_is_seen_by_nobody() -> None:
    effects = Effects("wake-1", {}, {})
    row = Draft.of("state:rows", "a", value={"key": "a"})
    with effects.within("tool"):
        effects.stage("insert", "state:rows/a", content=1, drafts=[row])
    effects.drop("tool")
    assert effects.row("state:rows", "a") is None
    assert effects.take() == []


def test_what_is_committed_together_stands_in_the_order_of_its_making() -> None:
    effects = Effects("wake-1", {}, {})
    for number, scope in enumerate(("", "tool", "")):
        with effects.within(scope) if scope else nullcontext():
            row = Draft.of("state:rows", "a", value={"key": "a", "n": number})
            effects.stage("upsert", "state:rows/a", content=number, drafts=[row])
    effects.release("tool")
    assert [decode(draft.text)["n"] for draft in effects.take()] == [0, 1, 2]
