"""Where the command ``cost`` asks: the store itself, or the control API that is named."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from ray_agents import errors
from ray_agents.cli import Installed
from ray_agents.terminal.installation import Target


def test_cost_asks_the_control_api_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so of what cannot be asked for there."""
    asked: list[tuple[str, str]] = []

    @contextmanager
    def connect(url: str, **_: object) -> Generator[object]:
        def cost(by: str, since: object) -> list[object]:
            assert since is None
            asked.append((url, by))
            return []

        yield SimpleNamespace(cost=cost)

    monkeypatch.setattr("ray_agents.client.connect", connect)
    target = Target(url="http://there:4437")
    assert Installed().cost(target, by="tree", since=None, on_corrupt=None) == []
    assert asked == [("http://there:4437", "tree")]
    with pytest.raises(errors.InvalidPayload, match="where the store is"):
        Installed().cost(target, by="tree", since=None, on_corrupt=print)
