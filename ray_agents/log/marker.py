"""A message's length and digest, written into the message itself, twice, at known places.

A marker is 36 ASCII characters: a magic word, the message's length in bytes (8 hex digits), the
xxh3_64 digest of the whole message with both markers blanked (16), and an xxh32 check of the
marker's own text (8). Because a marker proves itself, a reader learns length and digest without
trusting one byte of the flatbuffer around it; because there are two, a flip that hits one is
survived, and no flip can make a whole message look cut short.
"""

from __future__ import annotations

from dataclasses import dataclass

from xxhash import xxh3_64, xxh32_hexdigest

MAGIC = b"RAm1"
WIDTH = 36
BLANK = MAGIC + b"0" * (WIDTH - len(MAGIC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What one intact marker says: ``length`` in bytes, ``digest`` of the blanked message."""

    length: int
    digest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where in a message its two markers start, ``first`` before ``second``."""

    first: int
    second: int

    @property
    def end(self) -> int:
        """The position behind the second marker."""
        return self.second + WIDTH


def find_places(message: bytes | bytearray) -> Places:
    """Where the two blank markers of a freshly serialised message stand.

    Raises:
        ValueError: there are not exactly two.
    """
    first = message.find(BLANK)
    second = message.find(BLANK, first + WIDTH)
    if first < 0 or second < 0:
        raise ValueError("a message carries two markers")
    return Places(first=first, second=second)


def blanked_digest(message: bytes | bytearray | memoryview, places: Places) -> int:
    """The xxh3_64 of ``message`` as if both of its markers were blank."""
    view = memoryview(message)
    hasher = xxh3_64(view[: places.first])
    hasher.update(BLANK)
    hasher.update(view[places.first + WIDTH : places.second])
    hasher.update(BLANK)
    hasher.update(view[places.end :])
    return hasher.intdigest()


def seal(message: bytearray, places: Places) -> int:
    """Fill in both blank markers; return the digest."""
    digest = blanked_digest(message, places)
    text = MAGIC + b"%08x%016x" % (len(message), digest)
    text += xxh32_hexdigest(text).encode()
    message[places.first : places.first + WIDTH] = text
    message[places.second : places.end] = text
    return digest


def read_marker(text: bytes) -> Marker | None:
    """The marker ``text`` is; None if it is none or is damaged."""
    proved = text[: WIDTH - 8]
    if len(text) != WIDTH or text[:4] != MAGIC or xxh32_hexdigest(proved).encode() != text[-8:]:
        return None
    return Marker(length=int(text[4:12], 16), digest=int(text[12:28], 16))
