"""What the log says of a target that is out of reach: when it is tried next."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self

from ray_agents.events import Draft, Event, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryDeferred:
    """A target could not be reached: what stands in the outbox for it is tried at ``retry_at``.

    ``tries`` counts how often that was so in a row; ``error`` is what was said the last time.
    """

    target: str
    retry_at: int
    tries: int
    error: str

    TYPE = "outbox_deferred"

    def draft(self) -> Draft:
        """The row to append."""
        return Draft.of(self.TYPE, self.target, value=asdict(self), operation=Operation.UPSERT)

    def ended(self) -> Draft:
        """The row that says that the target can be reached, or has nothing to wait for."""
        return Draft.of(self.TYPE, self.target, operation=Operation.DELETE)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        return cls(**event.value)
