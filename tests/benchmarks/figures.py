"""A figure, its bar, and how they are printed: nothing is hidden, nothing is rounded into a bar."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value; ``bar`` is what it is to reach, ``aim`` what would be nicer still."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    aim: float | None = None
    higher_is_better: bool = False
    note: str = ""

    @property
    def times_worse(self) -> float:
        """How far from the bar: 1 is just met, 2 twice as bad, 0.5 twice as good."""
        if self.bar is None:
            return 0.0
        worse, better = (self.bar, self.value) if self.higher_is_better else (self.value, self.bar)
        if better > 0:
            return worse / better
        return 1.0 if worse <= better else math.inf

    @property
    def verdict(self) -> str:
        """Met, or missed by how much; empty without a bar."""
        if self.bar is None:
            return ""
        word = "met" if self.times_worse <= 1 else "MISSED"
        return f"{word} ({self.times_worse:.2f} of the bar)"

    def __str__(self) -> str:
        bar = "" if self.bar is None else f"bar {self.bar:.6g} {self.unit}"
        aim = "" if self.aim is None else f"aim {self.aim:.6g} {self.unit}"
        value = f"{self.value:>10.4g} {self.unit:<10}"
        words = "  ".join(part for part in (bar, self.verdict, aim, self.note) if part)
        return f"{self.name:<50} {value} {words}".rstrip()


@dataclass(slots=True)
class Printout:
    """The figures of one run, printed as they come."""

    figures: list[Figure] = field(default_factory=list[Figure])

    def head(self, title: str) -> None:
        """Begin a section; the load tells how much else the machine had to do."""
        load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
        print(f"\n-- {title} (load {load})", flush=True)

    def add(self, figure: Figure) -> None:
        """Print a figure and keep it."""
        self.figures.append(figure)
        print(figure, flush=True)

    @property
    def missed(self) -> list[Figure]:
        """The figures that do not reach their bar."""
        return [figure for figure in self.figures if figure.times_worse > 1]

    def end(self) -> None:
        """Say how many bars were met, and which were not."""
        barred = [figure for figure in self.figures if figure.bar is not None]
        print(f"\n{len(barred) - len(self.missed)} of {len(barred)} bars met")
        for figure in self.missed:
            print(f"missed: {figure.name}: {figure.verdict}")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie (nearest rank)."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def median(values: Sequence[float]) -> float:
    """The value in the middle."""
    return statistics.median(values)
