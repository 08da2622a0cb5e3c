"""What a tool may be given besides the arguments that its model sends, by annotation.

A parameter annotated with such a class is not in the tool's schema: the model knows nothing of it.
"""

from __future__ import annotations

from typing import Any


class Injected:
    """Base of the classes that a tool's parameter may ask for: the context, a progress handle."""


def asked_by(hint: Any) -> type[Injected] | None:
    """The class that a parameter of that annotation asks for; None if the model fills it in."""
    return hint if isinstance(hint, type) and issubclass(hint, Injected) else None
