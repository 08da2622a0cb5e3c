"""A value out of a query as JSON, and as the text of a table's or a CSV file's cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import cast

from ray_agents.events import JSON, encode
from ray_agents.terminal.flow import visible


def plain(value: object) -> JSON:
    """A value as JSON says it: times in ISO 8601, whole decimals as integers, bytes as hex."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case bytes():
            return value.hex()
        case Mapping():
            fields = cast("Mapping[object, object]", value)
            return {str(name): plain(each) for name, each in fields.items()}
        case list() | tuple():
            return [plain(each) for each in cast("Iterable[object]", value)]
        case _:
            return str(value)


def text(value: object) -> str:
    """A value in one cell; what is missing is empty."""
    said = plain(value)
    if said is None:
        return ""
    return said if isinstance(said, str) else encode(said)


def line(value: object) -> str:
    """A value on one line of a terminal; what is missing is a dash."""
    return "-" if plain(value) is None else visible(text(value)).replace("\n", "\\n")
