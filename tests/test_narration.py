"""How an answer is grouped on its way into the log."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from ray_agents.events import Draft, Event
from ray_agents.model import AnswerBroken, Answered, ReasoningDelta, TextDelta, ToolCallBegun
from ray_agents.narration import WINDOW_CHARS_MAX, Narration
from ray_agents.runs import RunRecord
from ray_agents.testing.journal import Crashed, MemoryJournal


class Posts(MemoryJournal):
    """Remembers each post, and says when one came."""

    def __init__(self, crash_at: int | None = None) -> None:
        super().__init__(crash_at=crash_at)
        self.posts: list[list[str]] = []
        self.came = asyncio.Event()

    def post(self, drafts: Sequence[Draft]) -> None:
        self.came.set()
        super().post(drafts)
        values = [(draft.type, Event.at(0, 0, draft).value) for draft in drafts]
        self.posts.append([row.get("delta", kind) for kind, row in values if row])


def narration(journal: Posts, window: timedelta = timedelta(hours=1)) -> Narration:
    return Narration(journal, RunRecord("r", ()), step=1, window=window)


def said(words: str, block: int = 0) -> TextDelta:
    return TextDelta(block=block, text=words)


async def test_the_first_piece_is_posted_at_once_and_the_next_ones_wait() -> None:
    journal = Posts()
    telling = narration(journal)
    for word in ("one ", "two ", "three"):
        telling.see(said(word))
    assert journal.posts == [["text", "one "]]
    left = telling.finish(Answered(content=[], stop_reason="end_turn"))
    assert [draft.type for draft in left] == ["text_delta", "text"]
    assert Event.at(0, 0, left[0]).value["delta"] == "two three"


async def test_what_waits_is_posted_when_the_window_ends() -> None:
    journal = Posts()
    telling = narration(journal, timedelta(milliseconds=1))
    telling.see(said("one "))
    journal.came.clear()
    telling.see(said("two "))
    telling.see(said("three"))
    await journal.came.wait()
    assert journal.posts == [["text", "one "], ["two three"]]
    telling.close()


async def test_a_full_window_is_posted_before_it_ends() -> None:
    journal = Posts()
    telling = narration(journal)
    telling.see(said("one "))
    telling.see(said("x" * WINDOW_CHARS_MAX))
    assert len(journal.posts) == 2
    telling.close()


async def test_reasoning_text_and_calls_keep_their_order() -> None:
    journal = Posts()
    telling = narration(journal)
    telling.see(said("one", 0))
    telling.see(ReasoningDelta(block=1, text="hm"))
    telling.see(said("two", 2))
    telling.see(ToolCallBegun(block=3, id="t", name="look"))
    assert journal.posts[1] == ["reasoning", "hm", "text", "two", "tool_call"]
    telling.close()


async def test_an_answer_that_came_whole_is_told_as_one_delta() -> None:
    journal = Posts()
    content = [{"type": "text", "text": "all of it"}]
    left = narration(journal).finish(Answered(content=content, stop_reason="end_turn"))
    assert [draft.type for draft in left] == ["text", "text_delta", "text"]


async def test_a_broken_answer_is_taken_back() -> None:
    journal = Posts()
    telling = narration(journal)
    telling.see(said("one "))
    telling.see(said("lost"))
    telling.see(AnswerBroken(reason="cut"))
    telling.see(said("again"))
    assert journal.posts == [["text", "one "], [], ["text", "again"]]
    assert [row.operation.value for row in journal.rows[2:4]] == ["delete", "delete"]
    telling.close()


async def test_a_post_that_fails_in_the_background_fails_the_run() -> None:
    journal = Posts(crash_at=2)
    telling = narration(journal, timedelta(milliseconds=1))
    telling.see(said("one "))
    journal.came.clear()
    telling.see(said("two "))
    await journal.came.wait()
    with pytest.raises(Crashed):
        telling.see(said("three"))
    telling.close()
