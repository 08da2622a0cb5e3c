"""The real clock, and names that sort by when they were made."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import timedelta

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
NAME_LENGTH = 20
TIME_LENGTH = 9
CHANCES = len(ALPHABET) ** (NAME_LENGTH - TIME_LENGTH)


class SystemClock:
    """Time of this machine; see ``ports.Clock``."""

    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        return time.monotonic()

    def fresh_id(self) -> str:
        """Nine characters of milliseconds since the epoch, eleven of chance (56 bits)."""
        number = time.time_ns() // 1_000_000 * CHANCES + secrets.randbelow(CHANCES)
        name = ""
        for _ in range(NAME_LENGTH):
            number, digit = divmod(number, len(ALPHABET))
            name = ALPHABET[digit] + name
        return name

    async def sleep(self, duration: timedelta) -> None:
        """Return after ``duration``."""
        await asyncio.sleep(duration.total_seconds())
