"""Tools that need the context: bound to the one of the wake that runs, before its agent does.

Three ways lead there: a tool whose parameter is annotated ``Context``; a *factory*, a function of
the context alone that makes a tool or a list of them; or a tool made inside the handler, which is
bound by what it closes over.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

from ray_agents.injected import Injected
from ray_agents.tools import Tool

FACTORY_PARAMETER = "ctx"


def bound(tools: Iterable[Any], ctx: Injected) -> list[Any]:
    """The tools as they are for one wake, factories replaced by what they make.

    What is neither is left as it is, for :class:`ray_agents.agent.AgentConfig` to refuse.
    """
    found: list[Any] = []
    for each in tools:
        if isinstance(each, Tool):
            found.append(each.given(ctx))
        elif is_factory(each, type(ctx).__name__):
            made = each(ctx)
            several = isinstance(made, list | tuple)
            found += bound(cast("Iterable[Any]", made) if several else [made], ctx)
        else:
            found.append(each)
    return found


def is_factory(value: object, context_name: str = "Context") -> bool:
    """Whether it is a function of the context alone: of one parameter named ``ctx``, or typed so.

    So a function that somebody forgot to decorate is not taken for one.
    """
    if not callable(value) or isinstance(value, type):
        return False
    function = cast("Callable[..., Any]", value)
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 1 or inspect.iscoroutinefunction(function):
        return False
    (only,) = parameters
    hint = only.annotation if isinstance(only.annotation, str) else _name_of(only.annotation)
    return only.name == FACTORY_PARAMETER or hint.rpartition(".")[2] == context_name


def _name_of(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else ""
