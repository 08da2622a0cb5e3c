"""The real clock, and names that sort by when they were made."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import timedelta

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
NAME_LENGTH = 20
TIME_LENGTH = 9


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
        stamp, name = time.time_ns() // 1_000_000, ""
        for _ in range(TIME_LENGTH):
            stamp, digit = divmod(stamp, len(ALPHABET))
            name = ALPHABET[digit] + name
        chance = "".join(secrets.choice(ALPHABET) for _ in range(NAME_LENGTH - TIME_LENGTH))
        return name + chance

    async def sleep(self, duration: timedelta) -> None:
        """Return after ``duration``."""
        await asyncio.sleep(duration.total_seconds())
