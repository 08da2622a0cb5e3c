"""Ray as values of type Any: its own annotations are partial, so strictness ends at this edge.

Each function imports late, because ``import ray`` costs 0.6 CPU-seconds and Serve 3.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")


def import_ray() -> Any:
    """The module ``ray``."""
    return import_module("ray")


def import_serve() -> Any:
    """The module ``ray.serve``."""
    return import_module("ray.serve")


def as_actor(**options: Any) -> Callable[[type[T]], type[T]]:
    """A decorator that makes an actor's class, as ``ray.remote`` does."""
    return import_ray().remote(**options) if options else import_ray().remote


def in_group(name: str) -> Callable[[T], T]:
    """A decorator that puts an actor's method into a concurrency group."""
    return import_ray().method(concurrency_group=name)


def gone_errors() -> tuple[type[Exception], ...]:
    """What Ray raises of an actor that has died and is not restarted."""
    exceptions = import_module("ray.exceptions")
    return (exceptions.ActorDiedError, exceptions.ActorHandleNotFoundError)


def ray_errors() -> tuple[type[Exception], ...]:
    """What Ray raises when it is not there, not ready, or not willing."""
    ray_error: type[Exception] = import_module("ray.exceptions").RayError
    return (ray_error, ConnectionError, RuntimeError, TimeoutError, ValueError)
