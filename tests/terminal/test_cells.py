"""A value of a query in JSON and in a cell."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from ray_agents.terminal import cells

VALUES = [
    (None, None, "", "-"),
    ("", "", "", ""),
    (True, True, "true", "true"),
    (12, 12, "12", "12"),
    (1.5, 1.5, "1.5", "1.5"),
    (float("nan"), None, "", "-"),
    (Decimal(12), 12, "12", "12"),
    (Decimal("1.5"), 1.5, "1.5", "1.5"),
    (date(2026, 1, 2), "2026-01-02", "2026-01-02", "2026-01-02"),
    (datetime(2026, 1, 2, tzinfo=UTC), *["2026-01-02T00:00:00+00:00"] * 3),
    (b"\x01", "01", "01", "01"),
    ({"a": [1, None]}, {"a": [1, None]}, '{"a":[1,null]}', '{"a":[1,null]}'),
    ("two\n\x1blines", "two\n\x1blines", "two\n\x1blines", "two\\n\\x1blines"),
]


@pytest.mark.parametrize(("value", "json", "text", "line"), VALUES)
def test_a_value(value: object, json: object, text: str, line: str) -> None:
    assert (cells.plain(value), cells.text(value), cells.line(value)) == (json, text, line)
