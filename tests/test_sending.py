"""What a handler sends: under which ids."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray_agents.address import Address
from ray_agents.effects import Effects
from ray_agents.modes import Mode
from ray_agents.origin import Cause, EntityForked
from ray_agents.projection import State
from ray_agents.sending import Sending

RESTORED = EntityForked(
    key="import-1",
    cause=Cause.IMPORT,
    source="/a/b",
    offset=3,
    life=0,
    parent=None,
    created=0,
    woken=True,
    timestamp=0,
)


def sent_by(state: State) -> str:
    sender: Any = SimpleNamespace(
        address=Address.parse("/a/b"), state=state, effects=Effects("wake-9", {}, {})
    )
    sending = Sending(sender, wake_key="wake-9")
    return sending.send("/c/d", "hi", message_type="message", after=None, mode=Mode.QUEUED)


def test_a_restored_entity_sends_under_other_ids_than_it_has_sent_under_before() -> None:
    assert sent_by(State()) == sent_by(State())
    assert sent_by(State()) != sent_by(State(origin=RESTORED))
