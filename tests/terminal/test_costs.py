"""Money on the command line: where ``cost`` asks, and the budget that ``spawn`` takes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from ray_agents import errors
from ray_agents.budgets import Budget
from ray_agents.cli import Installed, main
from ray_agents.terminal.installation import Target
from tests.terminal.stand_in import ADA, FakeInstallation


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


def test_cost_looks_back_no_further_than_there_was_time(tmp_path: Path) -> None:
    target, ages = Target(store=str(tmp_path)), timedelta(days=800_000)
    assert Installed().cost(target, by="type", since=ages, on_corrupt=None) == []


def test_cost_says_how_many_calls_are_not_wholly_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    installation = FakeInstallation()
    main(["cost"], installation)
    assert capsys.readouterr().err == ""
    installation.costs[:] = [
        line.model_copy(update={"uncounted": 2}) for line in installation.costs
    ]
    main(["cost"], installation)
    assert capsys.readouterr().err == "4 broken calls not wholly counted\n"


def test_spawn_takes_a_budget() -> None:
    installation = FakeInstallation()
    assert main(["spawn", ADA, "--cost-max", "0.50", "--tokens-max", "9"], installation) == 0
    asked = installation.client.asked[0][1]
    assert asked["budget"] == Budget(tokens_max=9, cost_max=Decimal("0.50"), tree=True)
