"""A stand-in Messages API server: wire level, so that the real SDK cannot tell the difference.

It streams, calls tools, thinks, counts tokens, caches prompts, refuses and breaks off by script,
and checks every request by the provider's rules (:mod:`ray_agents.testing.rules`). In a test::

    async with MessagesApi(script=["Hello!"]) as api:
        ...  # ModelSettings(base_url=api.url); api.calls and api.totals afterwards

As a process, for the demo without a key; its address is the first line it prints, and
``GET /_totals`` gives its totals::

    python -m ray_agents.testing.messages_api --port 0
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from ray_agents.testing.assistant import assistant
from ray_agents.testing.calls import Call, CallBook, Totals
from ray_agents.testing.loopback import LoopbackServer, json_answer, streamed_answer
from ray_agents.testing.prompt_cache import CACHED_TOKENS_MIN, PromptCache, tokens_in
from ray_agents.testing.rules import RuleBroken, check_prompt, check_request
from ray_agents.testing.script import CROWDED, Body, Refusal, Script
from ray_agents.testing.speaking import Spoken, Tongue
from ray_agents.testing.wire import Frame, encoded, error_of, message_of, stream_of, usage_in

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Call", "MessagesApi", "Totals"]

WORD_DELAY = timedelta(milliseconds=15)


class MessagesApi(LoopbackServer):
    """The server, in this process, on a loopback port of its own.

    Args:
        script: a list of steps, one per accepted call, or a function of the request's body.
        api_key: the only key it takes; None takes any, but there must be one.
        word_delay: between two words; kept on average, so ``timedelta(milliseconds=10)`` is
            100 words a second.
        concurrent_max: more calls than that at once get ``crowded``, a 429.
        cached_tokens_min: the shortest prompt that its cache keeps.
        written: called with every stream event right before it is written.
    """

    def __init__(
        self,
        script: Script = assistant,
        *,
        port: int = 0,
        api_key: str | None = None,
        word_delay: timedelta = timedelta(0),
        concurrent_max: int | None = None,
        crowded: Refusal = CROWDED,
        cached_tokens_min: int = CACHED_TOKENS_MIN,
        written: Callable[[Frame], None] | None = None,
    ) -> None:
        super().__init__(port=port)
        self._api_key = api_key
        self._word_delay = word_delay
        self._book = CallBook(script, concurrent_max=concurrent_max, crowded=crowded)
        self._cache = PromptCache(tokens_min=cached_tokens_min)
        self._written = written
        self._answers = 0

    @property
    def calls(self) -> Sequence[Call]:
        """The calls that reached it, in order."""
        return self._book.calls

    @property
    def totals(self) -> Totals:
        """Its own count of calls and tokens."""
        return self._book.totals

    def app(self) -> Starlette:
        """The ASGI application."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
                Route("/_totals", self._tell_totals),
            ]
        )

    async def _tell_totals(self, request: Request) -> Response:  # noqa: ARG002 -- a route's shape
        return json_answer(self.totals.as_json())

    async def _count_tokens(self, request: Request) -> Response:
        body = await request.json()
        if wrong := self._wrong(request.headers, body, check_prompt):
            return _refused(wrong)
        self.totals.counts += 1
        return json_answer({"input_tokens": tokens_in(body)})

    async def _messages(self, request: Request) -> Response:
        body, headers = await request.json(), dict(request.headers)
        step = self._book.decide(body, self._wrong(headers, body, check_request))
        if isinstance(step, Refusal):
            self._book.refuse(body, headers, step)
            return _refused(step)
        self._answers += 1
        charged = self._cache.charge(body)
        message = message_of(step, body, number=self._answers, charged=charged)
        call = self._book.begin(body, headers, usage_in(message))
        if not body.get("stream"):
            self._book.end(call, whole=True)
            return json_answer(message)
        spoken = Spoken(step, stream_of(message), _TONGUE)
        return streamed_answer(
            spoken.chunks(self._word_delay, written=self._written),
            ended=lambda: self._book.end(call, whole=spoken.whole),
        )

    def _wrong(
        self, headers: Mapping[str, str], body: Body, check: Callable[[Body], None]
    ) -> Refusal | None:
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if not key or (self._api_key is not None and key != self._api_key):
            return Refusal(status=401, kind="authentication_error", message="invalid x-api-key")
        try:
            check(body)
        except RuleBroken as error:
            return Refusal(status=400, kind="invalid_request_error", message=str(error))
        return None


def _is_word(frame: Frame) -> bool:
    return frame["type"] == "content_block_delta"


_TONGUE = Tongue(encoded=encoded, is_word=_is_word, error_of=error_of)


def _refused(refusal: Refusal) -> Response:
    content = error_of(refusal.kind, refusal.message)
    return json_answer(content, status=refusal.status, headers=refusal.headers)


async def _main(options: argparse.Namespace) -> None:
    api = MessagesApi(
        port=options.port,
        word_delay=timedelta(milliseconds=options.word_delay_ms),
        concurrent_max=options.concurrent_max,
    )
    async with api:
        print(api.url, flush=True)  # noqa: T201 -- whoever started us reads it
        await api.serve_forever()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A stand-in for the Messages API, on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one")
    parser.add_argument(
        "--word-delay-ms", type=float, default=WORD_DELAY.total_seconds() * 1000, help="per word"
    )
    parser.add_argument("--concurrent-max", type=int, help="answer 429 to more calls at once")
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
