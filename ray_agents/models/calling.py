"""What providers behind an SDK have in common: a client kept, attempts made again, one way in.

A provider says what has to be there before a call, how its client is made, and how one attempt
becomes events; :mod:`ray_agents.models.retrying` decides what is tried again.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from hashlib import sha256
from typing import Any, ClassVar

from ray_agents.errors import ModelUnavailable
from ray_agents.gateway import Gateway
from ray_agents.model import ModelEvent, ModelRequest, ModelSettings
from ray_agents.models.clients import client_of
from ray_agents.models.counts import digest_of_prompt, keep, known
from ray_agents.models.permission import check_permission
from ray_agents.models.retrying import Retrying, Sleep
from ray_agents.sharing import ModelKey


class CalledModel(ABC):
    """A model behind an SDK.

    ``sleep`` and ``chance`` (0 to 1) pace its retries; ``gateway`` decides when a call is made.
    """

    provider: ClassVar[str]
    default_url: ClassVar[str]
    no_key: ClassVar[str]  # what to do without a key

    def __init__(
        self,
        settings: ModelSettings,
        *,
        sleep: Sleep = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        gateway: Gateway | None = None,
    ) -> None:
        self._settings = settings
        self._base_url = settings.base_url or self.default_url
        self._retrying = Retrying(settings=settings, sleep=sleep, chance=chance, gateway=gateway)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Answer one request.

        Made again, at most ``retries_max`` times in all: a refusal with 408, 409, 429, or 5xx
        (529 is "overloaded"), a server that cannot be reached, an answer that breaks off, falls
        silent, or ends with a server's error event. With a gateway 429 and 529 count apart, up to
        ``refusals_max``.

        Raises:
            ModelUnavailable: no key, what this provider cannot do, a refused key or request, or
                none of the attempts succeeded.
        """
        if not self._settings.usable:
            message = f"there is no key to call {request.model!r}: {self.no_key}"
            raise self._unavailable(message, request, kind="no_key")
        check_permission(self._base_url, request.model)
        self._check(request)
        client = client_of(self.provider, self._settings, self._new_client)
        events = self._retrying.events(
            lambda: self._answer(client, request),
            model=request.model,
            base_url=self._base_url,
            key=self._key_of(request),
        )
        async with aclosing(events):
            async for event in events:
                yield event

    async def count(self, request: ModelRequest) -> int | None:
        """The tokens of a request's prompt by the provider's count; None if it does not tell.

        A prompt is counted once in a process, as long as the count is among the newest ones.

        Raises:
            ModelUnavailable: calls of real models are forbidden.
        """
        if not self._settings.usable:
            return None
        check_permission(self._base_url, request.model)
        digest = digest_of_prompt(request, self._base_url)
        tokens = known(digest)
        if tokens is None:
            client = client_of(self.provider, self._settings, self._new_client)
            tokens = await self._count(client, request)
            if tokens is not None:
                keep(digest, tokens)
        return tokens

    async def _count(self, client: Any, request: ModelRequest) -> int | None:  # noqa: ARG002 -- for those that can
        """Ask the provider; None if it cannot count, or does not now."""
        return None

    def _key_of(self, request: ModelRequest) -> ModelKey:
        """Whose limits a call goes by; the key itself stays here."""
        digest = sha256((self._settings.api_key or "").encode()).hexdigest()[:8]
        name = request.model.removeprefix(f"{self.provider}:")
        return ModelKey(self.provider, self._base_url, name, digest)

    def _unavailable(self, message: str, request: ModelRequest, *, kind: str) -> ModelUnavailable:
        return ModelUnavailable(message, model=request.model, base_url=self._base_url, kind=kind)

    @property
    def _seconds(self) -> dict[str, float]:
        """The time-outs of a client, as keywords of its SDK's ``Timeout``."""
        silence = self._settings.silence_timeout.total_seconds()
        return {"timeout": silence, "connect": self._settings.connect_timeout.total_seconds()}

    @abstractmethod
    def _check(self, request: ModelRequest) -> None:
        """Raise ModelUnavailable for what this provider cannot do."""

    @abstractmethod
    def _new_client(self) -> Any:
        """The SDK's client, with its own retries off."""

    @abstractmethod
    def _answer(self, client: Any, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """One attempt; raises CallFailed."""
