"""A JSON document that is written once, with the digest of its bytes on a second line.

    {"digest": …, "view": …}
    "xxh3_64 0123456789abcdef"

Both lines are JSON. No single flipped bit is taken for another document, nor for one of the older
kind, which was the first line alone: without the digest's line it would have to end in a brace.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json
from xxhash import xxh3_64_hexdigest

from ray_agents.errors import CorruptLog


def encode_document(value: object) -> bytes:
    """``value`` as a document."""
    data = to_json(value)
    return data + _digest_line(data)


def decode_document(name: str, data: bytes) -> Any:
    """What :func:`encode_document` was given; ``name`` is the document's.

    Raises:
        CorruptLog: it is damaged.
    """
    if not is_protected(data):
        return _plain(name, data)
    text = data[: data.index(b"\n")]
    if text + _digest_line(text) != data:
        raise _corrupt(name, "is not what its digest was made of")
    return from_json(text)


def is_protected(data: bytes) -> bool:
    """Whether a document carries a digest; those of older versions do not."""
    return b"\n" in data


def _plain(name: str, data: bytes) -> Any:
    try:
        return from_json(data)
    except ValueError as error:
        raise _corrupt(name, f"is not JSON ({error})") from error


def _digest_line(data: bytes) -> bytes:
    return b'\n"xxh3_64 %s"\n' % xxh3_64_hexdigest(data).encode()


def _corrupt(name: str, what: str) -> CorruptLog:
    message = f"document {name!r} {what}; restore it from a backup, or register the type again"
    return CorruptLog(message, segment=name, byte=0, after_offset=None)
