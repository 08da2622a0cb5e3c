"""Whose turn it is: fair between entities, whoever comes and goes."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ray_agents.turns import Caller, Turns


def test_an_entity_with_many_calls_waits_as_long_as_one_with_one() -> None:
    turns: Turns[str] = Turns()
    for number in range(5):
        turns.join("greedy", f"greedy {number}")
    turns.join("modest", "modest 0")
    turns.join("shy", "shy 0")
    assert [turns.next() for _ in range(4)] == ["greedy 0", "modest 0", "shy 0", "greedy 1"]


def test_calls_of_one_entity_go_in_their_order() -> None:
    turns: Turns[int] = Turns()
    for number in range(5):
        turns.join("a", number)
    assert [turns.next() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_who_comes_again_comes_behind_who_waits() -> None:
    turns: Turns[str] = Turns()
    turns.join("a", "a")
    turns.join("b", "b")
    assert turns.next() == "a"
    turns.done("a")
    turns.join("a", "a again")
    turns.join("c", "c")
    assert [turns.next() for _ in range(3)] == ["b", "a again", "c"]


def test_it_tells_how_many_are_ahead() -> None:
    turns: Turns[str] = Turns()
    for name in "abc":
        turns.join(name, name)
    assert [turns.ahead_of(name) for name in "abc"] == [0, 1, 2]
    turns.next()
    assert turns.ahead_of("c") == 1
    turns.join("d", "d")
    assert turns.ahead_of("d") == 2
    turns.leave("b", "b")
    assert [turns.ahead_of(name) for name in "cd"] == [0, 1]


def test_who_leaves_is_forgotten() -> None:
    turns: Turns[str] = Turns()
    turns.join("a", "a")
    turns.leave("a", "a")
    assert (turns.waiting, turns.entities) == (0, 0)
    with pytest.raises(IndexError):
        turns.next()


def test_who_comes_and_leaves_again_and_again_leaves_nothing_behind() -> None:
    turns: Turns[str] = Turns()
    turns.join("stays", "stays")
    for number in range(1_000):
        turns.join("fickle", f"fickle {number}")
        turns.leave("fickle", f"fickle {number}")
    assert len(turns) == 1
    assert turns.remembered < 10
    assert turns.next() == "stays"


def test_a_caller_says_what_its_oldest_call_waits_for() -> None:
    caller = Caller("/a/b")
    assert caller.waiting_for is None
    with caller.waiting(lambda: "one"), caller.waiting(lambda: "two"):
        assert caller.waiting_for == "one"
    assert caller.waiting_for is None


def test_a_call_that_fails_while_it_waits_is_waited_for_no_more() -> None:
    caller = Caller("/a/b")
    with suppress(ValueError), caller.waiting(lambda: "one"):
        raise ValueError
    assert caller.waiting_for is None


def test_a_caller_says_nothing_of_a_call_that_waits_no_more() -> None:
    caller, turn = Caller("/a/b"), list[str]()
    with caller.waiting(lambda: None if turn else "one"), caller.waiting(lambda: "two"):
        assert caller.waiting_for == "one"
        turn.append("has come")
        assert caller.waiting_for == "two"


@given(
    steps=some.lists(
        some.tuples(some.sampled_from(["join", "next", "done", "leave"]), some.integers(0, 4)),
        min_size=40,
        max_size=200,
    )
)
def test_every_call_has_one_turn_or_leaves(steps: list[tuple[str, int]]) -> None:
    """And its entity never has more in flight than another that waits and has fewer."""
    turns: Turns[tuple[str, int]] = Turns()
    waiting: dict[str, deque[tuple[str, int]]] = {str(n): deque() for n in range(5)}
    flying: Counter[str] = Counter()
    for number, (what, of) in enumerate(steps):
        name = str(of)
        if what == "join":
            waiting[name].append((name, number))
            turns.join(name, (name, number))
        elif what == "leave" and waiting[name]:
            turns.leave(name, waiting[name].pop())
        elif what == "done" and flying[name]:
            flying[name] -= 1
            turns.done(name)
        elif what == "next" and any(waiting.values()):
            least = min(flying[n] for n, calls in waiting.items() if calls)
            taken = turns.next()
            assert taken == waiting[taken[0]].popleft()
            assert flying[taken[0]] == least
            flying[taken[0]] += 1
        assert turns.waiting == sum(len(calls) for calls in waiting.values())
        assert turns.in_flight == flying.total()
        assert turns.entities == sum(1 for n in waiting if waiting[n] or flying[n])


@given(calls=some.lists(some.integers(1, 5), min_size=1, max_size=8), places=some.integers(1, 4))
def test_nobody_starves(calls: list[int], places: int) -> None:
    """Each entity keeps so many calls waiting; whoever is served comes again at once."""
    turns: Turns[str] = Turns()
    for name, count in enumerate(calls):
        for _ in range(count):
            turns.join(str(name), str(name))
    served, flying = Counter[str](), deque[str]()
    for _ in range(40 * len(calls)):
        if len(flying) == places:
            turns.done(flying.popleft())
        name = turns.next()
        turns.join(name, name)
        flying.append(name)
        served[name] += 1
    assert max(served.values()) - min(served[str(n)] for n in range(len(calls))) <= places + 1
