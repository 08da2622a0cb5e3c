"""What the runtime knows of an entity type: handler, schemas, collections, limits, placement."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from ray_agents.address import check_type
from ray_agents.errors import InvalidDefinition, UnknownType
from ray_agents.views import Durability

Handler = Callable[..., Awaitable[Any]]
NO_SCHEMAS = dict[str, type[BaseModel]]
RESERVED_COLLECTIONS = frozenset(
    "runs steps texts text_deltas tool_calls reasoning reasoning_deltas errors inbox wakes "
    "entity_created entity_stopped signals child_status slash_commands manifests "
    "replay_watermarks tags context_inserted context_removed outbox".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What Ray must have free for a host: logical CPUs, GPUs, custom resources by name."""

    num_cpus: float = 0
    num_gpus: float = 0
    custom: Mapping[str, float] = field(default_factory=dict[str, float])

    def __bool__(self) -> bool:
        return bool(self.num_cpus or self.num_gpus or self.custom)

    def __str__(self) -> str:
        wants = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, **self.custom}
        return ", ".join(f"{name}={amount:g}" for name, amount in wants.items() if amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedicated:
    """One entity per host process; with resources, a host made for it."""

    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Many entities per host process, as asyncio tasks, over at most ``hosts`` processes."""

    hosts: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.hosts <= 64:
            raise InvalidDefinition(f"Packed(hosts={self.hosts!r}): hosts must be from 1 to 64")


Placement = Dedicated | Packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one entity of a type, each with a name."""

    handler_time_max: timedelta = timedelta(minutes=30)
    attempts_max: int = 3
    retry_delay: timedelta = timedelta(milliseconds=200)
    retry_delay_max: timedelta = timedelta(seconds=30)
    backlog_max: int = 10_000
    message_bytes_max: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One entity type. ``state`` maps a collection's name to the pydantic model of its rows.

    A row's primary key is its field ``key``. ``creation_schema`` types the spawn arguments,
    ``inbox_schemas`` the payloads by message type (``"*"`` for all others).
    """

    type: str
    handler: Handler
    description: str = ""
    state: Mapping[str, type[BaseModel]] = field(default_factory=NO_SCHEMAS)
    creation_schema: type[BaseModel] | None = None
    inbox_schemas: Mapping[str, type[BaseModel]] = field(default_factory=NO_SCHEMAS)
    placement: Placement = field(default_factory=Dedicated)
    idle_timeout: timedelta = timedelta(seconds=5)
    durability: Durability = Durability.SYNC
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_type(self.type)
        if not inspect.iscoroutinefunction(self.handler):
            raise InvalidDefinition(
                f"the handler of {self.type!r} must be `async def handler(ctx, wake)`, "
                f"not {self.handler!r}",
                type=self.type,
            )
        for name, model in self.state.items():
            if name in RESERVED_COLLECTIONS or not name.isidentifier() or name.startswith("_"):
                raise InvalidDefinition(
                    f"{self.type!r} cannot name a collection {name!r}: it is reserved or not a "
                    "Python identifier",
                    type=self.type,
                )
            if "key" not in model.model_fields:
                raise InvalidDefinition(
                    f"collection {name!r} of {self.type!r}: {model.__name__} needs a field "
                    "`key: str`, its primary key",
                    type=self.type,
                )


class Registry:
    """Definitions by type, as an app declares them."""

    def __init__(self) -> None:
        self._definitions: dict[str, Definition] = {}

    def define(self, type_name: str, definition: Definition | None = None, **options: Any) -> None:
        """Add a definition, whole or as keyword arguments of :class:`Definition`.

        A type that is defined again, in a notebook cell that is run again, is replaced.

        Raises:
            InvalidDefinition: it cannot work.
        """
        built = definition or Definition(type=type_name, **options)
        self._definitions[type_name] = built

    def entity(self, type_name: str, **options: Any) -> Callable[[Handler], Handler]:
        """Decorate an ``async def handler(ctx, wake)``; keywords as in :class:`Definition`."""

        def decorate(handler: Handler) -> Handler:
            self.define(type_name, handler=handler, **options)
            return handler

        return decorate

    def get(self, type_name: str) -> Definition:
        """The definition of a type.

        Raises:
            UnknownType: there is none; the message lists those there are.
        """
        try:
            return self._definitions[type_name]
        except KeyError:
            known = ", ".join(sorted(self._definitions)) or "none"
            message = f"no definition of type {type_name!r}; known types: {known}"
            raise UnknownType(message, type=type_name) from None

    def __iter__(self) -> Iterator[Definition]:
        return iter(self._definitions.values())

    def __len__(self) -> int:
        return len(self._definitions)
