"""The README's first example is run, on Ray, and prints what the README says it prints."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ray_agents.testing.messages_api import MessagesApi

pytestmark = pytest.mark.ray

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def block(language: str) -> str:
    """The first block of that language."""
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.timeout(250)
async def test_the_first_example_prints_what_stands_below_it_and_so_again(tmp_path: Path) -> None:
    async with MessagesApi() as api:
        environment = {
            **os.environ,
            "ANTHROPIC_BASE_URL": api.url,
            "ANTHROPIC_API_KEY": "any",
            "RAY_AGENTS_STORE": str(tmp_path / "store"),
        }
        for _ in range(2):
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", block("python")],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout == block("text")
