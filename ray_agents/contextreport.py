"""What a model was asked with, in figures: tokens by source, and how many a cache could give.

Each completed step carries its report in its row, under ``context``. It is made of estimates, and
scaled to what the provider says the whole prompt was as soon as that is known, which costs no call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from ray_agents.model import Usage

CountedBy = Literal["estimate", "provider"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextReport:
    """The prompt of one step, in tokens.

    ``sources`` holds each source's tokens by name: those of ``ctx.use_context``, and beside them
    ``tools``, ``system_prompt``, ``context_entries``, and what the transcript says: ``timeline``,
    or with ``use_context`` only the run's own part, ``run``. ``left_out`` holds the tokens that a
    source's bound has cut. ``cacheable`` counts those before the last place that the request before
    this one has marked, too, or would have: what the provider's cache may give. ``counted`` says
    whether the whole is the provider's count, by which the parts were scaled, or an estimate;
    ``estimate`` is what the whole was taken for before that.
    """

    sources: Mapping[str, int] = field(default_factory=dict[str, int])
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])
    cacheable: int = 0
    counted: CountedBy = "estimate"
    estimate: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the whole prompt."""
        return sum(self.sources.values())

    @property
    def cacheable_share(self) -> float:
        """The part of the prompt that the provider's cache may give, from 0 to 1."""
        return self.cacheable / self.tokens if self.tokens else 0.0

    def scaled(self, usage: Usage) -> Self:
        """The same, its parts in proportion to the prompt that ``usage`` counts, if it does."""
        whole = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        if not whole or not self.tokens:
            return self
        ratio = whole / self.tokens
        return type(self)(
            sources=_shares(self.sources, whole),
            left_out={name: round(count * ratio) for name, count in self.left_out.items()},
            cacheable=min(whole, round(self.cacheable * ratio)),
            counted="provider",
            estimate=self.estimate,
        )

    def as_row(self) -> dict[str, Any]:
        """The report as a step's row carries it; :meth:`of` reads it back."""
        row: dict[str, Any] = {
            "sources": {name: count for name, count in self.sources.items() if count},
            "cacheable": self.cacheable,
            "counted": self.counted,
            "estimate": self.estimate,
        }
        return row | {"left_out": dict(self.left_out)} if self.left_out else row

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The report in a step's row."""
        return cls(
            sources=row["sources"],
            left_out=row.get("left_out") or {},
            cacheable=row["cacheable"],
            counted=row["counted"],
            estimate=row["estimate"],
        )


def _shares(parts: Mapping[str, int], whole: int) -> dict[str, int]:
    """``parts`` in proportion, as whole numbers that sum to ``whole``."""
    total, before, given = sum(parts.values()), 0, 0
    shares: dict[str, int] = {}
    for name, count in parts.items():
        before += count
        until = before * whole // total
        shares[name], given = until - given, until
    return shares
