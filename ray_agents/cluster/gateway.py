"""The centre that shares the limits of models between all hosts of a runtime: one detached actor.

It keeps nothing that it cannot learn again from the next reports, so Ray may restart it at any
time; hosts go on without it meanwhile (:mod:`ray_agents.gateway`). Made by the first host that
calls a provider: a runtime whose agents are scripted has none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any

from ray_agents.cluster.untyped import as_actor, gone_errors, import_ray, ray_errors
from ray_agents.errors import RuntimeUnavailable
from ray_agents.pacing import Allowance
from ray_agents.settings import Settings
from ray_agents.sharing import ModelKey, Report, Share, Sharing

GATEWAY = "gateway"
STATUS_MAX = timedelta(seconds=2)
CONCURRENCY_MAX = 1_000
RAY = import_ray()


def allowance_of(settings: Settings, model: str) -> Allowance:
    """What the operator allows of a model."""
    limits = (
        settings.model_calls_max,
        settings.model_requests_per_minute,
        settings.model_tokens_per_minute,
    )
    calls, requests, tokens = (limit and limit.of(model) for limit in limits)
    return Allowance(
        calls_start=settings.model_calls_start,
        calls_max=calls,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
    )


@as_actor()
class ModelGateway:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self._sharing = Sharing(partial(allowance_of, settings))

    async def report(self, host: str, reports: Mapping[ModelKey, Report]) -> dict[ModelKey, Share]:
        """Take a host's reports in; its shares."""
        return self._sharing.report(host, reports, now=time.monotonic())

    async def status(self) -> list[dict[str, Any]]:
        """What is known of each model, and what its hosts do."""
        return self._sharing.status(now=time.monotonic())


async def models_now(namespace: str) -> dict[str, Any]:
    """What goes on at each model, under ``models``: one has been called, or there are none.

    If the gateway that knows is gone, or silent for :data:`STATUS_MAX`, there are none either, and
    ``model gateway`` says what is wrong.
    """
    try:
        actor = RAY.get_actor(GATEWAY, namespace=namespace)
    except ValueError:  # it is made with the first call
        return {"models": []}
    try:
        async with asyncio.timeout(STATUS_MAX.total_seconds()):
            return {"models": await actor.status.remote()}
    except TimeoutError:
        wrong = f"does not answer within {STATUS_MAX.total_seconds():g} s"
    except ray_errors() as error:
        wrong = f"is gone, or not there yet ({type(error).__name__})"
    return {"models": [], "model gateway": f"{wrong}; hosts go on with their shares of the limits"}


class RayCentre:
    """The way of a host to it; see ``gateway.Centre``.

    Ray makes actors while the caller waits, for as long as its own centre may be away: so it does
    that in a thread, one at a time, and who has waited long enough for a report finds it later.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._making: asyncio.Future[Any] | None = None

    async def report(
        self, host: str, reports: Mapping[ModelKey, Report]
    ) -> Mapping[ModelKey, Share]:
        """Take a host's reports; its shares.

        Raises:
            RuntimeUnavailable: the actor is gone, or Ray is.
        """
        try:
            actor = await self._there()
            return await actor.report.remote(host, reports)
        except ray_errors() as error:
            if isinstance(error, gone_errors()):
                self._making = None  # another one is made
            raise RuntimeUnavailable(f"the gateway does not answer: {error}") from error

    def _there(self) -> asyncio.Future[Any]:
        making = self._making
        if making is None or (making.done() and making.exception() is not None):
            making = asyncio.get_running_loop().run_in_executor(None, self._made)
            self._making = making
        return asyncio.shield(making)

    def _made(self) -> Any:
        actor_class: Any = import_module("ray_agents.cluster.gateway").ModelGateway
        return actor_class.options(
            name=GATEWAY,
            namespace=self._settings.namespace,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=CONCURRENCY_MAX,
        ).remote(self._settings)
