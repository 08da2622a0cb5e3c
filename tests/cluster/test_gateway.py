"""A host's way to the centre: made off the event loop, once, and kept while it may come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from ray_agents.cluster import gateway
from ray_agents.cluster.gateway import RayCentre, models_now
from ray_agents.errors import RuntimeUnavailable
from ray_agents.settings import Settings

pytestmark = pytest.mark.ray  # it imports Ray, and needs none that runs


class Actor:
    """Answers as it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.report = self
        self.error = error

    async def remote(self, *_: Any) -> dict[Any, Any]:
        if self.error is not None:
            raise self.error
        return {}


class Centre(RayCentre):
    """Makes the actors it is given, each when its gate is open."""

    def __init__(self, *actors: Actor) -> None:
        super().__init__(Settings())
        self.actors = list(actors)
        self.gate = threading.Event()
        self.made: list[int] = []

    def _made(self) -> Any:
        self.made.append(threading.get_ident())
        self.gate.wait(10)
        return self.actors.pop(0)


async def told(asking: Callable[[], Awaitable[object]]) -> bool:
    """Whether it answers."""
    try:
        await asking()
    except RuntimeUnavailable:
        return False
    return True


async def test_it_is_made_in_a_thread_and_once_however_long_that_takes() -> None:
    centre = Centre(Actor())
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await centre.report("here", {})
    centre.gate.set()
    assert await centre.report("here", {}) == {}
    assert len(centre.made) == 1
    assert centre.made[0] != threading.get_ident()


@pytest.mark.parametrize(
    ("error", "made"), [(ActorDiedError(), 2), (ActorUnavailableError("busy", b"0" * 16), 1)]
)
async def test_only_one_that_is_gone_for_good_is_made_anew(error: Exception, made: int) -> None:
    first = Actor(error)
    centre = Centre(first, Actor())
    centre.gate.set()
    assert not await told(lambda: centre.report("here", {}))
    first.error = None
    assert await told(lambda: centre.report("here", {}))
    assert len(centre.made) == made


async def test_one_that_cannot_be_made_is_made_at_the_next_report() -> None:
    centre = Centre(Actor())
    centre.actors, actors = [], centre.actors
    centre.gate.set()
    with pytest.raises(IndexError):
        await centre.report("here", {})
    centre.actors = actors
    assert await centre.report("here", {}) == {}


class Told:
    """A gateway that answers ``status``, or never does."""

    def __init__(self, answer: object) -> None:
        self.status = self
        self.answer = answer

    async def remote(self) -> object:
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def named(actor: object) -> Callable[..., object]:
    """``ray.get_actor`` where only that actor has a name, or none."""

    def get_actor(name: str, *, namespace: str) -> object:
        if actor is None:
            raise ValueError(f"there is no {name} in {namespace}")
        return actor

    return get_actor


async def test_what_goes_on_at_models_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_actor", named(Told([{"model": "m"}])))
    assert await models_now("here") == {"models": [{"model": "m"}]}


async def test_where_no_model_was_called_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_actor", named(None))
    assert await models_now("here") == {"models": []}


@pytest.mark.parametrize(
    ("actor", "wrong"),
    [
        (Told(None), "does not answer within 0.01 s"),
        (Told(ActorDiedError()), "is gone, or not there yet (ActorDiedError)"),
        (Told(ActorUnavailableError("busy", b"0" * 16)), "is gone, or not there yet"),
    ],
    ids=["silent", "dead", "restarting"],
)
async def test_a_gateway_that_cannot_tell_is_not_waited_for(
    actor: Told, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get_actor", named(actor))
    monkeypatch.setattr(gateway, "STATUS_MAX", timedelta(milliseconds=10))
    told = await models_now("here")
    assert told["models"] == []
    assert wrong in told["model gateway"]
