"""What the doors are asked: the bodies of spawn, send and list, validated once at each door."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ray_agents.budgets import COST_MAX, Budget
from ray_agents.errors import InvalidPayload
from ray_agents.modes import Mode
from ray_agents.views import ApprovalStatus, Status

MESSAGE_ID_LENGTH_MAX = 256
WAKE_LENGTH_MAX = 256
MESSAGE_BYTES_MAX = 1_000_000
PAGE_ITEMS_MAX = 1_000
AFTER_MAX = timedelta(days=5 * 366)


class Request(BaseModel):
    """Base of all requests: frozen, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_timedelta="float")


class SendRequest(Request):
    """A message: ``id`` makes a repeated send harmless.

    ``after_seconds`` is how long after its acceptance it is to enter the inbox; None and 0 are at
    once. ``mode`` says how it meets a wake that runs then; it does not tell messages apart.
    """

    payload: Any = None
    type: str = Field(default="message", min_length=1, max_length=128)
    from_: str | None = Field(
        default=None, max_length=256, validation_alias="from", serialization_alias="from"
    )
    id: str | None = Field(default=None, min_length=1, max_length=MESSAGE_ID_LENGTH_MAX)
    after_seconds: float | None = Field(
        default=None, ge=0, le=AFTER_MAX.total_seconds(), allow_inf_nan=False
    )
    mode: Mode = Mode.QUEUED

    model_config = ConfigDict(populate_by_name=True)


class ShareRequest(Request):
    """What an entity and all that descend from it may spend: tokens of all kinds, and dollars."""

    tokens_max: int | None = Field(default=None, gt=0, strict=True)
    cost_max: Decimal | None = Field(default=None, gt=0, le=COST_MAX, allow_inf_nan=False)

    @field_validator("cost_max", mode="before")
    @classmethod
    def _is_money(cls, given: Any) -> Any:
        if isinstance(given, bool):
            raise PydanticCustomError("money", 'write dollars, as "1.25"')
        return given

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.tokens_max is None and self.cost_max is None:
            raise PydanticCustomError(
                "budget", "a budget bounds something; give tokens_max or cost_max"
            )
        return self


class SpawnRequest(Request):
    """A new entity: ``spawn_id`` makes a repeated spawn harmless."""

    args: dict[str, Any] = Field(default_factory=dict[str, Any])
    tags: dict[str, str] = Field(default_factory=dict[str, str])
    parent: str | None = None
    message: SendRequest | None = None
    spawn_id: str | None = Field(default=None, min_length=1, max_length=256)
    budget: ShareRequest | None = None

    @property
    def share(self) -> Budget | None:
        """The budget, as one of the entity's tree; None if it bounds nothing."""
        given = self.budget
        if given is None:
            return None
        return Budget(tokens_max=given.tokens_max, cost_max=given.cost_max, tree=True)

    @field_validator("message")
    @classmethod
    def _begins_at_once(cls, message: SendRequest | None) -> SendRequest | None:
        if message is not None and message.after_seconds:
            raise PydanticCustomError(
                "delay", "a first message is not delayed; spawn without one, then send with a delay"
            )
        return message


class ForkRequest(Request):
    """A new entity ``to``, of the same type, with the source's rows before the offset ``at``.

    None is all there are; ``fork_id`` makes a repeated fork harmless.
    """

    to: str = Field(max_length=256)
    at: int | None = Field(default=None, ge=0)
    fork_id: str | None = Field(default=None, min_length=1, max_length=64)


class DecisionRequest(Request):
    """What people decided on a tool call: to ``approve`` or to ``deny`` it, who, and why.

    The model is told the reason of a denial.
    """

    decision: Literal["approve", "deny"]
    by: str | None = Field(default=None, max_length=256)
    reason: str | None = Field(default=None, max_length=4_000)

    @property
    def status(self) -> ApprovalStatus:
        """What the call's approval becomes."""
        return ApprovalStatus.APPROVED if self.decision == "approve" else ApprovalStatus.DENIED


class InterruptRequest(Request):
    """What is to be stopped: whatever runs, or only if it is the ``wake``; and why.

    ``id`` makes a repeated interrupt of something that ran harmless.
    """

    wake: str | None = Field(default=None, min_length=1, max_length=WAKE_LENGTH_MAX)
    reason: str | None = Field(default=None, max_length=1_000)
    id: str | None = Field(default=None, min_length=1, max_length=MESSAGE_ID_LENGTH_MAX)


class ParkedRequest(Request):
    """Which of the wakes that ``retry`` and ``skip`` are for: one, or all if ``wake`` is None."""

    wake: str | None = Field(default=None, min_length=1, max_length=WAKE_LENGTH_MAX)


class ListQuery(Request):
    """Which entities to list; ``tag`` is ``key`` or ``key=value``."""

    type: str | None = None
    status: Status | None = None
    parent: str | None = None
    tag: str | None = None
    limit: int = Field(default=50, ge=1, le=PAGE_ITEMS_MAX)
    cursor: str | None = None


def seconds_of(after: timedelta | None) -> float | None:
    """A delay as requests carry it.

    Raises:
        InvalidPayload: it is not a timedelta.
    """
    if after is None:
        return None
    if not isinstance(after, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller
        message = f"'after' must be a timedelta, not {after!r}"  # may have no type checker
        raise InvalidPayload(message, field="after")
    return after.total_seconds()


def share_of(budget: Budget | None) -> ShareRequest | None:
    """A budget as requests carry it.

    Raises:
        InvalidPayload: it is not a Budget.
    """
    if budget is not None and not isinstance(budget, Budget):  # pyright: ignore[reportUnnecessaryIsInstance] - as above
        message = f"'budget' must be a Budget, as Budget(tokens_max=…), not {budget!r}"
        raise InvalidPayload(message, field="budget")
    if budget is None or not budget.limits:
        return None
    return ShareRequest(tokens_max=budget.tokens_max, cost_max=budget.cost_max)


R = TypeVar("R", bound=Request)


def message_of(payload: Any, **fields: Any) -> SendRequest:
    """A message with that payload; raises as :func:`checked`."""
    return checked(SendRequest, {"payload": payload, **fields})


def checked(request: type[R], fields: Mapping[str, Any]) -> R:
    """A request of these fields.

    Raises:
        InvalidPayload: one of them cannot be that.
    """
    try:
        return request.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidPayload(f"{field!r} cannot be that: {first['msg']}", field=field) from error
