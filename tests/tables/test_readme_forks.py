"""The README's example of forks, time travel, export and import is run, and does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import ray_agents
from ray_agents.definition import Registry
from ray_agents.errors import EntityExists
from ray_agents.model import ModelRequest
from ray_agents.testing.clients import local_client

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
registry = Registry()


def answer(request: ModelRequest) -> str:
    return f"answer {len(request.messages)}"


@registry.entity("assistant")
async def assistant(ctx: Any, wake: Any) -> None:
    ctx.use_agent("Be brief.", test_responses=answer)
    await ctx.agent.run()


def test_the_example_of_forks_runs_and_the_last_line_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = README.partition("## Fork, travel back, carry away")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    with local_client() as client:
        client.register(registry)
        client.spawn("/assistant/ada")
        client.ask("/assistant/ada", "What is 6 * 7?")
        monkeypatch.setattr(ray_agents, "connect", lambda: _Open(client), raising=False)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(EntityExists):
            exec(code[1], {})  # noqa: S102 - it is our own
        assert capsys.readouterr().out.splitlines() == ["{}", "answer 3"]
    assert (tmp_path / "ada.arrow").stat().st_size > 0


class _Open:
    """A client that outlives the example's block."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __enter__(self) -> Any:
        return self._client

    def __exit__(self, *exc: object) -> None:
        pass
