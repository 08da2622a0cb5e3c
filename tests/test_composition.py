"""Composed prompts: their order, bounds and breakpoints, and that they are always valid."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ray_agents.agent import AgentConfig
from ray_agents.compaction import Compaction
from ray_agents.composition import GO_ON, LEFT_OUT, Parts, Prompt, composed
from ray_agents.contextplan import TIERS, ContextPlan, Source, TimedMessage, plan_of
from ray_agents.contextsource import Filled, estimate_of, filled, read
from ray_agents.conversation import timed_messages
from ray_agents.errors import InvalidDefinition
from ray_agents.events import Draft, Event
from ray_agents.loop import run_agent
from ray_agents.model import ModelRequest
from ray_agents.models.anthropic import prompt_arguments
from ray_agents.models.scripted import FunctionModel, Says
from ray_agents.prompting import Prompting, entries_text
from ray_agents.testing.journal import MemoryJournal
from ray_agents.testing.rules import check_messages, check_prompt
from ray_agents.timeline import Timeline
from ray_agents.tools import tool
from ray_agents.transcript import Turn, turn


@tool
async def look() -> str:
    """Look."""
    return "seen"


def own(text: str = "go", key: str = "r") -> list[Turn]:
    return [turn("run", key, role="user", content=[{"type": "text", "text": text}])]


def source(name: str, content: Any, tier: Any = "volatile", bound: int = 10_000) -> Filled:
    given = Source(content=content, max=bound, cache=tier)
    return filled(name, given, read(name, content), bound=bound)


def prompt(*sources: Filled, **parts: Any) -> Prompt:
    given: dict[str, Any] = {"system_prompt": "", "own": own(), "sources": sources}
    return composed(Parts(**given | parts))


def talk(*lines: str, since: int = 0) -> list[TimedMessage]:
    """A conversation, the user first, one line at each offset."""
    roles = ("user", "assistant")
    return [
        TimedMessage(at=since + at, role=roles[at % 2], content=line)
        for at, line in enumerate(lines)
    ]


def texts(made: Prompt) -> list[str]:
    return ["|".join(block["text"] for block in m["content"]) for m in made.messages]


def test_texts_that_change_least_come_first_in_the_system_prompt() -> None:
    made = prompt(
        source("now", "it rains", "volatile"),
        source("toc", "chapters", "slow-changing"),
        source("schema", "tables", "pinned"),
        source("docs", "manual", "stable"),
        system_prompt="You help.",
        entries="<context/>",
    )
    assert made.system.split("\n\n") == ["You help.", "tables", "manual", "chapters", "<context/>"]
    assert texts(made) == ["it rains|go"]


def test_messages_of_volatile_sources_are_told_in_the_order_of_their_times() -> None:
    made = prompt(source("a", talk("1", "2", since=10)), source("b", talk("0", "0a", since=0)))
    assert texts(made) == ["0", "0a", "1", "2", "go"]


def test_examples_of_a_stable_source_stand_before_the_conversation() -> None:
    examples = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    made = prompt(source("talk", talk("1", "2")), source("examples", examples, "stable"))
    assert texts(made) == ["q", "a", "1", "2", "go"]


def test_what_the_run_says_itself_is_not_told_twice() -> None:
    told = [TimedMessage(at=1, role="user", content="go", key="r"), *talk("before", since=0)]
    assert texts(prompt(source("talk", told))) == ["before|go"]


def test_a_prompt_begins_with_the_user_and_ends_with_it() -> None:
    only_answers = [{"role": "assistant", "content": "hm"}]
    assert texts(prompt(source("a", only_answers), own=[])) == [LEFT_OUT, "hm", GO_ON]
    assert texts(prompt(own=[])) == [GO_ON]


def test_a_text_beyond_its_bound_says_that_it_was_cut() -> None:
    made = source("docs", "a line of words\n" * 1_000, "stable", bound=100)
    assert made.tokens <= 100
    assert made.text.splitlines()[-1].startswith("[cut here: about 39")
    assert made.text.splitlines()[0] == "a line of words"
    assert made.left_out > 3_800


def test_a_conversation_beyond_its_bound_loses_its_oldest_messages_and_says_so() -> None:
    made = prompt(source("talk", talk(*(f"message {at:03d}" for at in range(100))), bound=100))
    assert made.messages[0]["content"][0]["text"] == LEFT_OUT
    assert texts(made)[-2:] == ["message 099", "go"]
    assert made.report.sources["talk"] <= 100
    assert made.report.left_out["talk"] > 500


def test_a_conversation_that_grows_begins_at_the_same_place_for_many_messages() -> None:
    lines = [f"message {at:03d}" for at in range(200)]
    begins = [
        texts(prompt(source("talk", talk(*lines[:count]), bound=200)))[0]
        for count in range(100, 200)
    ]
    changes = sum(before != after for before, after in pairwise(begins))
    assert changes <= 17  # 100 messages of 7 tokens, in steps of 50


def test_a_call_is_never_parted_from_its_result() -> None:
    call: Any = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    result: Any = {"type": "tool_result", "tool_use_id": "t1", "content": "x" * 400}
    messages = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    units = read("a", [*messages, {"role": "user", "content": "after"}])
    assert [len(unit.turns) for unit in units if not isinstance(unit, str)] == [2, 1]
    kept = prompt(source("a", [*messages, {"role": "user", "content": "after"}], bound=50))
    assert texts(kept) == [f"{LEFT_OUT}|after|go"]


def test_calls_that_two_sources_tell_of_are_told_apart() -> None:
    call: Any = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    result: Any = {"type": "tool_result", "tool_use_id": "t1", "content": "seen"}
    said: list[Any] = [
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    again = [turn("run", "r", role=each["role"], content=each["content"]) for each in said]
    made = prompt(source("a", said), source("b", said, "stable"), own=[*own(), *again])
    check_messages(made.messages)
    called = [m["content"][-1]["id"] for m in made.messages if m["role"] == "assistant"]
    assert called == ["t1", "t1_2", "t1_3"]


def test_a_source_of_which_nothing_fits_is_said_to_be_left_out() -> None:
    for tier in TIERS:
        made = prompt(source("talk", talk("word " * 100), tier, bound=50))
        assert texts(made) == [f"{LEFT_OUT}|go"]
        assert made.report.left_out == {"talk": 129}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([{"role": "system", "content": "x"}], "role 'system'"),
        ([{"role": "user"}], 'is not {"role"'),
        ([{"role": "user", "content": 7}], "content 7 is neither"),
        (
            [{"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]}],
            "tool calls ['a'] and the results after them, [], differ",
        ),
        (
            [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}],
            "tool calls [] and the results after them, ['a'], differ",
        ),
    ],
)
def test_messages_that_no_provider_would_take_are_refused_by_name(content: Any, told: str) -> None:
    with pytest.raises(InvalidDefinition, match="source 'a', message 0") as raised:
        read("a", content)
    assert told in raised.value.message


def test_the_figures_name_every_source_and_what_a_cache_may_give() -> None:
    made = prompt(
        source("docs", "d" * 4_000, "stable"),
        source("talk", talk("1" * 400, "2" * 400)),
        system_prompt="s" * 400,
        tools_tokens=50,
        cacheable_min=1_000,
    )
    report = made.report
    assert report.sources == {
        "tools": 50, "system_prompt": 104, "docs": 1_004, "talk": 208, "run": 5
    }  # fmt: skip
    assert report.cacheable == 50 + 104 + 1_004 + 208
    assert 0.99 < report.cacheable_share < 1
    assert prompt(source("docs", "d", "stable"), cacheable_min=1_000).report.cacheable == 0


# -- any history, any budgets ------------------------------------------------------------------

words = st.sampled_from(["", " ", "hello", "word " * 50, "line\n" * 200, "日本語 " * 40])
look_once, gone = ("look", dict[str, Any]()), ("gone", dict[str, Any]())
calls = st.sampled_from([[], [look_once], [look_once, look_once, gone]])
answers = st.tuples(words, calls, st.sampled_from(["", "hm"])).map(
    lambda given: Says(text=given[0] or "ok", calls=given[1], reasoning=given[2])
)
runs = st.tuples(words, st.lists(answers, max_size=4))
tiers = st.sampled_from(["pinned", "stable", "slow-changing", "volatile"])
examples = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), words).map(
        lambda pair: {"role": pair[0], "content": pair[1]}
    ),
    max_size=3,
)
contents = st.one_of(words, examples, st.just("the timeline"), st.just("since"))
sources = st.lists(st.tuples(contents, st.integers(32, 600), tiers), max_size=4)
compactions = st.one_of(
    st.none(),
    st.builds(
        Compaction,
        threshold=st.integers(20, 800),
        keep_last=st.integers(1, 8),
        max_tokens=st.just(9),
    ),
)


def plan_with(given: Sequence[tuple[Any, int, Any]], rows: list[Event]) -> ContextPlan | None:
    """A plan of these sources, with a budget that holds them."""
    if not given:
        return None
    told = {
        "the timeline": lambda: timed_messages(rows),
        "since": lambda: timed_messages(rows, since=12, projection=shortened),
    }
    made = {
        f"s{at}": Source(
            content=told.get(content, content) if isinstance(content, str) else content,
            max=bound,
            cache=tier,
        )
        for at, (content, bound, tier) in enumerate(given)
        if not (content in ("the timeline", "since") and at)  # each call is told of once
    }
    return ContextPlan(source_budget=sum(bound for _, bound, _ in given) + 32, sources=made)


def shortened(item: Any) -> Any:
    return [{"role": "assistant", "content": "a run"}] if item.kind == "run" else None


class Strict:
    """Checks every request as a provider would, and answers by script; then it says it is done."""

    def __init__(self, script: Sequence[Says]) -> None:
        self._script = iter(script)
        self.asked = 0

    def __call__(self, request: ModelRequest) -> Says:
        check_messages(list(request.messages))
        check_prompt(prompt_arguments(request))
        self.asked += 1
        if request.system.startswith("You sum up"):
            return Says(text="A summary.")
        return next(self._script, Says(text="Done."))


async def lived(
    plan: Sequence[tuple[str, Sequence[Says]]],
    given: Sequence[tuple[Any, int, Any]],
    compaction: Compaction | None,
) -> list[Event]:
    """The rows of a life of runs, each prompt of which was checked."""
    rows: list[Event] = []
    for number, (said, script) in enumerate(plan):
        journal = MemoryJournal(f"run-{number}", history=rows)
        config = AgentConfig(
            system_prompt="You help.", tools=[look], turns_max=5, compaction=compaction
        )
        model = FunctionModel(Strict(script))
        prompting = Prompting(
            config,
            model,
            plan=plan_with(given, rows),
            entries=[{"id": "e", "name": "n", "content": "c"}],
        )
        await run_agent(journal, config, model=model, input=said, prompting=prompting)
        rows = [*rows, *journal.rows]
    return rows


LOOKS = [("", [Says(text=text, calls=[("look", {})])]) for text in ("ok", " ", "ok")]


@example(  # a summary numbers the run's calls anew, which the source tells of under other ids
    plan=LOOKS,
    given=[("the timeline", 36, "pinned")],
    compaction=Compaction(threshold=20, keep_last=5, max_tokens=9),
    kept=0.0,
)
@settings(deadline=None, max_examples=150)
@given(
    plan=st.lists(runs, min_size=1, max_size=4),
    given=sources,
    compaction=compactions,
    kept=st.floats(0, 1),
)
def test_any_history_within_any_budgets_gives_a_valid_prompt(
    plan: Any, given: Any, compaction: Compaction | None, kept: float
) -> None:
    rows = asyncio.run(lived(plan, given, compaction))
    unsummed = [event for event in rows if event.type != "compaction"]
    assert Timeline(rows, whole=True).messages() == Timeline(unsummed).messages()
    timeline = Timeline(rows[: round(kept * len(rows))])
    timeline.take("run", "the next", {"input": None})
    check_messages(timeline.messages())


@given(text=words, bound=st.integers(32, 500), scale=st.floats(0.5, 2))
def test_no_text_is_longer_than_its_bound(text: str, bound: int, scale: float) -> None:
    made = filled("a", Source(content=text), read("a", text), bound=bound, scale=scale)
    assert made.tokens <= bound
    assert not made.text or made.text.strip()


@given(
    lines=st.lists(words.filter(str.strip), max_size=40),
    bound=st.integers(32, 500),
    scale=st.floats(0.5, 2),
)
def test_no_messages_are_longer_than_their_bound(
    lines: list[str], bound: int, scale: float
) -> None:
    units = read("a", talk(*lines))
    made = filled("a", Source(content=""), units, bound=bound, scale=scale)
    assert made.tokens <= bound + 1
    assert estimate_of(made.units) <= estimate_of(units)
    assert list(made.units) == list(units)[len(units) - len(made.units) :]


def test_entries_are_told_with_their_names() -> None:
    told = entries_text([{"id": "a", "name": "Prefs", "content": "short"}])
    assert told == '<context id="a" name="Prefs">\nshort\n</context>'
    assert plan_of(100, {"a": {"content": "x"}}).sources["a"].cache == "volatile"


def test_a_row_holds_the_figures_and_gives_them_back() -> None:
    report = prompt(source("docs", "d" * 400, "stable")).report
    row = report.as_row()
    assert type(report).of(row) == report
    assert len(Draft.of("step", "s", value=row).text) < 200
