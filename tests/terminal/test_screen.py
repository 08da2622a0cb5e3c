"""What takes long is counted: with a bar and a rate on a terminal, in lines in a pipe."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from ray_agents.terminal.screen import Screen


def counted(*, terminal: bool, total: int, silent: bool = False) -> str:
    """What is written to standard error while ``total`` are done."""
    written = StringIO()
    err = Console(file=written, force_terminal=terminal, width=100, color_system=None)
    with Screen(err=err).counting("verifying", "logs", silent=silent) as tell:
        for done in range(total + 1):
            tell(done, total)
    return written.getvalue()


def test_a_terminal_gets_a_bar_a_count_and_a_rate() -> None:
    shown = counted(terminal=True, total=2_000)
    assert "verifying" in shown
    assert "2000/2000" in shown
    assert "logs/s" in shown


def test_a_pipe_gets_a_line_for_each_tenth() -> None:
    lines = counted(terminal=False, total=2_000).splitlines()
    assert lines == [f"{tenth * 200:,} of 2,000 logs" for tenth in range(1, 11)]


def test_a_pipe_hears_nothing_of_what_is_soon_done_or_for_programs() -> None:
    assert counted(terminal=False, total=20) == ""
    assert counted(terminal=False, total=2_000, silent=True) == ""


@pytest.mark.parametrize(("terminal", "told"), [(True, "\\x1b[2Jboo"), (False, "\x1b[2Jboo")])
def test_an_answer_cannot_drive_a_terminal_and_goes_through_a_pipe_as_it_is(
    terminal: bool, told: str
) -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, color_system=None)
    Screen(out=console).show("\x1b[2Jboo")
    assert out.getvalue() == f"{told}\n"
