"""Effects of a handler: staged, committed together, and answered from the log when repeated.

A handler's writes, sends and spawns do not happen one by one. Each is *staged*, and what is staged
becomes one append at the next commit point: a completed step, a tool's result, ``ctx.commit()``,
the end of the handler. A crash before it: nothing happened.

Every effect has an identity within its wake: the *scope* it was made in (the handler, ``""``, or a
tool call) and its ordinal there. When a wake runs again after a crash, an effect it had already
committed is recognised by that identity and only repeated in the handler's view of the state. If
its digest differs, the handler did something else this time, which no log can reconcile: the wake
is parked as nondeterministic.

The effects of a wake that was parked are in the state that later wakes have seen and changed. When
it is retried, they are neither shown again nor compared by content, which may follow from that
newer state; only their kind and target must be the same.

A tool may be a plain function in a thread: whatever it does here is done on the event loop. Once
its call is over (it ran out of time, say, and its thread runs on) nothing more is taken from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TypeVar

from ray_agents.errors import Fenced, NondeterministicWake
from ray_agents.events import JSON, WAKE_HEADER, Draft, Event, Operation, digest_of
from ray_agents.loopside import on_loop, running_loop
from ray_agents.projection import (
    DIGEST_HEADER,
    ORDINAL_HEADER,
    SCOPE_HEADER,
    Committed,
    EffectId,
    is_row_type,
)

T = TypeVar("T")
HANDLER_SCOPE = ""
DIGEST_PARTS = "."  # stands between the digest of what an effect does to whom, and of its content
_scope: ContextVar[str] = ContextVar("ray_agents_effect_scope", default=HANDLER_SCOPE)


class Effects:
    """What one attempt at one wake has done so far, and what earlier attempts had committed."""

    def __init__(
        self,
        wake_key: str,
        committed: Mapping[EffectId, Committed],
        rows: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._wake_key = wake_key
        self._committed = committed
        self._rows = rows
        self._seen: Counter[str] = Counter()
        self._held: set[str] = set()
        self._over: set[str] = set()
        self._loop = running_loop()
        self._staged: list[tuple[str, Draft]] = []
        self._departures = 0
        self._shown: list[tuple[str, Draft | Event]] = []
        self._overlay: dict[str, dict[str, str | None]] = {}

    def on_loop(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, done where this belongs, whatever thread asks for it."""
        return on_loop(self._loop, work)

    def stage(self, kind: str, target: str, *, content: JSON, drafts: Sequence[Draft]) -> bool:
        """Stage one effect; ``content`` is what makes it the same when repeated.

        Returns:
            Whether it is new; False if the log already has it.

        Raises:
            NondeterministicWake: an earlier attempt committed another effect in this place.
            Fenced: the tool call that does it is over.
        """
        return self.on_loop(lambda: self._stage(kind, target, content, drafts))

    def _stage(self, kind: str, target: str, content: JSON, drafts: Sequence[Draft]) -> bool:
        scope = _scope.get()
        if scope in self._over:
            message = f"tool call {scope!r} is over; what it still does is not recorded"
            raise Fenced(message, wake=self._wake_key)
        ordinal = self._seen[scope]
        self._seen[scope] += 1
        digest = f"{digest_of([kind, target])}{DIGEST_PARTS}{digest_of(content)}"
        earlier = self._committed.get((scope, ordinal))
        if earlier is not None:
            self._check_same(earlier, digest, f"{kind} {target!r}")
            self._repeat(earlier, scope)
            return False
        headers = self._headers(scope) | {ORDINAL_HEADER: str(ordinal), DIGEST_HEADER: digest}
        marked = [replace(draft, headers={**draft.headers, **headers}) for draft in drafts]
        self._staged.extend((scope, draft) for draft in marked)
        self._show(marked, scope)
        return True

    def row(self, type_name: str, key: str) -> str | None:
        """The JSON text of a row as this attempt sees it; None if there is none."""
        return self.on_loop(lambda: self._row(type_name, key))

    def _row(self, type_name: str, key: str) -> str | None:
        shown = self._overlay.get(type_name, {})
        if key in shown:
            return shown[key]
        return self._rows.get(type_name, {}).get(key)

    def rows(self, type_name: str) -> dict[str, str]:
        """All rows of a type as this attempt sees them."""
        return self.on_loop(lambda: self._rows_now(type_name))

    def _rows_now(self, type_name: str) -> dict[str, str]:
        merged: dict[str, str] = dict(self._rows.get(type_name, {}))
        for key, text in self._overlay.get(type_name, {}).items():
            if text is None:
                merged.pop(key, None)
            else:
                merged[key] = text
        return merged

    @property
    def ready(self) -> list[Draft]:
        """Everything staged that may be committed now: all but what waits for a tool's result."""
        return [draft for scope, draft in self._staged if scope not in self._held]

    def staged_from(self, start: int) -> list[Draft]:
        """What is staged, from that place on, what waits for a tool's result included."""
        return [draft for _, draft in self._staged[start:]]

    @property
    def departures(self) -> int:
        """How often something has left what is staged; in between it only grows at its end."""
        return self._departures

    def take(self) -> list[Draft]:
        """What is ready, which is no longer staged: it has been handed to the log."""
        ready = self.ready
        self._staged = [(scope, draft) for scope, draft in self._staged if scope in self._held]
        self._departures += 1
        return ready

    def mark(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Rows of this wake that are not effects (runs, steps, texts), marked as its own."""
        headers = {WAKE_HEADER: self._wake_key}
        return [replace(draft, headers={**draft.headers, **headers}) for draft in drafts]

    def next_ordinal(self) -> int:
        """The ordinal the next effect of the current scope will have."""
        return self._seen[_scope.get()]

    def repeats(self) -> bool:
        """Whether the next effect of the current scope is one that an earlier attempt committed."""
        return (_scope.get(), self.next_ordinal()) in self._committed

    @property
    def scope(self) -> str:
        """The scope effects belong to now."""
        return _scope.get()

    def adopt(self, scopes: Collection[str], *, inside: tuple[str, ...] = ()) -> None:
        """Take over what ``scopes`` had committed, in that order; they will not be run again.

        Those that begin with one of ``inside`` are taken over, too.
        """
        taken = [
            each
            for each in self._committed.items()
            if each[0][0] in scopes or each[0][0].startswith(inside)
        ]
        for (scope, ordinal), committed in sorted(taken, key=lambda each: each[1].first_offset):
            self._seen[scope] = max(self._seen[scope], ordinal + 1)
            self._repeat(committed, scope)

    @contextmanager
    def within(self, scope: str) -> Generator[None]:
        """Effects staged inside belong to ``scope`` and are held back until its :meth:`release`.

        Afterwards no more are taken of it.
        """
        token = _scope.set(scope)
        self._held.add(scope)
        try:
            yield
        finally:
            _scope.reset(token)
            self._over.add(scope)

    def release(self, scope: str) -> None:
        """Let what ``scope`` staged go with the next commit, which holds its result.

        One that has its result before it has ended was left behind, and nothing of it counts.
        """
        if scope in self._held and scope not in self._over:
            self.drop(scope)
            self._over.add(scope)
        self._held.discard(scope)

    def drop(self, scope: str) -> None:
        """Forget what ``scope`` staged and did not commit: nobody sees it any more either."""
        gone = {id(draft) for owner, draft in self._staged if owner == scope}
        self._staged = [each for each in self._staged if id(each[1]) not in gone]
        self._departures += 1
        shown = [each for each in self._shown if id(each[1]) not in gone]
        self._shown, self._overlay = [], {}
        for owner, row in shown:
            self._show([row], owner)

    def _headers(self, scope: str) -> dict[str, str]:
        return {WAKE_HEADER: self._wake_key, SCOPE_HEADER: scope}

    def _check_same(self, earlier: Committed, digest: str, what: str) -> None:
        if earlier.shown:
            same = earlier.digest.partition(DIGEST_PARTS)[0] == digest.partition(DIGEST_PARTS)[0]
        else:
            same = earlier.digest == digest
        if not same:
            message = (
                f"wake {self._wake_key!r} ran again and did something else: {what} stands where "
                "an earlier attempt had committed another effect; a handler must repeat its "
                "effects in the same order with the same content (keep time and randomness out, "
                "or commit them to state first)"
            )
            raise NondeterministicWake(message, wake=self._wake_key)

    def _repeat(self, committed: Committed, scope: str) -> None:
        if not committed.shown:
            self._show(committed.events, scope)

    def _show(self, rows: Sequence[Draft | Event], scope: str) -> None:
        for row in rows:
            self._shown.append((scope, row))
            if is_row_type(row.type):
                gone = row.operation is Operation.DELETE
                self._overlay.setdefault(row.type, {})[row.key] = None if gone else row.text
