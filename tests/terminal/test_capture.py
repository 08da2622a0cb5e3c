"""The capture in the README is what the command shows, but for the time it takes."""

from __future__ import annotations

import re
from pathlib import Path

from tests.terminal.capture import capture

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
BEGIN = "ray-agents view /clerk/ada"


def timeless(text: str) -> list[str]:
    """The words, without clock times and durations, on which line breaks depend, too."""
    text = re.sub(r"\d\d:\d\d:\d\d", "hh:mm:ss", text)
    return re.sub(r"\b\d+(\.\d+)?\s+(ms|s)\b", "T", text).split()


def test_the_readme_shows_what_the_command_shows() -> None:
    found = re.search(rf"```text\n\$ {BEGIN}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    assert timeless(capture()) == timeless(found[1]), "python -m tests.terminal.capture"


def test_in_a_narrow_terminal_no_line_of_prose_is_longer_than_it_is_wide() -> None:
    lines = capture(columns=60).splitlines()[:-1]
    assert max(len(line) for line in lines) <= 60
    assert timeless("\n".join(lines)) == timeless(capture())[: len(timeless("\n".join(lines)))]
