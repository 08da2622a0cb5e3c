"""Definitions: what cannot work is refused when it is declared, by name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.definition import Definition, Limits, Packed, Registry, Resources
from ray_agents.errors import InvalidDefinition, UnknownType


class Note(BaseModel):
    key: str


class NoKey(BaseModel):
    id: str


async def handler(ctx: Any, wake: Any) -> None: ...


async def another(ctx: Any, wake: Any) -> None: ...


def not_async(ctx: Any, wake: Any) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "Notes"}, "'Notes' cannot be an entity type"),
        ({"type": ""}, "cannot be an entity type"),
        ({"handler": not_async}, "async def handler"),
        ({"handler": "handler"}, "async def handler"),
        ({"state": {"runs": Note}}, "'runs': it is reserved"),
        ({"state": {"_x": Note}}, "'_x'"),
        ({"state": {"a-b": Note}}, "'a-b'"),
        ({"state": {"notes": NoKey}}, "NoKey needs a field `key: str`"),
        ({"state": {"notes": dict}}, "must be a pydantic model"),
        ({"creation_schema": 1}, "'creation_schema' must be a pydantic model"),
        ({"inbox_schemas": {"order": "Order"}}, "'order' must be a pydantic model"),
        ({"actions": {"_add": print}}, "an action cannot be named '_add'"),
        ({"actions": {"add": handler}}, "action 'add' must be a function"),
        ({"actions": {"add": "add"}}, "action 'add' must be a function"),
        ({"idle_timeout": timedelta(seconds=-1)}, "idle_timeout"),
    ],
)
def test_a_definition_that_cannot_work_is_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidDefinition, match=message):
        Definition(**({"type": "notes", "handler": handler} | options))


@pytest.mark.parametrize(
    "limits",
    [
        {"attempts_max": 0},
        {"backlog_max": 0},
        {"message_bytes_max": -1},
        {"retry_delay": timedelta(seconds=-1)},
        {"retry_delay_max": timedelta(seconds=-1)},
        {"handler_time_max": timedelta(0)},
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(limits: Any) -> None:
    with pytest.raises(InvalidDefinition, match=next(iter(limits))):
        Limits(**limits)


@pytest.mark.parametrize("hosts", [0, -1, 65])
def test_packed_has_bounds(hosts: int) -> None:
    with pytest.raises(InvalidDefinition, match="from 1 to 64"):
        Packed(hosts=hosts)


def test_resources_print_what_they_want() -> None:
    wants = Resources(num_gpus=1, custom={"tpu": 2})
    assert str(wants) == "num_gpus=1, tpu=2"
    assert not Resources()


def test_a_registry_knows_its_types() -> None:
    registry = Registry()
    registry.entity("a")(handler)
    registry.define("b", handler=handler)
    assert [definition.type for definition in registry] == ["a", "b"]
    assert registry.get("a").handler is handler
    with pytest.raises(UnknownType, match="known types: a, b"):
        registry.get("c")


def test_a_type_has_one_handler_but_a_cell_may_run_again() -> None:
    registry = Registry()
    registry.define("a", handler=handler)
    registry.define("a", handler=handler, description="again")
    assert registry.get("a").description == "again"
    with pytest.raises(InvalidDefinition, match="defined twice"):
        registry.define("a", handler=another)
    with pytest.raises(InvalidDefinition, match="cannot be added as 'b'"):
        registry.define("b", Definition(type="c", handler=handler))
