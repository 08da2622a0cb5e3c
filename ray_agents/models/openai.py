"""Any server of Chat Completions, through the ``openai`` SDK, an extra: the second provider.

A model is chosen by its name, ``openai:gpt-5.5``; ``OPENAI_BASE_URL`` points at a server that
speaks the same, with or without a key. Retries are :mod:`ray_agents.models.retrying`'s, the
mapping is :mod:`ray_agents.models.chat`'s.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from ray_agents.model import ModelEvent, ModelRequest
from ray_agents.models.answers import TornAnswer
from ray_agents.models.calling import CalledModel
from ray_agents.models.chat import ChatInParts, chat_messages, chat_tools
from ray_agents.models.clients import NO_KEY
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
    from openai import APIError, APIStatusError, AsyncOpenAI

PREFIX = "openai:"
OPENAI_BASE_URL = "https://api.openai.com/v1"
PERMANENT = frozenset({"invalid_request_error", "insufficient_quota", "authentication_error"})


class OpenAIModel(CalledModel):
    """A model behind Chat Completions."""

    provider = "openai"
    default_url = OPENAI_BASE_URL
    no_key = "set OPENAI_API_KEY, or OPENAI_BASE_URL to a server that needs none"

    def _check(self, request: ModelRequest) -> None:
        if request.thinking is not None:
            message = (
                f"thinking={request.thinking!r} cannot be asked of {request.model!r}: Chat "
                "Completions has no such setting; leave it out, the model decides"
            )
            raise self._unavailable(message, request, kind="thinking")
        try:
            import openai  # noqa: F401 # pyright: ignore[reportUnusedImport]
        except ImportError as error:
            message = f"{request.model!r} needs the openai SDK: pip install 'ray-agents[openai]'"
            raise self._unavailable(message, request, kind="no_sdk") from error

    def _new_client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI, Timeout

        return AsyncOpenAI(
            api_key=self._settings.api_key or NO_KEY,
            base_url=self._base_url,
            max_retries=0,
            timeout=Timeout(**self._seconds),
        )

    def _answer(
        self, client: AsyncOpenAI, request: ModelRequest
    ) -> AsyncGenerator[ModelEvent, None]:
        return _answer(client, request)


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
        if begun:
            raise fell_silent() from error
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
