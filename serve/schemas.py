"""What is the wire's alone: how an offset is written, and the small bodies HTTP adds."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from ray_agents.errors import InvalidPayload

NOW = -1
EVENTS_MAX = 1_000
_WIRE_OFFSET = re.compile(r"[0-9]{16}_([0-9]{16})|([0-9]{1,16})|(now)", re.ASCII)


class RegisterRequest(BaseModel):
    """Definitions to register: ``source`` is ``module:attribute`` on the server's import path.

    ``value`` is a registry pickled by cloudpickle, in base64: code that the server then runs. It
    is refused unless RAY_AGENTS_REGISTER_BY_VALUE=1 and a token is set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | None = Field(default=None, pattern=r"^[\w.]+:[\w.]+$", max_length=256)
    value: str | None = None


class Count(BaseModel):
    """How many wakes ``retry`` or ``skip`` concerned."""

    wakes: int


class Health(BaseModel):
    """The process is up, or the runtime answers."""

    status: str = "ok"


def parse_offset(text: str) -> int:
    """An offset as the wire writes it: ``now`` (-1), an integer, or ``%016d_%016d``.

    Raises:
        InvalidPayload: it is none of these.
    """
    found = _WIRE_OFFSET.fullmatch(text)
    if found is None:
        raise InvalidPayload(
            f"'offset': {text[:40]!r} is not an offset; use `now`, an integer, or the offset that "
            "a former answer gave",
            field="offset",
        )
    return NOW if found[3] else int(found[1] or found[2])


def offset_of(
    offset: Annotated[str, Query(description="integer, wire form, or `now`")] = "0",
) -> int:
    """The query parameter ``offset``, parsed."""
    return parse_offset(offset)


Offset = Annotated[int, Depends(offset_of)]
Limit = Annotated[int, Query(ge=1, le=EVENTS_MAX, description="at most so many events")]
Seconds = Annotated[float, Query(gt=0, le=3_600, description="seconds to wait for the reply")]
