"""What is tried again, how often, and after which pause: without a server, without waiting."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ray_agents.errors import ModelUnavailable
from ray_agents.model import AnswerBroken, Answered, ModelEvent, ModelSettings, TextDelta
from ray_agents.models.retrying import (
    CallFailed,
    Retrying,
    broken_off,
    may_help_again,
    retry_after_in,
)

DONE = Answered(content=[], stop_reason="end_turn")
SAID = TextDelta(block=0, text="so")


def failed(*, may_help: bool = True, retry_after: float | None = None) -> CallFailed:
    return CallFailed(
        "failed", kind="test", may_help=may_help, advice="wait", retry_after=retry_after
    )


class Attempts:
    """Gives each attempt its events; a failure is raised, None waits for ever. Pauses are kept."""

    def __init__(self, *plans: Sequence[ModelEvent | CallFailed | TimeoutError | None]) -> None:
        self._plans = iter(plans)
        self.pauses: list[float] = []

    async def attempt(self) -> AsyncGenerator[ModelEvent, None]:
        for each in next(self._plans):
            if isinstance(each, CallFailed | TimeoutError):
                raise each
            if each is None:
                await asyncio.Event().wait()
            else:
                yield each

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def events(self, settings: ModelSettings | None = None) -> list[ModelEvent]:
        return [event async for event in self.made(settings or ModelSettings())]

    def made(self, settings: ModelSettings) -> AsyncGenerator[ModelEvent, None]:
        retrying = Retrying(settings=settings, sleep=self.sleep, chance=lambda: 0.0)
        return retrying.events(self.attempt, model="m", base_url="u")


async def test_a_retry_before_the_first_event_is_silent() -> None:
    attempts = Attempts([failed()], [SAID, DONE])
    assert await attempts.events() == [SAID, DONE]


async def test_a_retry_after_some_events_voids_them() -> None:
    attempts = Attempts([SAID, failed()], [SAID, DONE])
    assert await attempts.events() == [SAID, AnswerBroken(reason="failed"), SAID, DONE]


async def test_an_accepted_call_that_breaks_off_at_once_is_told_of_as_it_may_be_billed() -> None:
    broken = broken_off(ValueError("torn"))
    attempts = Attempts([broken], [SAID, DONE])
    assert await attempts.events() == [AnswerBroken(reason=str(broken)), SAID, DONE]


async def test_the_last_one_that_breaks_off_at_once_is_told_of_too() -> None:
    broken = broken_off(ValueError("torn"))
    events = Attempts([broken]).made(ModelSettings(retries_max=0))
    assert await anext(events) == AnswerBroken(reason=str(broken))
    with pytest.raises(ModelUnavailable):
        await anext(events)


@pytest.mark.parametrize("error", [failed(), failed(may_help=False)])
async def test_an_answer_that_breaks_off_is_voided_though_it_is_not_made_again(
    error: CallFailed,
) -> None:
    events = Attempts([SAID, error]).made(ModelSettings(retries_max=0))
    assert [await anext(events), await anext(events)] == [SAID, AnswerBroken(reason="failed")]
    with pytest.raises(ModelUnavailable):
        await anext(events)


async def test_pauses_double_up_to_their_bound() -> None:
    attempts = Attempts(*[[failed()]] * 6, [DONE])
    settings = ModelSettings(retries_max=6, retry_delay_max=timedelta(seconds=4))
    assert await attempts.events(settings) == [DONE]
    assert attempts.pauses == [0.5, 1, 2, 4, 4, 4]


async def test_a_pause_that_the_server_asks_for_is_kept() -> None:
    attempts = Attempts([failed(retry_after=17.0)], [DONE])
    assert await attempts.events() == [DONE]
    assert attempts.pauses == [17.0]


async def test_a_server_that_asks_for_too_long_a_pause_is_not_waited_for() -> None:
    attempts = Attempts([failed(retry_after=61.0)])
    with pytest.raises(ModelUnavailable, match="wait") as caught:
        await attempts.events()
    assert caught.value.facts["retry_after"] == 61.0
    assert attempts.pauses == []


async def test_attempts_are_bounded_in_all_and_counted() -> None:
    attempts = Attempts([failed()], [SAID, failed()], [failed()])
    with pytest.raises(ModelUnavailable, match="3 attempts") as caught:
        await attempts.events(ModelSettings(retries_max=2))
    assert (caught.value.facts["kind"], caught.value.facts["attempts"]) == ("test", 3)


async def test_what_no_retry_can_help_ends_at_once() -> None:
    attempts = Attempts([failed(may_help=False)])
    with pytest.raises(ModelUnavailable, match="'m' at 'u' failed; wait"):
        await attempts.events()


async def test_an_answer_beyond_the_call_timeout_is_ended_and_not_made_again() -> None:
    attempts = Attempts([SAID, None, DONE])
    with pytest.raises(ModelUnavailable, match="raise call_timeout"):
        await attempts.events(ModelSettings(call_timeout=timedelta(0)))


async def test_a_timeout_that_is_not_ours_is_not_told_as_ours_and_the_call_is_made_again() -> None:
    attempts = Attempts([SAID, TimeoutError("read")], [DONE])
    voided = AnswerBroken(reason="broke its answer off: TimeoutError: read")
    assert await attempts.events() == [SAID, voided, DONE]


@pytest.mark.parametrize(
    ("status", "said", "again"),
    [
        *[(status, "", True) for status in (408, 409, 429, 500, 502, 503, 504, 529)],
        *[(status, "", False) for status in (400, 401, 402, 403, 404, 413, 422)],
        (400, "true", True),
        (529, "false", False),
    ],
)
def test_which_refusals_are_tried_again(status: int, said: str, again: bool) -> None:
    assert may_help_again(status, {"x-should-retry": said}) is again


@pytest.mark.parametrize(
    ("status", "kind", "may_help", "crowded"),
    [
        (429, "rate_limit_error", True, True),
        (529, "overloaded_error", True, True),
        (None, "overloaded_error", True, True),  # in the middle of an answer
        (429, "insufficient_quota", False, False),
        (500, "api_error", True, False),
        (None, "unreachable", True, False),
    ],
)
def test_which_refusals_are_for_want_of_capacity(
    status: int | None, kind: str, may_help: bool, crowded: bool
) -> None:
    error = CallFailed("no", kind=kind, may_help=may_help, advice="wait", http_status=status)
    assert error.crowded is crowded


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "9"}, 9.0),
        ({"retry-after-ms": "0", "retry-after": "9"}, 9.0),
        ({"retry-after": "0"}, None),  # or a server that means nothing by it gets no pause at all
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),  # by a clock behind ours
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_a_pause_is_read_from_the_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_in(headers) == seconds


def test_a_pause_may_be_a_date() -> None:
    then = datetime.now(UTC) + timedelta(hours=1)
    assert 3590 < (retry_after_in({"retry-after": format_datetime(then)}) or 0) <= 3600
