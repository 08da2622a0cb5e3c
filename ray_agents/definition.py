"""What the runtime knows of an entity type: handler, schemas, collections, limits, placement."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from ray_agents.address import check_type
from ray_agents.budgets import Budget
from ray_agents.errors import InvalidAddress, InvalidDefinition, UnknownType
from ray_agents.views import Durability

Handler = Callable[..., Awaitable[Any]]
NO_SCHEMAS = dict[str, type[BaseModel]]
NO_ACTIONS = dict[str, Callable[..., Any]]
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
    """Bounds on one entity of a type, each with a name.

    ``handler_time_max`` bounds a handler with all that it waits for, turns at models included. One
    that swallows its cancellation then and has not ended two seconds later has failed, too: the
    entity goes on without it, and nothing that it still does is recorded.
    """

    handler_time_max: timedelta = timedelta(minutes=30)
    attempts_max: int = 3
    retry_delay: timedelta = timedelta(milliseconds=200)
    retry_delay_max: timedelta = timedelta(seconds=30)
    backlog_max: int = 10_000
    message_bytes_max: int = 1_000_000
    schedules_max: int = 10_000

    def __post_init__(self) -> None:
        zero = timedelta(0)
        for name in ("attempts_max", "backlog_max", "message_bytes_max", "schedules_max"):
            if getattr(self, name) < 1:
                raise InvalidDefinition(f"Limits({name}={getattr(self, name)!r}): at least 1")
        for name in ("retry_delay", "retry_delay_max"):
            if getattr(self, name) < zero:
                raise InvalidDefinition(f"Limits({name}={getattr(self, name)!r}): not negative")
        if self.handler_time_max <= zero:
            message = f"Limits(handler_time_max={self.handler_time_max!r}): more than nothing"
            raise InvalidDefinition(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept of a log: rows not older than ``age``, and at most ``bytes_max`` of files.

    It is applied when an entity falls asleep and its files are merged, to whole files that earlier
    wakes have left; so what the last wake wrote stays, and of the rest about an eighth more. State,
    tags, what is unfinished, and the ids of messages stay in any case; whoever reads below the
    first offset that is kept is told so (:class:`ray_agents.errors.OffsetGone`). Without either
    everything is kept.
    """

    age: timedelta | None = None
    bytes_max: int | None = None

    def __post_init__(self) -> None:
        if self.age is not None and self.age <= timedelta(0):
            raise InvalidDefinition(f"Retention(age={self.age!r}): more than nothing")
        if self.bytes_max is not None and self.bytes_max < 1:
            raise InvalidDefinition(f"Retention(bytes_max={self.bytes_max!r}): at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One entity type. ``state`` maps a collection's name to the pydantic model of its rows.

    A row's primary key is its field ``key``. ``creation_schema`` types the spawn arguments,
    ``inbox_schemas`` the payloads by message type (``"*"`` for all others). ``actions`` maps a name
    to a function of the state, ``def add(state, text)``, which handlers call as
    ``ctx.actions.add(text)``: what it writes is staged like any write of the handler. Without
    ``keep_deltas`` the pieces in which texts and reasoning came are left out once the log's files
    are merged; the texts themselves stay, with their steps and runs.
    """

    type: str
    handler: Handler
    description: str = ""
    state: Mapping[str, type[BaseModel]] = field(default_factory=NO_SCHEMAS)
    actions: Mapping[str, Callable[..., Any]] = field(default_factory=NO_ACTIONS)
    creation_schema: type[BaseModel] | None = None
    inbox_schemas: Mapping[str, type[BaseModel]] = field(default_factory=NO_SCHEMAS)
    placement: Placement = field(default_factory=Dedicated)
    idle_timeout: timedelta = timedelta(seconds=5)
    durability: Durability = Durability.SYNC
    limits: Limits = field(default_factory=Limits)
    keep_deltas: bool = True
    retention: Retention = field(default_factory=Retention)
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        try:
            check_type(self.type)
        except InvalidAddress as error:
            raise InvalidDefinition(error.message, type=self.type) from error
        if not inspect.iscoroutinefunction(self.handler):
            raise self._wrong(
                f"the handler must be `async def handler(ctx, wake)`, not {self.handler!r}"
            )
        if self.idle_timeout < timedelta(0):
            raise self._wrong(f"idle_timeout={self.idle_timeout!r} must not be negative")
        if not isinstance(self.budget, Budget):  # pyright: ignore[reportUnnecessaryIsInstance] - no
            raise self._wrong(f"budget={self.budget!r} is not a Budget")  # type checker, perhaps
        schemas = {"creation_schema": self.creation_schema} if self.creation_schema else {}
        models: dict[str, Any] = {**schemas, **self.inbox_schemas, **self.state}
        for name, model in models.items():
            if not (inspect.isclass(model) and issubclass(model, BaseModel)):
                raise self._wrong(f"{name!r} must be a pydantic model, not {model!r}")
        self._check_actions()
        for name, model in self.state.items():
            if name in RESERVED_COLLECTIONS or not name.isidentifier() or name.startswith("_"):
                raise self._wrong(
                    f"a collection cannot be named {name!r}: it is reserved or no Python identifier"
                )
            if "key" not in model.model_fields:
                raise self._wrong(
                    f"collection {name!r}: {model.__name__} needs a field `key: str`, its key"
                )

    def _check_actions(self) -> None:
        for name, action in self.actions.items():
            if not name.isidentifier() or name.startswith("_"):
                raise self._wrong(f"an action cannot be named {name!r}: no Python identifier")
            if not callable(action) or inspect.iscoroutinefunction(action):
                raise self._wrong(f"action {name!r} must be a function `def {name}(state, …)`")

    def _wrong(self, what: str) -> InvalidDefinition:
        return InvalidDefinition(f"definition of {self.type!r}: {what}", type=self.type)


class Registry:
    """Definitions by type, as an app declares them."""

    def __init__(self) -> None:
        self._definitions: dict[str, Definition] = {}

    def define(self, type_name: str, definition: Definition | None = None, **options: Any) -> None:
        """Add a definition, whole or as keyword arguments of :class:`Definition`.

        A function of the same name takes the place of the earlier one, as when a cell of a
        notebook is run again.

        Raises:
            InvalidDefinition: it cannot work, or two different functions handle one type.
        """
        built = definition or Definition(type=type_name, **options)
        if built.type != type_name:
            message = f"the definition of {built.type!r} cannot be added as {type_name!r}"
            raise InvalidDefinition(message, type=type_name)
        known = self._definitions.get(type_name)
        if known is not None and _name_of(known.handler) != _name_of(built.handler):
            message = (
                f"{type_name!r} is defined twice, with handlers {_name_of(known.handler)} and "
                f"{_name_of(built.handler)}; give one of them another type"
            )
            raise InvalidDefinition(message, type=type_name)
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


def _name_of(handler: Handler) -> str:
    return f"{handler.__module__}.{getattr(handler, '__qualname__', repr(handler))}"
