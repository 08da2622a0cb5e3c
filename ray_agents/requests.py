"""What the doors are asked: the bodies of spawn, send and list, validated once at each door."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ray_agents.views import Status

MESSAGE_ID_LENGTH_MAX = 256
MESSAGE_BYTES_MAX = 1_000_000
PAGE_ITEMS_MAX = 1_000


class Request(BaseModel):
    """Base of all requests: frozen, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_timedelta="float")


class SendRequest(Request):
    """A message: ``id`` makes a repeated send harmless."""

    payload: Any = None
    type: str = Field(default="message", min_length=1, max_length=128)
    from_: str | None = Field(
        default=None, max_length=256, validation_alias="from", serialization_alias="from"
    )
    id: str | None = Field(default=None, min_length=1, max_length=MESSAGE_ID_LENGTH_MAX)

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SpawnRequest(Request):
    """A new entity: ``spawn_id`` makes a repeated spawn harmless."""

    args: dict[str, Any] = Field(default_factory=dict[str, Any])
    tags: dict[str, str] = Field(default_factory=dict[str, str])
    parent: str | None = None
    message: SendRequest | None = None
    spawn_id: str | None = Field(default=None, min_length=1, max_length=256)


class ListQuery(Request):
    """Which entities to list; ``tag`` is ``key`` or ``key=value``."""

    type: str | None = None
    status: Status | None = None
    parent: str | None = None
    tag: str | None = None
    limit: int = Field(default=50, ge=1, le=PAGE_ITEMS_MAX)
    cursor: str | None = None
