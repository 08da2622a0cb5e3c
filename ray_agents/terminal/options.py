"""What people type after a command's name: arguments and options used by several commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, cast

import typer

from ray_agents.budgets import COST_MAX, Budget
from ray_agents.errors import InvalidPayload
from ray_agents.events import JSON
from ray_agents.terminal.spans import duration


def parse_duration(text: str | timedelta) -> timedelta:
    """A duration option's value; typer hands defaults in as they are."""
    if isinstance(text, timedelta):
        return text
    try:
        return duration(text)
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} is longer than anything lasts") from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def parse_dollars(text: str | Decimal) -> Decimal:
    """A sum of money: ``5``, ``0.50``."""
    try:
        dollars = Decimal(text)
    except InvalidOperation as error:
        raise typer.BadParameter(f"{text!r} is no sum of dollars; write it as 0.50") from error
    if not dollars.is_finite() or dollars <= 0:
        raise typer.BadParameter(f"{text!r} is no sum of dollars: more than nothing")
    if dollars > COST_MAX:
        raise typer.BadParameter(f"{text!r} is too much: at most {COST_MAX:,} dollars")
    return dollars


TokensMax = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="What it and its descendants may spend: tokens."),
]
CostMax = Annotated[
    Decimal | None,
    typer.Option(parser=parse_dollars, metavar="DOLLARS", help="The same in dollars: 0.50."),
]


def budget_of(tokens_max: int | None, cost_max: Decimal | None) -> Budget | None:
    """The budget that was typed, None if none was."""
    if tokens_max is None and cost_max is None:
        return None
    return Budget(tokens_max=tokens_max, cost_max=cost_max, tree=True)


def parse_json(text: str, *, option: str) -> JSON:
    """The JSON document given to an option.

    Raises:
        InvalidPayload: it is not JSON; the message says where.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        message = f"{option} is not JSON: {error.msg} at character {error.pos}: {text[:80]!r}"
        raise InvalidPayload(message, option=option) from error


def parse_object(text: str | None, *, option: str) -> dict[str, JSON]:
    """The JSON object given to an option; an empty one if it was not given.

    Raises:
        InvalidPayload: it is not a JSON object.
    """
    document: JSON = {} if text is None else parse_json(text, option=option)
    if not isinstance(document, dict):
        message = f"{option} must be a JSON object, not {text!r}"
        raise InvalidPayload(message, option=option)
    return cast("dict[str, JSON]", document)


def parse_tags(pairs: Sequence[str]) -> dict[str, str]:
    """Tags given as ``key=value``.

    Raises:
        InvalidPayload: one has no ``=`` or an empty key.
    """
    tags: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidPayload(f"a tag is written key=value, not {pair!r}", option="--tag")
        tags[key] = value
    return tags


def message_payload(words: Sequence[str] | None, payload: str | None) -> JSON:
    """The message typed as words, wrapped as ``{"text": …}``, or as JSON; None if neither.

    Raises:
        InvalidPayload: both are given, or ``payload`` is not JSON.
    """
    if words and payload is not None:
        raise InvalidPayload("give the message as TEXT or as --payload, not both")
    if words:
        return {"text": " ".join(words)}
    return None if payload is None else parse_json(payload, option="--payload")


Address = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="The entity, as /type/id.", show_default=False)
]
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", help='The message; sent as {"text": …}.', show_default=False),
]
Payload = Annotated[
    str | None,
    typer.Option("--payload", metavar="JSON", help="Any JSON as the message, in place of TEXT."),
]
MessageType = Annotated[
    str, typer.Option("--type", metavar="NAME", help="The message's type, as in its schema.")
]
Sender = Annotated[
    str | None, typer.Option("--from", metavar="ADDRESS", help="Who the message is from.")
]
MessageId = Annotated[
    str | None,
    typer.Option("--id", metavar="ID", help="Makes it harmless to send the message again."),
]
After = Annotated[
    timedelta | None,
    typer.Option(
        "--after",
        parser=parse_duration,
        metavar="DURATION",
        help="How much later it enters the inbox: 90s, 5m, 12h, 3d.",
    ),
]
Wake = Annotated[
    str | None, typer.Option("--wake", metavar="KEY", help="Only this parked wake, not all.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
