"""Ray as values of type Any: its own annotations are partial, so strictness ends at this edge.

Each function imports late, because ``import ray`` costs 0.6 CPU-seconds and Serve 3.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_ray() -> Any:
    """The module ``ray``."""
    return import_module("ray")


def import_serve() -> Any:
    """The module ``ray.serve``."""
    return import_module("ray.serve")


def ray_errors() -> tuple[type[Exception], ...]:
    """What Ray raises when it is not there, not ready, or not willing."""
    ray_error: type[Exception] = import_module("ray.exceptions").RayError
    return (ray_error, ConnectionError, RuntimeError, TimeoutError, ValueError)
