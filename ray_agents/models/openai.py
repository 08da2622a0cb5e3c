"""Any server of Chat Completions, through the ``openai`` SDK, an extra: the second provider.

A model is chosen by its name, ``openai:gpt-5.5``; ``OPENAI_BASE_URL`` points at a server that
speaks the same, with or without a key. Retries are :mod:`ray_agents.models.retrying`'s, the
mapping is :mod:`ray_agents.models.chat`'s.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ray_agents.errors import ModelUnavailable
from ray_agents.model import ModelEvent, ModelRequest, ModelSettings
from ray_agents.models.answers import TornAnswer
from ray_agents.models.chat import ChatInParts, chat_messages, chat_tools
from ray_agents.models.clients import NO_KEY, client_of
from ray_agents.models.permission import check_permission
from ray_agents.models.retrying import (
    ADVICE,
    TROUBLE,
    CallFailed,
    Retrying,
    Sleep,
    broken_off,
    may_help_again,
    retry_after_in,
    unreachable,
)

if TYPE_CHECKING:
    from openai import APIError, APIStatusError, AsyncOpenAI

PREFIX = "openai:"
OPENAI_BASE_URL = "https://api.openai.com/v1"
PERMANENT = frozenset({"invalid_request_error", "insufficient_quota", "authentication_error"})


class OpenAIModel:
    """A model behind Chat Completions. ``sleep`` and ``chance`` pace its retries."""

    provider = "openai"

    def __init__(
        self,
        settings: ModelSettings,
        *,
        sleep: Sleep = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._base_url = settings.base_url or OPENAI_BASE_URL
        self._retrying = Retrying(settings=settings, sleep=sleep, chance=chance)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Answer one request; see :class:`~ray_agents.models.anthropic.AnthropicModel`.

        Raises:
            ModelUnavailable: no SDK, no key, ``thinking`` asked for, a refused key or request, or
                none of the attempts succeeded.
        """
        self._check(request)
        client = client_of(self.provider, self._settings, self._new_client)
        events = self._retrying.events(
            lambda: _answer(client, request), model=request.model, base_url=self._base_url
        )
        async with aclosing(events):
            async for event in events:
                yield event

    def _check(self, request: ModelRequest) -> None:
        if not self._settings.usable:
            message = (
                f"there is no key to call {request.model!r}: set OPENAI_API_KEY, or "
                "OPENAI_BASE_URL to a server that needs none"
            )
            raise self._unavailable(message, request, kind="no_key")
        if request.thinking is not None:
            message = (
                f"thinking={request.thinking!r} cannot be asked of {request.model!r}: Chat "
                "Completions has no such setting; leave it out, the model decides"
            )
            raise self._unavailable(message, request, kind="thinking")
        check_permission(self._base_url, request.model)
        try:
            import openai  # noqa: F401 # pyright: ignore[reportUnusedImport]
        except ImportError as error:
            message = f"{request.model!r} needs the openai SDK: pip install 'ray-agents[openai]'"
            raise self._unavailable(message, request, kind="no_sdk") from error

    def _unavailable(self, message: str, request: ModelRequest, *, kind: str) -> ModelUnavailable:
        return ModelUnavailable(message, model=request.model, base_url=self._base_url, kind=kind)

    def _new_client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI, Timeout

        settings = self._settings
        return AsyncOpenAI(
            api_key=settings.api_key or NO_KEY,
            base_url=self._base_url,
            max_retries=0,
            timeout=Timeout(
                settings.silence_timeout.total_seconds(),
                connect=settings.connect_timeout.total_seconds(),
            ),
        )


async def _answer(client: AsyncOpenAI, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
    """One attempt; raises CallFailed."""
    import openai

    begun = False
    try:
        create: Any = client.chat.completions.create  # its overloads do not take a dict
        async with await create(**_arguments(request)) as stream:
            begun = True
            parts = ChatInParts(request)
            async for chunk in stream:
                for event in parts.take(chunk.to_dict()):
                    yield event
            yield parts.answered()
    except openai.APIStatusError as error:
        raise _refused(error) from error
    except openai.APITimeoutError as error:
        raise unreachable("did not answer in time", variable="OPENAI_BASE_URL") from error
    except openai.APIConnectionError as error:
        if begun:
            raise broken_off(error) from error
        told = f"cannot be reached ({error.__cause__})"
        raise unreachable(told, variable="OPENAI_BASE_URL") from error
    except openai.APIError as error:
        raise _failed_in_the_middle(error) from error
    except (ValueError, TornAnswer) as error:
        raise broken_off(error) from error


def _refused(error: APIStatusError) -> CallFailed:
    status, headers = error.status_code, error.response.headers
    kind = error.code or error.type or f"http_{status}"
    advice = ADVICE.get(status, TROUBLE).format(key="OPENAI_API_KEY", url="OPENAI_BASE_URL")
    return CallFailed(
        f"refused with {status} {kind}: {error.message}",
        kind=kind,
        may_help=kind not in PERMANENT and may_help_again(status, headers),
        advice=advice,
        retry_after=retry_after_in(headers),
        http_status=status,
    )


def _failed_in_the_middle(error: APIError) -> CallFailed:
    kind = error.code or error.type or "error"
    told = f"ended its answer with {kind}: {error.message}"
    return CallFailed(told, kind=kind, may_help=kind not in PERMANENT, advice=TROUBLE)


def _arguments(request: ModelRequest) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": request.model.removeprefix(PREFIX),
        "max_completion_tokens": request.max_tokens,
        "messages": chat_messages(request),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        arguments["tools"] = chat_tools(request)
    return arguments
