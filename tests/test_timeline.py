"""The transcript of a log: what it says, and that it is valid whatever the log holds."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_agents.agent import AgentConfig
from ray_agents.errors import ModelUnavailable
from ray_agents.events import Draft, Event, MessageReceived, decode, encode
from ray_agents.loop import run_agent
from ray_agents.media import image
from ray_agents.model import Answered, Block, Message, ModelEvent, ModelRequest
from ray_agents.models.scripted import signature_of
from ray_agents.testing.journal import MemoryJournal
from ray_agents.testing.rules import check_messages
from ray_agents.timeline import INTERRUPTED, Timeline
from ray_agents.tools import tool
from ray_agents.transcript import replaced, turn

PNG = b"\x89PNG\r\n\x1a\n"


def log(*drafts: Draft) -> list[Event]:
    return [Event.at(offset, 0, draft) for offset, draft in enumerate(drafts)]


def inbox(payload: Any, key: str = "m") -> Draft:
    received = MessageReceived(
        key=key, payload=payload, message_type="message", sender=None, timestamp=0
    )
    return received.draft()


def wake(to_offset: int, source: str = "inbox") -> Draft:
    return Draft.of("wake", "w", value={"to_offset": to_offset, "source": source})


def begun(key: str = "r", text: str | None = None) -> Draft:
    return Draft.of("run", key, value={"input": text, "status": "started"})


def answered(*content: Block, reason: str = "end_turn", key: str = "r:s1") -> Draft:
    value = {"status": "completed", "finish_reason": reason, "content": list(content)}
    return Draft.of("step", key, value=value)


def ended(call_id: str, **fields: Any) -> Draft:
    value = {"run_id": "r", "tool_call_id": call_id, "status": "completed"}
    return Draft.of("tool_call", call_id, value=value | {"result": "seen", "error": None} | fields)


def text(words: str) -> Block:
    return {"type": "text", "text": words}


def call(call_id: str) -> Block:
    return {"type": "tool_use", "id": call_id, "name": "look", "input": {}}


def words_of(messages: Sequence[Message]) -> list[tuple[str, list[Any]]]:
    """Each message as its role and its texts, or the types of its other blocks."""
    return [
        (m["role"], [b.get("text") or b.get("content") or b["type"] for b in m["content"]])
        for m in messages
    ]


def test_messages_of_one_wake_are_one_turn() -> None:
    events = log(inbox("one"), inbox({"text": "two"}), inbox({"n": 3}), wake(3), begun(text="four"))
    assert words_of(Timeline(events).messages()) == [("user", ["one", "two", '{"n":3}', "four"])]


def test_a_message_may_show_images_and_documents() -> None:
    picture = image(PNG)
    shown, unlike = {"content": ["look:", picture]}, {"content": [{"type": "image"}]}
    messages = Timeline(log(inbox(shown), inbox(unlike), wake(2), begun())).messages()
    assert messages[0]["content"][:2] == [text("look:"), picture]
    assert messages[0]["content"][2] == text('{"content":[{"type":"image"}]}')
    check_messages(messages)


def test_a_message_that_came_during_a_run_is_told_to_the_next_one() -> None:
    first = [inbox("one"), wake(1), begun(), inbox("late"), answered(text("1"))]
    events = log(*first, wake(6), begun("r2"))
    expected = [("user", ["one"]), ("assistant", ["1"])]
    assert words_of(Timeline(events[:5]).messages()) == expected
    assert words_of(Timeline(events).messages()) == [*expected, ("user", ["late"])]


def test_a_wake_without_words_is_told_by_its_source() -> None:
    events = log(wake(0, "cron"), begun(), answered(text("ok")), begun("r2"))
    assert words_of(Timeline(events).messages()) == [
        ("user", ["Woken by cron."]),
        ("assistant", ["ok"]),
        ("user", ["Continue."]),
    ]


def test_a_wake_that_is_run_again_gives_the_same_transcript() -> None:
    rows = [wake(0, "cron"), begun(), answered(text("ok"))]
    once = Timeline(log(*rows, begun("r2"))).messages()
    assert Timeline(log(*rows, wake(0, "cron"), begun("r2"))).messages() == once


def test_a_call_without_result_is_answered_as_interrupted() -> None:
    events = log(begun(text="go"), answered(call("a"), call("b")), ended("b"))
    assert words_of(Timeline(events).messages())[-1] == ("user", [INTERRUPTED, "seen"])


def test_calls_of_the_same_id_are_told_apart() -> None:
    first = [answered(call("a"), call("b")), ended("a"), ended("b", result="b")]
    events = log(begun(text="go"), *first, answered(call("a"), key="r:s2"), ended("a", result="2"))
    messages = Timeline(events).messages()
    check_messages(messages)
    assert words_of(messages)[2::2] == [("user", ["seen", "b"]), ("user", ["2"])]
    assert words_of(Timeline(events[:-1]).messages())[-1] == ("user", [INTERRUPTED])
    assert messages[-1]["content"][0]["tool_use_id"] == "a_2"


def test_a_result_that_comes_while_another_run_speaks_stands_with_its_call() -> None:
    inner = [begun("inner", "do"), answered(call("a"), key="inner:s1")]
    inner += [ended("a", run_id="inner", result="2"), answered(text("did"), key="inner:s2")]
    events = log(begun(text="go"), answered(call("a"), call("b")), *inner, ended("a"), ended("b"))
    messages = Timeline(events).messages()
    check_messages(messages, ends_with_user=False)
    assert words_of(messages)[2::2] == [("user", ["seen", "seen", "do"]), ("user", ["2"])]
    early = log(*(Draft.of(e.type, e.key, value=e.value) for e in (*events[:4], *events[6:])))
    assert words_of(Timeline(early).messages())[-1] == ("user", [INTERRUPTED])


def test_a_second_summary_names_the_runs_that_the_first_one_did() -> None:
    summed_up = {"summary": "all", "kept_from": "step r:s2", "read_from": 5, "answers": 1}
    first = Draft.of("compaction", "c1", value=summed_up | {"wake": [5, "w"], "runs": ["r"]})
    over = Draft.of("run", "r", value={"input": None, "status": "completed"})
    read = [inbox("for later"), begun(), answered(text("b"), key="r:s2"), over]
    read += [begun("q", "next"), answered(text("c"), key="q:s1")]
    timeline = Timeline([Event.at(4 + at, 0, row) for at, row in enumerate([first, *read])])
    cut = timeline.cut(3)
    assert (cut["kept_from"], cut["read_from"], cut["runs"]) == ("step q:s1", 5, ["r"])
    assert (cut["answers"], timeline.answers) == (2, 3)


def test_what_a_summary_says_of_runs_and_wakes_the_next_one_says_again() -> None:
    known = {"read_from": 5, "answers": 1, "wake": [5, "w"], "runs": ["r"]}
    first = Draft.of("compaction", "c1", value=known | {"summary": "", "kept_from": "step r:s2"})
    read = [answered(text("b"), key="r:s2"), begun("q", "next"), answered(text("c"), key="q:s1")]
    rows = [Event.at(4 + at, 0, row) for at, row in enumerate([first, *read])]
    cut = Timeline(rows).cut(3)
    assert (cut["runs"], cut["wake"]) == (["q", "r"], (5, "w"))


def over(key: str = "r", status: str = "completed") -> Draft:
    return Draft.of("run", key, value={"input": None, "status": status})


def steered(key: str, offset: int) -> Draft:
    value = {"run_id": "r", "message": key, "offset": offset}
    return Draft.of("steered", f"r:steered:{offset}", value=value)


def summed_up(rows: list[Event], count: int) -> tuple[list[Event], list[Event]]:
    """All rows, a summary of so many turns behind them; and those to read from then on."""
    cut = Timeline(rows).cut(count)
    draft = Draft.of("compaction", "r:c1", value={"summary": "all"} | cut)
    row = Event.at(len(rows), 0, draft)
    return [*rows, row], [row, *rows[cut["read_from"] :]]


def test_wherever_a_summary_may_be_followed_the_rows_it_names_give_what_all_rows_give() -> None:
    first = [wake(0, "cron"), begun(), answered(text("a")), inbox(""), steered("m", 3)]
    second = [answered(call("x"), key="r:s2"), ended("x"), over(), begun("q", "more")]
    third = [
        answered(text("b"), key="q:s1"),
        over("q"),
        begun("p"),
        answered(text("c"), key="p:s1"),
    ]
    rows, places = log(*first, *second, *third), list[str]()
    for kept, said in enumerate(Timeline(rows).turns()):
        if kept and said.anchor is not None:
            whole, read = summed_up(rows, kept)
            assert Timeline(read).messages() == Timeline(whole).messages()
            assert Timeline(whole).turns()[0].at == said.at
            places.append(said.anchor)
    assert places == ["step r:s1", "step r:s2", "run q", "step q:s1", "step p:s1"]


def test_a_run_that_had_said_nothing_before_a_summary_is_known_behind_it() -> None:
    rows = log(begun("other", "do"), begun(), answered(call("x")))
    after = log(*[begun("inner", "do")] * 4, ended("x"))[3:]
    whole, read = summed_up(rows, 1)
    assert words_of(Timeline([*whole, *after]).messages())[-1] == ("user", ["seen", "do"])
    assert Timeline([*read, *after]).messages() == Timeline([*whole, *after]).messages()


def test_a_run_that_goes_on_is_told_of_once_also_behind_a_summary() -> None:
    rows = log(begun(text="go"), answered(text("a")), over(status="failed"), begun("q"))
    again = Event.at(9, 0, begun(text="go"))
    whole, read = summed_up(rows, 1)
    for before in (rows, whole, read):
        assert Timeline([*before, again]).messages() == Timeline(before).messages()


def test_a_summary_takes_away_none_of_what_a_run_behind_it_said() -> None:
    rows = log(begun("old", "go"), answered(text("a"), key="old:s1"), over("old"))
    rows += [Event.at(3, 0, begun("r", "do")), Event.at(4, 0, answered(text("b")))]
    assert Timeline(rows).cut(2)["runs"] == []
    for said in (Timeline(each).turns("r") for each in summed_up(rows, 2)):
        assert words_of([{"role": t.role, "content": list(t.content)} for t in said]) == [
            ("user", ["do"]),
            ("assistant", ["b"]),
        ]


def test_a_summary_of_what_was_let_go_stands_before_all_that_is_left() -> None:
    gone = {"summary": "old", "kept_from": "step gone:s1", "read_from": None, "answers": 1}
    summaries = [Draft.of("compaction", f"gone:c{number}", value=gone) for number in (1, 2)]
    messages = Timeline(log(begun(text="go"), answered(text("a")), *summaries)).messages()
    assert [len(message["content"]) for message in messages] == [2, 1]
    assert words_of(messages)[0][1][1:] == ["go"]


def test_where_to_read_from_is_unknown_until_all_that_is_kept_is_in_the_log() -> None:
    timeline = Timeline(log(begun(text="go"), inbox("more")))
    timeline.take("step", "r:s1", decode(answered(text("a")).text))
    timeline.take("steered", "k", {"message": "m", "offset": 1})
    assert timeline.cut(1)["read_from"] is None
    timeline.placed("step", "r:s1", 2)
    assert timeline.cut(1)["read_from"] == 1


def test_a_log_that_begins_within_a_run_is_told_from_the_next_one_on() -> None:
    events = log(wake(0), answered(text("old")), inbox("m"), steered("m", 2), begun("q", "go"))
    assert words_of(Timeline(events).messages()) == [("user", ["go"])]


def test_a_wake_that_is_told_of_late_takes_nothing_back() -> None:
    late = Draft.of("wake", "w0", value={"to_offset": 1, "source": "inbox"})
    events = log(inbox("one", "m1"), inbox("two", "m2"), wake(2), late)
    assert [said.key for said in Timeline(events).waiting()] == ["m1", "m2"]
    assert [said.key for said in Timeline(events[:2] + log(*[late] * 3)[2:]).waiting()] == ["m1"]


def test_results_of_two_runs_that_call_side_by_side_stand_each_with_its_own() -> None:
    inner = [begun("inner", "do"), answered(call("a"), key="inner:s1")]
    events = log(begun(text="go"), answered(call("a")), *inner, ended("a"))
    assert words_of(Timeline(events).messages())[2::2] == [
        ("user", ["seen", "do"]),
        ("user", [INTERRUPTED]),
    ]
    third = log(*[begun("third", "and")] * 5, ended("a"))[4:]
    assert words_of(Timeline([*events[:-1], *third]).messages())[2::2] == [
        ("user", ["seen", "do"]),
        ("user", [INTERRUPTED, "and"]),
    ]


def test_results_and_the_next_message_are_one_turn_results_first() -> None:
    events = log(begun(text="go"), answered(call("a")), ended("a"), inbox("more"), begun("r2"))
    assert words_of(Timeline(events).messages())[-1] == ("user", ["seen", "more"])


def test_a_refused_turn_is_left_out() -> None:
    events = log(begun(text="go"), answered(text("I…"), call("a"), reason="refusal"), ended("a"))
    assert words_of(Timeline(events).messages()) == [("user", ["go"])]


def test_blank_text_and_trailing_thinking_are_left_out() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    events = log(begun(text="go"), answered(thought, text(" \n"), text("hi"), thought))
    assert words_of(Timeline(events).messages())[-1] == ("assistant", ["thinking", "hi"])


def test_thinking_before_a_call_stays_with_its_signature() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    events = log(begun(text="go"), answered(thought, call("a")))
    assert Timeline(events).messages()[1]["content"][0] == thought


def test_a_paused_turn_that_is_not_continued_loses_its_open_server_tools() -> None:
    server: Block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    events = log(begun(text="go"), answered(text("hm"), server, reason="pause_turn"))
    assert words_of(Timeline(events).messages())[-1] == ("assistant", ["hm", "server_tool_use"])
    after = Timeline([*events, *log(begun("r2", "more"))]).messages()
    assert words_of(after)[-2:] == [("assistant", ["hm"]), ("user", ["more"])]
    thought = {"type": "thinking", "thinking": "so", "signature": "s"}
    events = log(begun(text="go"), answered(text("hm"), thought, server), begun("r2", "more"))
    assert words_of(Timeline(events).messages())[1:] == words_of(after)[-2:]


def test_of_two_paused_turns_the_thoughts_of_the_first_and_the_order_stay() -> None:
    thought = {"type": "thinking", "thinking": "so", "signature": "s"}
    server: Block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    first = answered(text("1"), thought, server | {"id": "s1"})
    second = answered(text("2"), server, key="r:s2")
    messages = Timeline(log(begun(text="go"), first, second, begun("r2", "more"))).messages()
    assert words_of(messages)[1] == ("assistant", ["1", "thinking", "2"])


def test_a_paused_turn_and_what_continues_it_are_one_answer() -> None:
    rows = [answered(text("1"), reason="pause_turn"), answered(text("2"), key="r:s2")]
    assert Timeline(log(begun(text="go"), *rows)).answers == 1


def test_a_payload_that_is_more_than_a_text_is_told_as_json() -> None:
    payloads = [{"text": "one", "n": 1}, {"text": 5}, {"content": [image(PNG)], "n": 1}]
    messages = Timeline(log(*map(inbox, payloads), wake(3), begun())).messages()
    assert words_of(messages) == [("user", [encode(payload) for payload in payloads])]


def test_messages_already_given_out_do_not_change() -> None:
    timeline = Timeline(log(begun(text="go"), answered(call("a"))))
    before = timeline.messages()
    copy = words_of(before)
    timeline.take("run", "r2", {"input": "more"})
    assert words_of(before) == copy


def test_a_turn_with_other_content_has_its_tokens() -> None:
    short, long = (turn("run", "r", role="user", content=[text("a" * n)]) for n in (4, 400))
    assert replaced(short, long.content) == long


# -- any log -----------------------------------------------------------------------------------

ids = count()
said = st.sampled_from(["hello", "", " \n"]).map(text)
thought = st.sampled_from(["hm", "well"]).map(
    lambda words: {"type": "thinking", "thinking": words, "signature": signature_of(words)}
)
redacted = st.just({"type": "redacted_thinking", "data": "x"})
called = st.sampled_from(["look", "fail", "unknown"]).map(
    lambda name: call(f"t{next(ids)}") | {"name": name}
)
reasons = st.sampled_from(["end_turn", "tool_use", "max_tokens", "refusal", "pause_turn"])
answers = st.tuples(st.lists(st.one_of(said, thought, redacted, called), max_size=4), reasons)
runs = st.tuples(st.one_of(st.none(), st.sampled_from(["do", ""])), st.lists(answers, max_size=3))


@tool
async def look() -> str:
    """Look."""
    return ""


@tool
async def fail() -> None:
    """Fail."""
    raise ValueError


class Blocks:
    """Gives answers of any blocks, checks what it is asked, and then cannot be reached."""

    provider = "test"

    def __init__(self, script: Sequence[tuple[list[Block], str]]) -> None:
        self._answers = iter(script)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        paused = request.messages[-1]["role"] == "assistant"
        check_messages(list(request.messages), ends_with_user=not paused)
        for content, reason in self._answers:
            yield Answered(content=content, stop_reason=reason)
            return
        raise ModelUnavailable("no more")


async def rows_of(plan: Sequence[tuple[str | None, Any]]) -> list[Event]:
    """The rows of runs that followed one another in one log."""
    rows: list[Event] = []
    for number, (words, script) in enumerate(plan):
        journal = MemoryJournal(f"run-{number}", history=rows)
        config = AgentConfig(tools=[look, fail], turns_max=3)
        with suppress(ModelUnavailable):
            await run_agent(journal, config, model=Blocks(script), input=words)
        rows = [*rows, *journal.rows]
    return rows


@settings(deadline=None, max_examples=150)
@given(
    plan=st.lists(runs, max_size=3),
    extra=st.lists(st.tuples(st.integers(0, 60), st.integers(-1, 60)), max_size=5),
    kept=st.integers(0, 100),
)
def test_any_prefix_of_any_log_gives_a_valid_transcript(
    plan: Any, extra: list[tuple[int, int]], kept: int
) -> None:
    drafts: list[Any] = asyncio.run(rows_of(plan))
    for at, covered in extra:  # messages and wakes arrive at any place between the rows
        drafts.insert(at, inbox(f"message {at}") if covered < 0 else wake(covered))
    timeline = Timeline(log(*drafts[:kept]))
    if timeline.messages():
        check_messages(timeline.messages(), ends_with_user=False)
    timeline.take("run", "the next", {"input": None})
    check_messages(timeline.messages())
