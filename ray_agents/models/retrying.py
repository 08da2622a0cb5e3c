"""One call of a provider, made again while that helps: the only place where a call is retried.

The SDKs retry too, but only before an answer begins, each with its own count; so theirs is off,
and one bound covers a call that was refused, did not connect, or broke off. An adapter turns its
SDK's errors into :class:`CallFailed`, which says whether another attempt may help. A retry before
the first event of an answer is silent; after it, :class:`~ray_agents.model.AnswerBroken` voids
what was streamed, whether the call is made again or not. It is also said of a call that was
accepted and broke off, or fell silent, before that, which may have been billed.

With a gateway every attempt waits for its turn, and says when it does and when it is sent. Then a
refusal for want of capacity (429, 529) is no failure of the call: all callers slow down together,
the call waits in the queue, and is made again at most ``refusals_max`` times, whatever it has left
of ``retries_max``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from ray_agents.errors import ModelUnavailable
from ray_agents.gateway import Gateway
from ray_agents.lane import Turn
from ray_agents.model import (
    AnswerBroken,
    Answered,
    CallQueued,
    CallSent,
    ModelEvent,
    ModelSettings,
)
from ray_agents.sharing import ModelKey

Sleep = Callable[[float], Awaitable[None]]
Attempt = Callable[[], AsyncGenerator[ModelEvent, None]]
RETRIED_STATUSES = frozenset({408, 409, 429})  # and every one from 500 on, 529 among them
CROWDED_STATUSES = frozenset({429, 529})
CROWDED_KINDS = frozenset({"rate_limit_error", "overloaded_error"})
BROKEN = "broken_stream"  # the kind of a failure in the midst of an answer
JITTER = 0.5  # a pause of our own choice is shortened by up to this share, to spread callers


TROUBLE = "the provider is in trouble: run again later"
_WRONG = "the request itself is wrong, and will be refused again"
ADVICE = {
    400: _WRONG,
    401: "check {key}",
    402: "check the account's billing",
    403: "the key may not do this: check its permissions",
    404: "check the model's name and {url}",
    413: "the conversation has become too large",
    422: _WRONG,
    429: "the rate limit is used up: run again later, or raise the limit",
    529: "the provider is overloaded: run again later",
}


class CallFailed(Exception):
    """One attempt failed.

    ``kind`` names how, ``may_help`` says whether another attempt may, ``retry_after`` is the
    pause in seconds that the server asked for, and ``advice`` what to do if this was the last.
    """

    def __init__(
        self,
        told: str,
        *,
        kind: str,
        may_help: bool,
        advice: str,
        retry_after: float | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(told)
        self.kind = kind
        self.may_help = may_help
        self.advice = advice
        self.retry_after = retry_after
        self.http_status = http_status

    @property
    def crowded(self) -> bool:
        """Whether the server has refused for want of capacity, and may take it later."""
        refused = self.http_status in CROWDED_STATUSES or self.kind in CROWDED_KINDS
        return self.may_help and refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """Makes attempts until one gives an answer. ``sleep`` and ``chance`` (0 to 1) are handed in."""

    settings: ModelSettings
    sleep: Sleep = asyncio.sleep
    chance: Callable[[], float] = random.random
    gateway: Gateway | None = None

    async def events(
        self, attempt: Attempt, *, model: str, base_url: str, key: ModelKey | None = None
    ) -> AsyncGenerator[ModelEvent, None]:
        """The events of the first attempt that succeeds, each broken one voided.

        ``key`` says which limits of the gateway it goes by.

        Raises:
            ModelUnavailable: no attempt succeeded, or none could; the message says what to do.
        """
        failures = refusals = 0
        while True:
            begun = False
            turn = self.gateway.turn(key) if self.gateway and key else None
            try:
                async with aclosing(self._in_turn(attempt, turn)) as events:
                    async for event in events:
                        begun = begun or not isinstance(event, CallQueued | CallSent)
                        yield event
            except CallFailed as error:
                if turn is not None and error.crowded:
                    refusals += 1
                    pause = self._pause_of_all(refusals, error)
                else:
                    failures += 1
                    pause = self._pause(failures, error)
                failed = error
            else:
                return
            at_once = not begun and failed.kind == BROKEN  # accepted, so it may be billed
            if begun or at_once:
                yield AnswerBroken(reason=str(failed))
            if pause is None:
                number = failures + refusals
                raise _last(failed, number, model=model, base_url=base_url) from failed
            if pause:
                await self.sleep(pause)

    async def _in_turn(
        self, attempt: Attempt, turn: Turn | None
    ) -> AsyncGenerator[ModelEvent, None]:
        """One attempt, when it is its turn; the gateway is told what becomes of it."""
        if turn is None:
            async with aclosing(self._timed(attempt())) as events:
                async for event in events:
                    yield event
            return
        yield CallQueued()
        await self._wait_for(turn)
        async with turn, aclosing(self._timed(attempt())) as events:
            yield CallSent()
            try:
                async for event in events:
                    turn.accepted()
                    if isinstance(event, Answered):
                        turn.used(event.usage.tokens - event.usage.cache_read_tokens)
                    yield event
            except CallFailed as error:
                if error.crowded:
                    longest = self.settings.retry_after_max.total_seconds()
                    asked = error.retry_after
                    turn.refused(None if asked is None else min(asked, longest))
                raise

    async def _wait_for(self, turn: Turn) -> None:
        bound = self.settings.turn_wait_max
        limit = asyncio.timeout(bound.total_seconds())
        try:
            async with limit:
                await turn.begin()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise CallFailed(
                f"had no turn for this call within turn_wait_max={bound}",
                kind="no_turn",
                may_help=False,
                advice="more is asked of the model than its limits take: ask less, or raise them",
            ) from error

    async def _timed(
        self, events: AsyncGenerator[ModelEvent, None]
    ) -> AsyncGenerator[ModelEvent, None]:
        """The same events, ended with CallFailed at ``call_timeout``."""
        bound = self.settings.call_timeout
        deadline = asyncio.get_running_loop().time() + bound.total_seconds()
        async with aclosing(events):
            while True:
                limit = asyncio.timeout_at(deadline)
                try:
                    async with limit:
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    if not limit.expired():  # it is of whatever carries the call
                        raise broken_off(error) from error
                    raise CallFailed(
                        f"did not end its answer within call_timeout={bound}",
                        kind="call_timeout",
                        may_help=False,
                        advice="ask for less at once (max_tokens, thinking), or raise call_timeout",
                    ) from error
                yield event

    def _pause(self, number: int, error: CallFailed) -> float | None:
        """Seconds until the next attempt; None if there is to be none."""
        settings = self.settings
        if not error.may_help or number > settings.retries_max:
            return None
        if error.retry_after is not None:
            wanted = error.retry_after
            return wanted if wanted <= settings.retry_after_max.total_seconds() else None
        delay = settings.retry_delay.total_seconds() * 2 ** (number - 1)
        longest = min(delay, settings.retry_delay_max.total_seconds())
        return longest * (1 - JITTER * self.chance())

    def _pause_of_all(self, refusals: int, error: CallFailed) -> float | None:
        """As :meth:`_pause`, for a refusal: nothing, as the gateway has everybody wait."""
        longest = self.settings.retry_after_max.total_seconds()
        too_long = error.retry_after is not None and error.retry_after > longest
        return None if too_long or refusals > self.settings.refusals_max else 0.0


def _last(error: CallFailed, number: int, *, model: str, base_url: str) -> ModelUnavailable:
    tried = f" ({number} attempts)" if number > 1 else ""
    message = f"{model!r} at {base_url!r} {error}{tried}; {error.advice}"
    facts: dict[str, Any] = {"model": model, "base_url": base_url, "kind": error.kind}
    facts |= {"http_status": error.http_status, "retry_after": error.retry_after}
    known = {name: value for name, value in facts.items() if value is not None}
    return ModelUnavailable(message, **known, attempts=number)


def unreachable(how: str, *, variable: str = "ANTHROPIC_BASE_URL") -> CallFailed:
    """The failure of a call that got no answer, or not in time."""
    advice = f"check {variable} and the network"
    return CallFailed(how, kind="unreachable", may_help=True, advice=advice)


def broken_off(error: Exception) -> CallFailed:
    """The failure of a call whose answer ended in the middle."""
    told = f"broke its answer off: {type(error).__name__}: {error}"
    advice = "what there was of the answer is void: run again later"
    return CallFailed(told, kind=BROKEN, may_help=True, advice=advice)


def fell_silent() -> CallFailed:
    """The failure of a call that was accepted, and whose answer ended without a word."""
    told, advice = "fell silent in its answer", "run again later, or raise silence_timeout"
    return CallFailed(told, kind=BROKEN, may_help=True, advice=advice)


def may_help_again(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a request that was refused so may be accepted later; a server may say so itself."""
    said = headers.get("x-should-retry")
    if said in ("true", "false"):
        return said == "true"
    return status in RETRIED_STATUSES or status >= 500


def retry_after_in(headers: Mapping[str, str]) -> float | None:
    """The pause in seconds that a refusal asks for: milliseconds, seconds, or until a date.

    Source: RFC 9110 section 10.2.3, and ``retry-after-ms``, which both SDKs know. None, too, if it
    asks for no pause at all, or until a date that is over: then ours apply, which grow.
    """
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if 0 < seconds < float("inf"):
            return seconds
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    left = until.timestamp() - time.time()
    return left if left > 0 else None
