"""Claude, through the ``anthropic`` SDK: streamed, its errors told as what to do.

What is worth another attempt is decided here and made by :mod:`ray_agents.models.retrying`; the
SDK's own retries are off. Importing the SDK costs about two CPU seconds, so it is imported at the
first call, or by :func:`preload`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ray_agents.caching import CachePoints
from ray_agents.model import DEFAULT_BASE_URL, ModelEvent, ModelRequest
from ray_agents.models.answers import AnswerInParts, TornAnswer
from ray_agents.models.calling import CalledModel
from ray_agents.models.clients import NO_KEY, close_clients
from ray_agents.models.retrying import (
    ADVICE,
    TROUBLE,
    CallFailed,
    broken_off,
    fell_silent,
    may_help_again,
    retry_after_in,
    unreachable,
)

if TYPE_CHECKING:
    from anthropic import APIStatusError, AsyncAnthropic

__all__ = ["AnthropicModel", "close_clients", "preload"]

PREFIX = "anthropic:"  # may stand before a model's name
COUNT_TIMEOUT = timedelta(seconds=5)
TRANSIENT = frozenset({"overloaded_error", "api_error", "rate_limit_error", "timeout_error"})


def preload() -> None:
    """Import the SDK and all that a first call needs; about two CPU seconds, once per process."""
    from anthropic import AsyncAnthropic

    _ = AsyncAnthropic(api_key=NO_KEY, base_url=DEFAULT_BASE_URL).messages


class AnthropicModel(CalledModel):
    """Claude as :class:`~ray_agents.model.Model`."""

    provider = "anthropic"
    default_url = DEFAULT_BASE_URL
    no_key = (
        "set ANTHROPIC_API_KEY, or ANTHROPIC_BASE_URL to a server that needs none (the stand-in: "
        "python -m ray_agents.testing.messages_api)"
    )

    def _check(self, request: ModelRequest) -> None:
        """Claude can do all that a request can ask."""

    def _new_client(self) -> AsyncAnthropic:
        from anthropic import AsyncAnthropic, Timeout

        return AsyncAnthropic(
            api_key=self._settings.api_key or NO_KEY,
            base_url=self._base_url,
            max_retries=0,
            timeout=Timeout(**self._seconds),
        )

    async def _count(self, client: AsyncAnthropic, request: ModelRequest) -> int | None:
        """By the provider's own counting, which costs a round trip and no tokens."""
        import anthropic
        import httpx2

        count: Any = client.messages.count_tokens
        try:
            counted = await count(
                **prompt_arguments(request), timeout=COUNT_TIMEOUT.total_seconds()
            )
        except (anthropic.AnthropicError, httpx2.HTTPError, ValueError):
            return None
        return counted.input_tokens

    def _answer(
        self, client: AsyncAnthropic, request: ModelRequest
    ) -> AsyncGenerator[ModelEvent, None]:
        return _answer(client, request)


async def _answer(
    client: AsyncAnthropic, request: ModelRequest
) -> AsyncGenerator[ModelEvent, None]:
    """One attempt; raises CallFailed."""
    import anthropic
    import httpx2

    try:
        create: Any = client.messages.create  # its overloads do not take keywords as a dict
        async with await create(**_arguments(request)) as stream:
            parts = AnswerInParts()
            async for raw in stream:
                if (event := parts.take(raw.to_dict())) is not None:
                    yield event
            yield parts.answered()
    except anthropic.APIStatusError as error:
        raise _refused(error) from error
    except anthropic.APITimeoutError as error:
        raise unreachable("did not answer in time") from error
    except anthropic.APIConnectionError as error:
        raise unreachable(f"cannot be reached ({error.__cause__})") from error
    except httpx2.TimeoutException as error:  # of the stream: the SDK has its own for the rest
        raise fell_silent() from error
    except (httpx2.HTTPError, ValueError, TornAnswer) as error:
        raise broken_off(error) from error
    except anthropic.AnthropicError as error:
        told = f"was not asked: {type(error).__name__}: {error}"
        advice = "check the settings of the SDK"
        raise CallFailed(told, kind="sdk", may_help=False, advice=advice) from error


def _refused(error: APIStatusError) -> CallFailed:
    """A refusal by status, or by an error event in a stream that had begun with 200."""
    status, headers = error.status_code, error.response.headers
    kind = error.type or f"http_{status}"
    told = error.api_message or error.message
    if status < 400:
        advice = ADVICE_BY_KIND.get(kind, TROUBLE)
        told = f"ended its answer with {kind}: {told}"
        return CallFailed(told, kind=kind, may_help=kind in TRANSIENT, advice=advice)
    return CallFailed(
        f"refused with {status} {kind}: {told}",
        kind=kind,
        may_help=may_help_again(status, headers),
        advice=ADVICE.get(status, TROUBLE).format(
            key="ANTHROPIC_API_KEY", url="ANTHROPIC_BASE_URL"
        ),
        retry_after=retry_after_in(headers),
        http_status=status,
    )


ADVICE_BY_KIND = {
    "invalid_request_error": ADVICE[400],
    "rate_limit_error": ADVICE[429],
    "overloaded_error": ADVICE[529],
}


def _arguments(request: ModelRequest) -> dict[str, Any]:
    """The request as the SDK's keyword arguments for a streamed answer.

    If it names no places for the cache, the provider caches everything up to the last message.
    """
    arguments = prompt_arguments(request) | {"max_tokens": request.max_tokens, "stream": True}
    if request.cache_points == CachePoints():
        arguments |= _MARK
    if isinstance(request.thinking, int):
        arguments["thinking"] = {"type": "enabled", "budget_tokens": request.thinking}
    elif request.thinking is not None:
        arguments["thinking"] = {"type": request.thinking}
    return arguments


def prompt_arguments(request: ModelRequest) -> dict[str, Any]:
    """What a request asks, as it is answered or counted, with the breakpoints of the cache."""
    points = request.cache_points
    arguments: dict[str, Any] = {
        "model": request.model.removeprefix(PREFIX),
        "messages": list(request.messages),
    }
    for count in points.messages:
        message = arguments["messages"][count - 1]
        *before, last = message["content"]
        arguments["messages"][count - 1] = message | {"content": [*before, last | _MARK]}
    if request.system and not points.parts:
        arguments["system"] = request.system
    elif request.system:
        cuts = sorted({*points.parts, len(request.system)})
        arguments["system"] = [
            {"type": "text", "text": request.system[start:end]}
            | (_MARK if end in points.system else {})
            for start, end in pairwise([0, *cuts])
        ]
    if request.tools:
        tools = [each.as_json() for each in request.tools]
        if 0 in points.system:
            tools[-1] |= _MARK
        arguments["tools"] = tools
    return arguments


_MARK = {"cache_control": {"type": "ephemeral"}}
