"""A number for every model, or others for some: ``100, claude-opus-5=20``, as a setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class PerModel:
    """``named`` numbers by the name that its provider gives a model, ``rest`` for all others.

    None is no limit.
    """

    rest: int | None = None
    named: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``100``, ``100,claude-opus-5=20`` or ``claude-opus-5=20,gpt-5.5=50``.

        Raises:
            ValueError: it is none of these, a number is not at least 1, or a model stands there
                twice.
        """
        rest: int | None = None
        named: dict[str, int] = {}
        for part in text.split(","):
            name, is_named, number = part.rpartition("=")
            value = _number(number)
            model = name.strip()
            if model in named:
                raise ValueError(f"{model!r} stands there twice; write one number for each model")
            if is_named and model:
                named[model] = value
            elif rest is None and not is_named:
                rest = value
            else:
                raise ValueError(_HOW)
        return cls(rest, named)

    def of(self, model: str) -> int | None:
        """The number for a model."""
        return self.named.get(model, self.rest)

    def __str__(self) -> str:
        rest = [] if self.rest is None else [str(self.rest)]
        return ",".join([*rest, *(f"{name}={number}" for name, number in self.named.items())])

    def __hash__(self) -> int:
        return hash(str(self))


_HOW = "write a whole number from 1 on, or more of them for some models: 100,claude-opus-5=20"


def _number(text: str) -> int:
    try:
        number = int(text.replace("_", ""))
    except ValueError:
        raise ValueError(_HOW) from None
    if number < 1:
        raise ValueError(_HOW)
    return number
