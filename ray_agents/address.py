"""An entity's address, ``/type/id``: parsed once at the doors, trusted everywhere after."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ray_agents.errors import InvalidAddress

TYPE_LENGTH_MAX = 64
ID_LENGTH_MAX = 128
_TYPE = re.compile(r"[a-z][a-z0-9_-]*", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9_~@:+=-][A-Za-z0-9._~@:+=-]*", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A valid ``/type/id``; build one with :meth:`parse` or :meth:`of`."""

    type: str
    id: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse ``/type/id``.

        Raises:
            InvalidAddress: not of that form, too long, or with a forbidden character.
        """
        parts = text.split("/") if len(text) <= TYPE_LENGTH_MAX + ID_LENGTH_MAX + 2 else []
        if len(parts) != 3 or parts[0] != "":
            message = f"{text[:80]!r} is not an address; write it as /type/id: /assistant/helper"
            raise InvalidAddress(message, address=text[:256])
        return cls.of(parts[1], parts[2])

    @classmethod
    def of(cls, type_name: str, entity_id: str) -> Address:
        """Build an address from its two parts, checked.

        Raises:
            InvalidAddress: a part is empty, too long, or has a forbidden character.
        """
        return cls(type=check_type(type_name), id=_check(entity_id, "id", _ID, ID_LENGTH_MAX))

    def __str__(self) -> str:
        return f"/{self.type}/{self.id}"


def check_type(name: str) -> str:
    """Return ``name`` if it can be an entity type.

    Raises:
        InvalidAddress: it cannot.
    """
    return _check(name, "type", _TYPE, TYPE_LENGTH_MAX)


def _check(text: str, what: str, allowed: re.Pattern[str], length_max: int) -> str:
    if len(text) > length_max:
        message = f"the {what} {text[:40]!r}… has {len(text)} characters, at most {length_max}"
        raise InvalidAddress(message, part=what)
    if not allowed.fullmatch(text):
        message = f"{text!r} cannot be an entity {what}; it must match {allowed.pattern}"
        raise InvalidAddress(message, part=what)
    return text
