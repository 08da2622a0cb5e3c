"""The capture in the README is what the command shows, but for the time it takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.terminal.capture import capture

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
BEGIN = "ray-agents view /clerk/ada"


def timeless(text: str) -> list[str]:
    """The words, without clock times and durations, on which line breaks depend, too."""
    text = re.sub(r"\d\d:\d\d:\d\d", "hh:mm:ss", text)
    return re.sub(r"\b\d+(\.\d+)?\s+(ms|s)\b", "T", text).split()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_readme_shows_what_the_command_shows() -> None:
    found = re.search(rf"```text\n\$ {BEGIN}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    assert timeless(capture()) == timeless(found[1]), "python -m tests.terminal.capture"
