"""Claude, through the ``anthropic`` SDK: streamed, retried, its errors told as what to do.

The SDK retries what the server refuses (429, 529, 5xx, with ``retry-after``) and what cannot
connect. A stream that breaks after it began is retried here, because the SDK cannot: the log is
told that the answer so far is void (:class:`~ray_agents.model.AnswerBroken`). Importing the SDK
costs about two CPU seconds, so it is imported at the first call, or by :func:`preload`. One
client per process, event loop and settings is kept and reused: a new one costs a TLS context.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ray_agents.errors import ModelUnavailable
from ray_agents.model import (
    DEFAULT_BASE_URL,
    AnswerBroken,
    ModelEvent,
    ModelRequest,
    ModelSettings,
)
from ray_agents.models.answers import AnswerInParts, TornAnswer
from ray_agents.models.permission import check_permission

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

RETRY_DELAY = 0.25
RETRY_DELAY_MAX = 4.0
TRANSIENT = frozenset({"overloaded_error", "api_error", "rate_limit_error", "timeout_error"})
NO_KEY = "none"  # for a server that asks for no key; the SDK insists on sending one

Clients = dict[ModelSettings, "AsyncAnthropic"]
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Clients] = WeakKeyDictionary()


def preload() -> None:
    """Import the SDK and all that a first call needs; about two CPU seconds, once per process."""
    from anthropic import AsyncAnthropic

    _ = AsyncAnthropic(api_key=NO_KEY, base_url=DEFAULT_BASE_URL).messages


async def close_clients() -> None:
    """Close the clients of this event loop; later calls make new ones."""
    for client in _clients.pop(asyncio.get_running_loop(), {}).values():
        await client.close()


class AnthropicModel:
    """Claude as :class:`~ray_agents.model.Model`."""

    provider = "anthropic"

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._base_url = settings.base_url or DEFAULT_BASE_URL

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Answer one request.

        Raises:
            ModelUnavailable: no key, a refused key or request, an unreachable or overloaded
                server, or a stream that broke more often than ``retries_max``.
        """
        self._check(request)
        client = self._client()
        for attempt in range(self._settings.retries_max + 1):
            try:
                async with aclosing(self._answer(client, request)) as events:
                    async for event in events:
                        yield event
            except TornAnswer as error:
                if attempt == self._settings.retries_max:
                    message = (
                        f"{self._where(request)} broke its answer off {attempt + 1} times: {error}"
                    )
                    raise self._unavailable(message, request, kind="broken_stream") from error
                yield AnswerBroken(reason=str(error))
            else:
                return
            pause = min(RETRY_DELAY * 2**attempt, RETRY_DELAY_MAX)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads retries

    def _check(self, request: ModelRequest) -> None:
        if not self._settings.usable:
            message = (
                f"there is no key to call {request.model!r}: set ANTHROPIC_API_KEY, or "
                "ANTHROPIC_BASE_URL to a server that needs none (the stand-in: "
                "python -m ray_agents.testing.messages_api)"
            )
            raise self._unavailable(message, request, kind="no_key")
        check_permission(self._base_url, request.model)

    def _client(self) -> AsyncAnthropic:
        from anthropic import AsyncAnthropic, Timeout

        mine = _clients.setdefault(asyncio.get_running_loop(), {})
        if (client := mine.get(self._settings)) is None:
            settings = self._settings
            client = mine[settings] = AsyncAnthropic(
                api_key=settings.api_key or NO_KEY,
                base_url=self._base_url,
                max_retries=settings.retries_max,
                timeout=Timeout(
                    settings.call_timeout.total_seconds(),
                    connect=settings.connect_timeout.total_seconds(),
                ),
            )
        return client

    async def _answer(
        self, client: AsyncAnthropic, request: ModelRequest
    ) -> AsyncGenerator[ModelEvent, None]:
        """One answer; raises TornAnswer if it broke after it began, in a way worth retrying."""
        import anthropic
        import httpx2

        begun = False
        try:
            create: Any = client.messages.create  # its overloads do not take keywords as a dict
            async with await create(**_arguments(request)) as stream:
                begun = True
                parts = AnswerInParts()
                async for raw in stream:
                    if (event := parts.take(raw.to_dict())) is not None:
                        yield event
                yield parts.answered()
        except anthropic.APIStatusError as error:
            kind = error.type or f"http_{error.status_code}"
            if begun and kind in TRANSIENT:
                raise TornAnswer(f"{kind}: {error.api_message}") from error
            raise self._refused(error.status_code, kind, error, request) from error
        except anthropic.APITimeoutError as error:
            raise self._unreachable("did not answer in time", request) from error
        except anthropic.APIConnectionError as error:
            raise self._unreachable(f"cannot be reached ({error.__cause__})", request) from error
        except (httpx2.HTTPError, ValueError) as error:
            raise TornAnswer(f"{type(error).__name__}: {error}") from error
        except anthropic.AnthropicError as error:
            message = f"{self._where(request)}: {type(error).__name__}: {error}"
            raise self._unavailable(message, request, kind="sdk") from error

    def _where(self, request: ModelRequest) -> str:
        return f"{request.model!r} at {self._base_url!r}"

    def _unreachable(self, how: str, request: ModelRequest) -> ModelUnavailable:
        message = f"{self._where(request)} {how}; check ANTHROPIC_BASE_URL and the network"
        return self._unavailable(message, request, kind="unreachable")

    def _refused(
        self, status: int, kind: str, error: Any, request: ModelRequest
    ) -> ModelUnavailable:
        told = error.api_message or error.message
        advice = _ADVICE.get(status, "the provider is in trouble: run again later")
        retry_after = error.response.headers.get("retry-after")
        message = f"{self._where(request)} refused with {status} {kind}: {told}; {advice}"
        return self._unavailable(
            message, request, kind=kind, http_status=status, retry_after=retry_after
        )

    def _unavailable(self, message: str, request: ModelRequest, **facts: Any) -> ModelUnavailable:
        return ModelUnavailable(message, model=request.model, base_url=self._base_url, **facts)


_ADVICE = {
    400: "the request itself is wrong, and will be refused again",
    401: "check ANTHROPIC_API_KEY",
    402: "check the account's billing",
    403: "the key may not do this: check its permissions",
    404: "check the model's name and ANTHROPIC_BASE_URL",
    413: "the conversation has become too large",
    422: "the request itself is wrong, and will be refused again",
    429: "the rate limit is used up: run again later, or raise the limit",
    529: "the provider is overloaded: run again later",
}


def _arguments(request: ModelRequest) -> dict[str, Any]:
    """The request as the SDK's keyword arguments.

    Top-level ``cache_control`` lets the provider cache everything up to the last message.
    """
    arguments: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": list(request.messages),
        "stream": True,
        "cache_control": {"type": "ephemeral"},
    }
    if request.system:
        arguments["system"] = request.system
    if request.tools:
        arguments["tools"] = [each.as_json() for each in request.tools]
    if isinstance(request.thinking, int):
        arguments["thinking"] = {"type": "enabled", "budget_tokens": request.thinking}
    elif request.thinking is not None:
        arguments["thinking"] = {"type": request.thinking}
    return arguments
