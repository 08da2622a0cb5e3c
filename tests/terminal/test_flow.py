"""Streamed text: however it is cut into deltas, the lines come out the same."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from ray_agents.terminal.flow import Flow, set_text, visible


def lines_of(deltas: list[str], *, indent: int = 2, width: int | None = 12) -> list[str]:
    flow = Flow(indent=indent, width=width)
    return ("".join(flow.feed(delta) for delta in deltas) + flow.close()).split("\n")


def test_lines_break_between_words_and_are_indented() -> None:
    assert lines_of(["the quick brown fox"]) == ["the quick", "  brown fox"]


def test_a_word_in_two_deltas_is_one_word() -> None:
    assert lines_of(["the qui", "ck bro", "wn fox"]) == ["the quick", "  brown fox"]


def test_a_word_is_held_back_until_it_is_whole() -> None:
    flow = Flow(indent=0, width=20)
    assert flow.feed("the qui") == "the"
    assert flow.feed("ck ") == " quick"


def test_without_a_width_text_comes_at_once_and_never_breaks() -> None:
    flow = Flow(indent=2, width=None)
    assert flow.feed("no word is held ba") == "no word is held ba"
    assert flow.feed("ck\nnext") == "ck\n  next"


def test_a_word_too_long_for_any_line_stays_whole() -> None:
    assert lines_of(["see https://example.org/x now"]) == [
        "see",
        "  https://example.org/x",
        "  now",
    ]


def test_wide_characters_count_twice() -> None:
    assert lines_of(["日本 日本 日本"]) == ["日本 日本", "  日本"]


def test_a_log_cannot_drive_the_terminal() -> None:
    assert visible("a\x1b[2Jb\r\n\x9bc\x07") == "a\\x1b[2Jb\n\\x9bc\\x07"


def test_a_whole_text_is_trimmed() -> None:
    assert set_text("\n one\n", indent=2, width=80) == "one"


@given(text=st.text(st.sampled_from("ab \n日")), cuts=st.lists(st.integers(0, 40)))
def test_cuts_change_nothing(text: str, cuts: list[int]) -> None:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    deltas = [text[a:b] for a, b in pairwise(edges)]
    assert lines_of(deltas) == lines_of([text])


@pytest.mark.parametrize("width", [10, 20, 40])
@given(text=st.text(st.sampled_from("ab c"), max_size=60))
def test_no_line_of_short_words_is_too_long(width: int, text: str) -> None:
    flow = Flow(indent=2, width=width)
    words = " ".join(word[:6] for word in text.split())
    lines = ("  " + flow.feed(words) + flow.close()).split("\n")
    assert all(cell_len(line) <= width for line in lines)
