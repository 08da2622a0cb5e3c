"""What a handler sends and spawns: requests, staged as effects that leave through the outbox.

A message's id follows from the place in its wake where it was sent, so a wake that runs again sends
the same one, and a spawn's id is that of its outbox row.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

from ray_agents.address import Address
from ray_agents.budgets import Budget
from ray_agents.effects import Effects
from ray_agents.errors import EntityExists
from ray_agents.events import JSON, Draft, EffectStaged, OutboxKind, decode, digest_of, encode
from ray_agents.modes import Mode
from ray_agents.projection import CHILD_KEY_PREFIX, MANIFEST_TYPE, State
from ray_agents.requests import (
    MESSAGE_ID_LENGTH_MAX,
    SendRequest,
    SpawnRequest,
    checked,
    message_of,
    seconds_of,
    share_of,
)
from ray_agents.shares import SHARE


class Sender(Protocol):
    """What this needs of a session (``context.Session``)."""

    address: Address
    state: State
    effects: Effects

    def check_spawn(self, address: Address, request: SpawnRequest) -> None:
        """Raise UnknownType, InvalidPayload or OverBudget if no such entity can be spawned."""
        ...


class Sending:
    """The sends and spawns of one attempt at one wake."""

    def __init__(self, sender: Sender, *, wake_key: str) -> None:
        self._sender = sender
        self._wake_key = wake_key

    @property
    def children(self) -> list[str]:
        """Who was spawned, as this attempt sees it."""
        rows = self._sender.effects.rows(MANIFEST_TYPE)
        return [
            key.removeprefix(CHILD_KEY_PREFIX) for key in rows if key.startswith(CHILD_KEY_PREFIX)
        ]

    def send(
        self,
        address: str,
        payload: JSON,
        *,
        message_type: str,
        after: timedelta | None,
        mode: Mode | str,
    ) -> str:
        """Stage a message; its id. Raises as ``Context.send``."""
        target = Address.parse(address)
        request = message_of(
            _plain(payload, f"the message to {address!r}"),
            type=message_type,
            from_=str(self._sender.address),
            after_seconds=seconds_of(after),
            mode=mode,
        )
        return self._stage(OutboxKind.SEND, target, request)

    def spawn(
        self,
        target: Address,
        *,
        args: Mapping[str, JSON] | None,
        initial_message: JSON,
        tags: Mapping[str, str] | None,
        budget: Budget | None,
    ) -> None:
        """Stage a spawn. Raises as ``Context.spawn``."""
        own, effects = str(self._sender.address), self._sender.effects
        plain = _plain([args or {}, initial_message], f"the spawn of {str(target)!r}")
        message = None if plain[1] is None else SendRequest(payload=plain[1], from_=own)
        facts = {"args": plain[0], "tags": dict(tags or {}), "parent": own}
        request = checked(SpawnRequest, facts | {"message": message, "budget": share_of(budget)})
        self._sender.check_spawn(target, request)
        known = effects.row(MANIFEST_TYPE, f"{CHILD_KEY_PREFIX}{target}")
        if known is not None and not effects.repeats():
            message_text = f"{own} has already spawned {str(target)!r}; send to it instead"
            raise EntityExists(message_text, address=str(target))
        self._stage(OutboxKind.SPAWN, target, request)

    def _stage(self, kind: OutboxKind, target: Address, request: SendRequest | SpawnRequest) -> str:
        own, effects = self._sender.address, self._sender.effects
        place = f"{self._wake_key}:{effects.scope}:{effects.next_ordinal()}"
        message_id = f"{own}#{self._sender.state.incarnation}:{place}"
        if len(message_id) > MESSAGE_ID_LENGTH_MAX:
            message_id = f"{own}#{self._sender.state.incarnation}:{digest_of(place)}"
        body = request.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        staged = EffectStaged(key=message_id, kind=kind, target=str(target), body=body)
        drafts = [staged.draft({})]
        if kind is OutboxKind.SPAWN:
            drafts.append(_child(target, body))
        # A share may follow from what is left, which another attempt finds smaller.
        content = {name: value for name, value in body.items() if name != "budget"}
        effects.stage(kind.value, str(target), content=content, drafts=drafts)
        return message_id


def _child(target: Address, body: Mapping[str, Any]) -> Draft:
    """The child's row in ``manifests``, with the share it was given."""
    child = {
        "kind": "child",
        "id": target.id,
        "entity_type": target.type,
        "entity_url": str(target),
        "observed": False,
    }
    share = {SHARE: body["budget"]} if "budget" in body else {}
    return Draft.of(MANIFEST_TYPE, f"{CHILD_KEY_PREFIX}{target}", value=child | share)


def _plain(value: JSON, what: str) -> JSON:
    """``value`` as the receiver will read it, models and dates turned into JSON values.

    Raises:
        InvalidPayload: it cannot be written as JSON.
    """
    return decode(encode(value, what))
