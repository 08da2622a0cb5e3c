"""The agent loop: order of what it records, tools, limits, results."""

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.cluster import toolthreads
from ray_agents.errors import (
    CorruptLog,
    Fenced,
    ModelUnavailable,
    NondeterministicWake,
    StoreFull,
    StoreUnavailable,
)
from ray_agents.events import Draft, Event
from ray_agents.loop import run_agent
from ray_agents.media import image
from ray_agents.model import Message, Model, ModelEvent, ModelRequest, TextDelta, Usage
from ray_agents.models.scripted import FunctionModel, Says, ScriptedModel
from ray_agents.narration import WINDOW
from ray_agents.testing.journal import MemoryJournal, current_scope
from ray_agents.testing.rules import check_messages
from ray_agents.tools import Tool, tool
from tests.virtual_time import VirtualLoop


@tool
async def double(number: int) -> int:
    """Double it."""
    return 2 * number


def calls(*numbers: Any) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    return "", [("double", {"number": number}) for number in numbers]


async def run(
    model: Model | Sequence[Any],
    *tools: Tool,
    journal: MemoryJournal | None = None,
    **options: Any,
) -> AgentRunResult:
    made = ScriptedModel(model) if isinstance(model, Sequence) else model
    config = AgentConfig(tools=tools or (double,), **options)
    return await run_agent(journal or MemoryJournal(), config, model=made, input="hi")


def rows(journal: MemoryJournal, type_name: str) -> list[Any]:
    return [event.value for event in journal.rows if event.type == type_name]


def shape(events: Sequence[Any]) -> list[str]:
    """Each row as ``type status``."""
    values = [(event.type, event) for event in events]
    return [f"{kind} {Event.at(0, 0, row).value.get('status', '')}".strip() for kind, row in values]


class ResultSeen(MemoryJournal):
    """Says when the first tool's result is committed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = asyncio.Event()

    async def commit(self, drafts: Sequence[Draft]) -> Sequence[Event]:
        if "tool_call completed" in shape(drafts):
            self.seen.set()
        return await super().commit(drafts)


async def test_a_picture_that_a_tool_gives_is_shown_to_the_model() -> None:
    picture = image(b"\x89PNG\r\n\x1a\n")

    @tool
    async def paint() -> Any:
        """Paint."""
        return ["Here:", picture]

    def answer(request: ModelRequest) -> Any:
        check_messages(list(request.messages))
        last = request.messages[-1]["content"][0]
        if last["type"] == "text":
            return "", [("paint", {})]
        return last["content"][0]["text"] + last["content"][1]["type"]

    result = await run(FunctionModel(answer), paint)
    assert result.text == "Here:image"
    assert result.tool_calls[0].result == [{"type": "text", "text": "Here:"}, picture]


async def test_an_answer_without_tools_takes_two_commits() -> None:
    journal = MemoryJournal()
    result = await run(["Hello there."], journal=journal)
    first, last = journal.commits
    assert shape(first) == ["run started", "step started"]
    assert shape(last)[-3:] == ["text completed", "step completed", "run completed"]
    assert (result.text, result.stop_reason, result.steps) == ("Hello there.", "end_turn", 1)


async def test_answer_and_executing_are_one_commit_and_results_go_with_the_next_call() -> None:
    journal = MemoryJournal()
    await run([calls(1, 2), "Done."], journal=journal)
    _, executing, called, _ = journal.commits
    assert shape(executing) == ["step completed", "tool_call executing", "tool_call executing"]
    assert shape(called) == ["tool_call completed", "tool_call completed", "step started"]


async def test_a_result_is_committed_at_once_while_another_tool_still_runs() -> None:
    journal = ResultSeen()

    @tool
    async def wait_for_the_other() -> str:
        """Wait."""
        await journal.seen.wait()
        return "seen"

    script: list[Any] = [("", [("wait_for_the_other", {}), ("double", {"number": 1})]), "Done."]
    result = await run(script, double, wait_for_the_other, journal=journal)
    assert [call.result for call in result.tool_calls] == ["seen", "2"]


async def test_the_model_reads_results_in_the_order_of_its_calls() -> None:
    seen: list[Message] = []

    def answer(request: ModelRequest) -> Any:
        seen[:] = request.messages
        return "Done." if len(request.messages) > 1 else calls(1, "x", 3)

    await run(FunctionModel(answer))
    check_messages(seen)
    texts = [block["content"] for block in seen[-1]["content"]]
    assert (texts[0], texts[2]) == ("2", "6")
    assert "'number'" in texts[1]
    assert seen[-1]["content"][1]["is_error"]


async def test_the_result_adds_up_usage_and_calls() -> None:
    one = Usage(input_tokens=3, output_tokens=2, cache_read_tokens=5, cache_write_tokens=7)
    script = [Says(calls=calls(4)[1], usage=one), Says(text="8", usage=one)]
    journal = MemoryJournal()
    result = await run(script, journal=journal)
    assert result.usage == one + one
    assert [(c.tool_name, c.args, c.result) for c in result.tool_calls] == [
        ("double", {"number": 4}, "8")
    ]
    assert rows(journal, "step")[-1]["cache_read_tokens"] == 5
    assert rows(journal, "run")[-1]["output_tokens"] == 4


async def test_a_completed_run_is_read_without_calling_the_model() -> None:
    journal = MemoryJournal()
    result = await run([calls(4), "8"], journal=journal)
    again = MemoryJournal(recorded=journal.rows)
    assert await run([], journal=again) == result
    assert again.appends == 0


async def test_a_tool_that_raises_tells_the_model_and_not_the_caller() -> None:
    @tool
    async def fail() -> None:
        """Fail."""
        raise ValueError("no such file: 'x'")

    result = await run([("", [("fail", {})]), "Sorry."], fail)
    assert result.tool_calls[0].error == "ValueError: no such file: 'x'"
    assert result.text == "Sorry."


async def test_a_tool_that_exits_ends_neither_the_run_nor_its_host() -> None:
    @tool
    async def leave() -> None:
        """Leave."""
        sys.exit(3)

    result = await run([("", [("leave", {})]), "Still here."], leave)
    assert result.tool_calls[0].error == "SystemExit: 3"
    assert result.text == "Still here."


@pytest.mark.parametrize(
    "error", [Fenced, NondeterministicWake, StoreFull, StoreUnavailable, CorruptLog]
)
async def test_what_no_model_can_help_is_not_told_to_it_and_ends_the_attempt(error: Any) -> None:
    @tool
    async def fail() -> None:
        """Fail."""
        raise error("not for the model")

    with pytest.raises(error, match="not for the model"):
        await run([("", [("fail", {})]), "Sorry."], fail)


async def test_a_tool_that_takes_too_long_is_ended() -> None:
    @tool(timeout=timedelta(milliseconds=1))
    async def hang() -> None:
        """Hang."""
        await asyncio.Event().wait()

    result = await run([("", [("hang", {})]), "Sorry."], hang)
    assert result.tool_calls[0].error == "Timed out: 'hang' did not end within 0.001 s."


async def test_a_plain_function_runs_in_a_thread_within_its_scope() -> None:
    @tool
    def where() -> list[str | None]:
        """Say where."""
        return [current_scope(), threading.current_thread().name]

    result = await run([("", [("where", {})]), "Done."], where)
    assert "run-1:s1:tool:0" in str(result.tool_calls[0].result)
    assert "MainThread" not in str(result.tool_calls[0].result)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Plain functions have one thread for all; those that wait for this are let go at the end."""
    free = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as threads:
        monkeypatch.setattr(toolthreads, "THREADS", threads)
        yield free
        free.set()


async def test_a_plain_function_that_finds_no_thread_is_told_of_as_not_begun(
    one_thread: threading.Event,
) -> None:
    begun: list[int] = []

    @tool(timeout=timedelta(milliseconds=50))
    def hang(number: int) -> None:
        """Hang."""
        begun.append(number)
        one_thread.wait(60)

    asked = ("", [("hang", {"number": number}) for number in (1, 2)])
    result = await run([asked, "Sorry."], hang)
    assert [call.error for call in result.tool_calls] == [
        "Timed out: 'hang' did not end within 0.05 s. It may still be running.",
        "Not run: no thread was free for 'hang' within 0.05 s.",
    ]
    assert begun == [1]


async def test_a_plain_function_whose_thread_comes_too_late_does_nothing() -> None:
    done, late = list[str](), list[Any]()

    class NoThread(MemoryJournal):
        def in_thread(self, work: Any) -> Any:
            late.append(work)
            return asyncio.get_running_loop().create_future()

    @tool(timeout=timedelta(milliseconds=1))
    def pay() -> None:
        """Pay."""
        done.append("paid")

    result = await run([("", [("pay", {})]), "Sorry."], pay, journal=NoThread())
    assert "Not run: no thread was free" in str(result.tool_calls[0].error)
    late[0]()
    assert done == []


async def test_the_time_of_a_plain_function_begins_when_it_has_a_thread(
    one_thread: threading.Event,
) -> None:
    @tool(timeout=timedelta(seconds=1))
    def rest() -> bool:
        """Take more than half of the time there is."""
        return one_thread.wait(0.6)

    result = await run([("", [("rest", {}), ("rest", {})]), "Done."], rest)
    assert [call.error for call in result.tool_calls] == [None, None]


async def test_an_unknown_tool_is_answered_with_the_known_ones() -> None:
    result = await run([("", [("fly", {})]), "Sorry."])
    assert result.tool_calls[0].error == "There is no tool 'fly'; there are: double."


async def test_the_limit_of_turns_stops_the_run_without_running_its_last_tools() -> None:
    result = await run([calls(1), calls(2), calls(3)], turns_max=2)
    assert (result.stop_reason, result.steps) == ("turns_max", 2)
    assert result.tool_calls[1].error == "Not run: the run stopped (turns_max)."


@pytest.mark.parametrize("reason", ["max_tokens", "refusal", "model_context_window_exceeded"])
async def test_an_answer_that_was_cut_off_runs_no_tools(reason: str) -> None:
    result = await run([Says(calls=calls(1)[1], stop_reason=reason)])
    assert (result.stop_reason, result.tool_calls[0].result) == (reason, None)


async def test_a_paused_turn_goes_on() -> None:
    result = await run([Says(text="Well… ", stop_reason="pause_turn"), "Done."])
    assert (result.steps, result.text) == (2, "Done.")


async def test_a_model_that_cannot_be_reached_fails_the_run_visibly_and_it_goes_on_later() -> None:
    def unreachable(_: ModelRequest) -> Any:
        raise ModelUnavailable("overloaded")

    journal = MemoryJournal()
    with pytest.raises(ModelUnavailable):
        await run(FunctionModel(unreachable), journal=journal)
    assert [row["status"] for row in rows(journal, "run")] == ["started", "failed"]
    assert rows(journal, "error")[0]["message"] == "overloaded"
    again = MemoryJournal(recorded=journal.rows)
    assert (await run(["Hello."], journal=again)).text == "Hello."
    assert [row["attempt"] for row in rows(again, "step")] == [1, 1, 2, 2]


def test_of_an_answer_that_failed_nothing_more_is_told() -> None:
    class Breaks:
        provider = "scripted"

        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
            for word in ("one ", "two "):
                yield TextDelta(block=0, text=word)
            raise ModelUnavailable("overloaded")

    async def fails() -> MemoryJournal:
        journal = MemoryJournal()
        with pytest.raises(ModelUnavailable):
            await run(Breaks(), journal=journal)
        await loop.sleep(2 * WINDOW)
        return journal

    loop = VirtualLoop()
    journal = loop.play(fails())
    assert [row.type for row in journal.rows][-3:] == ["error", "step", "run"]


async def test_a_run_that_is_asked_again_with_another_input_is_refused() -> None:
    journal = MemoryJournal(crash_at=3)
    with pytest.raises(Exception, match="append 3"):
        await run(["Hello."], journal=journal)
    again = MemoryJournal(recorded=journal.rows)
    with pytest.raises(NondeterministicWake, match="'bye'"):
        await run_agent(again, AgentConfig(), model=ScriptedModel(["x"]), input="bye")


async def test_a_completed_run_is_not_the_answer_to_another_input() -> None:
    journal = MemoryJournal()
    await run(["Hello."], journal=journal)
    again = MemoryJournal(recorded=journal.rows)
    with pytest.raises(NondeterministicWake, match="'bye'"):
        await run_agent(again, AgentConfig(), model=ScriptedModel(["x"]), input="bye")


async def test_a_cancelled_run_cancels_its_tools() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @tool
    async def hang() -> None:
        """Hang."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.create_task(run([("", [("hang", {})])], hang))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


@pytest.mark.parametrize(("words", "told"), [("disk", "TimeoutError: disk"), ("", "TimeoutError")])
async def test_a_timeout_of_a_tools_own_is_not_told_as_its_time_being_up(
    words: str, told: str
) -> None:
    @tool
    async def read() -> None:
        """Read."""
        raise TimeoutError(*([words] if words else []))

    model = FunctionModel(
        lambda request: "So." if len(request.messages) > 1 else Says(calls=[("read", {})])
    )
    journal = MemoryJournal()
    await run_agent(journal, AgentConfig(tools=[read]), model=model, input="go")
    [error] = [row.value["error"] for row in journal.rows if row.value.get("status") == "failed"]
    assert error == told
