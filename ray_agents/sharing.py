"""One model's limit, shared between hosts: who may have how many calls in flight.

A call asks nobody but its own host, which has a *share*: so many calls at once. Hosts report what
they do and get their shares with the answer, twenty times a second while calls wait, twice
otherwise. :class:`Sharing` is the centre's side; a host by itself has one of its own.

Theory of operation. A share is one *for each entity* that has calls, as far as they go
(:func:`divide`); what nobody wants is handed out in part, so that the next call need not ask. A
host *holds* what it may have in flight at most: what it has, what it had been told, and what it is
told now; it holds less only after it has reported that it knows. No share is given that others
hold, so the sum stays within the limit whenever the limit has not just fallen. What a host holds
that does not report any more is free again after :data:`LEASE`.

All of this may be lost. Reports carry what is known of the limit, and a centre that begins anew
starts with that; for :data:`SETTLING` it gives nobody more than it has, until all have reported.

Budgets by the minute are handed out as a number of calls that may be sent until the next answer,
and what was not used is reported back. Tokens are counted by an average of what calls have used,
and corrected by what they did use. What is on the way when a host or the centre dies is lost: a
minute may then bring less than is allowed, never more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from ray_agents.pacing import Allowance, Bucket, Level, Limit

BUSY_EVERY = timedelta(milliseconds=50)
QUIET_EVERY = timedelta(milliseconds=500)
REPORTS_PER_SECOND_MAX = 400  # of all hosts together
LEASE = timedelta(seconds=5)
SETTLING = timedelta(seconds=2)
SPARE_SHARE = 0.5  # of what nobody wants
TOKENS_GUESSED = 4_000  # of a call, before any has ended
AVERAGE_OVER = 20  # calls
MODELS_MAX = 1_000


class ModelKey(NamedTuple):
    """What has a limit of its own: a model of a provider, for one key (its digest)."""

    provider: str
    base_url: str
    model: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A call of a round was refused; the server asked for a pause in seconds, or not."""

    round: int
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a host does with one model.

    ``share`` is what it has been told it may have in flight; ``entities`` have calls, of which the
    oldest waits for ``waited`` seconds. Since the last report: ``accepted`` calls were taken by the
    server, by the round they were sent in; ``ended`` calls have used ``tokens``, for which
    ``tokens_granted`` had been set aside, and ``starts_back`` (with ``tokens_back``) were not used.
    ``level`` is what the host was last told. ``leaving`` says that it has had no calls for a while,
    and gives its share back.
    """

    in_flight: int = 0
    waiting: int = 0
    waited: float = 0.0
    entities: int = 0
    share: int = 0
    accepted: Mapping[int, int] = field(default_factory=dict[int, int])
    refused: Sequence[Refused] = ()
    ended: int = 0
    tokens: int = 0
    tokens_granted: int = 0
    starts_back: int = 0
    tokens_back: int = 0
    level: Level | None = None
    leaving: bool = False

    @property
    def wanted(self) -> int:
        """Calls that are in flight or wait."""
        return self.in_flight + self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a host may do with one model until it reports again.

    At most ``calls`` in flight, none for ``pause`` seconds, and no more than ``starts`` sent, for
    each of which ``tokens_each`` are set aside (None: as many as it likes). ``again`` is when to
    report, in seconds. ``hosts`` have calls of this model.
    """

    calls: int
    round: int
    level: Level
    pause: float = 0.0
    starts: int | None = None
    tokens_each: int = 0
    again: float = QUIET_EVERY.total_seconds()
    hosts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """So many calls of so many entities; ``order`` decides who gets what cannot be parted."""

    calls: int
    entities: int
    order: float = 0.0


def divide(calls: int, wants: Sequence[Want]) -> list[int]:
    """So many calls in proportion to the entities of each, and to none more than it wants.

    What is left over by rounding goes by one to those who got nothing, the least ``order`` first,
    then to the others.
    """
    given = [0] * len(wants)
    left: int = min(calls, sum(want.calls for want in wants))
    open_: list[int] = [index for index, want in enumerate(wants) if want.calls]
    while left and open_:
        each = left / sum(max(wants[index].entities, 1) for index in open_)
        parts = {index: int(each * max(wants[index].entities, 1)) for index in open_}
        full = [index for index in open_ if given[index] + parts[index] >= wants[index].calls]
        if not full:
            for index in open_:
                given[index] += parts[index]
            return _rounded(left - sum(parts.values()), given, wants)
        for index in full:
            left -= wants[index].calls - given[index]
            given[index] = wants[index].calls
        open_ = [index for index in open_ if index not in full]
    return given


def _rounded(left: int, given: list[int], wants: Sequence[Want]) -> list[int]:
    unmet = [index for index, want in enumerate(wants) if given[index] < want.calls]
    unmet.sort(key=lambda index: (given[index] > 0, 0 if given[index] else wants[index].order))
    for index in unmet[:left]:
        given[index] += 1
    return given


@dataclass(slots=True, kw_only=True)
class _Host:
    """A host at the centre: its last report, and what it holds."""

    report: Report
    held: int
    seen_at: float
    served_at: float


class ModelSharing:
    """One model's limit and its hosts, at the centre."""

    def __init__(self, allowance: Allowance, *, now: float, level: Level | None = None) -> None:
        self._allowance = allowance
        most = allowance.calls_max
        self._settled_at = -math.inf
        if level is None:
            self.limit = Limit(start=allowance.calls_start, most=most, now=now)
        else:
            self.limit = Limit.at(level, start=allowance.calls_start, most=most, now=now)
            self._settled_at = now + SETTLING.total_seconds()
        self._hosts: dict[str, _Host] = {}
        anew = level is None  # else somebody has used of this minute's worth before
        self._requests = _bucket(allowance.requests_per_minute, now, full=anew)
        self._tokens = _bucket(allowance.tokens_per_minute, now, full=anew)
        self._tokens_each = float(TOKENS_GUESSED)

    @property
    def held(self) -> int:
        """What all hosts together may have in flight."""
        return sum(each.held for each in self._hosts.values())

    @property
    def wanted(self) -> int:
        """Calls in flight or waiting, on all hosts."""
        return sum(each.report.wanted for each in self._hosts.values())

    def report(self, name: str, report: Report, *, now: float) -> Share:
        """Take a report in; what the host may do now."""
        self._expire(now)
        host = self._enter(name, report, now)
        self._learn(report, now)
        self._settle_tokens(report, now)
        self.limit.open(now, wanted=self.wanted)
        calls = self._calls_for(name, host, now)
        host.held = max(report.in_flight, report.share, calls)
        if report.leaving:
            del self._hosts[name]
            calls = 0
        return Share(
            calls=calls,
            round=self.limit.round,
            level=self.limit.level,
            pause=max(0.0, self.limit.paused_until - now),
            starts=self._starts_for(report, now),
            tokens_each=int(self._tokens_each),
            again=self._again(),
            hosts=max(1, len(self._hosts)),
        )

    def _expire(self, now: float) -> None:
        lease = LEASE.total_seconds() + 2 * self._again()
        for name in [n for n, each in self._hosts.items() if each.seen_at + lease < now]:
            del self._hosts[name]

    def _enter(self, name: str, report: Report, now: float) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = _Host(report=report, held=0, seen_at=now, served_at=-math.inf)
            self._hosts[name] = host
        if report.accepted:
            host.served_at = now
        host.report, host.seen_at = report, now
        host.held = max(report.in_flight, report.share)
        return host

    def _learn(self, report: Report, now: float) -> None:
        wanted = self.wanted
        for refused in report.refused:
            self.limit.refused(
                round=refused.round,
                in_flight=self._in_flight,
                now=now,
                retry_after=refused.retry_after,
            )
        for number, count in report.accepted.items():
            self.limit.accepted(count, round=number, now=now, wanted=wanted)

    @property
    def _in_flight(self) -> int:
        """As far as is known: who has calls waiting uses what it holds."""
        return sum(
            each.held if each.report.waiting and not each.report.refused else each.report.in_flight
            for each in self._hosts.values()
        )

    def _calls_for(self, name: str, host: _Host, now: float) -> int:
        names = list(self._hosts)
        wants = [
            Want(calls=each.report.wanted, entities=each.report.entities, order=each.served_at)
            for each in self._hosts.values()
        ]
        fair = divide(self.limit.calls, wants)
        unwanted = self.limit.calls - sum(fair)
        spare = int(unwanted * SPARE_SHARE) // len(names)
        free = self.limit.calls - (self.held - host.held)
        calls = max(0, min(fair[names.index(name)] + spare, free))
        return min(calls, host.report.share) if now < self._settled_at else calls

    def _again(self) -> float:
        busy = any(each.report.waiting for each in self._hosts.values())
        every = BUSY_EVERY if busy else QUIET_EVERY
        return max(every.total_seconds(), len(self._hosts) / REPORTS_PER_SECOND_MAX)

    def status(self, *, now: float) -> dict[str, Any]:
        """What is known, and what goes on, as hosts last told.

        ``limit`` is how many calls may be in flight now, ``known`` the most that the server is
        known to take; ``waited_seconds`` is for how long the oldest waits, ``paused_seconds`` for
        how long none may be sent. ``requests`` and ``tokens`` are what the last minute used, with
        what is set aside for calls, of what a minute may; None for no limit.
        """
        self._expire(now)
        hosts = self._hosts.values()
        waits = (h.report.waited + now - h.seen_at for h in hosts if h.report.waiting)
        allowed = self._allowance
        return {
            "limit": self.limit.calls,
            "known": self.limit.known,
            "in_flight": sum(each.report.in_flight for each in hosts),
            "waiting": sum(each.report.waiting for each in hosts),
            "waited_seconds": round(max(waits, default=0.0), 3),
            "paused_seconds": round(max(0.0, self.limit.paused_until - now), 3),
            "requests": _used(self._requests, allowed.requests_per_minute, now),
            "tokens": _used(self._tokens, allowed.tokens_per_minute, now),
            "hosts": len(hosts),
        }

    # -- budgets by the minute ----------------------------------------------------------------

    def _settle_tokens(self, report: Report, now: float) -> None:
        """Put back what was not used, and correct what was."""
        if self._requests is not None:
            self._requests.give(report.starts_back, now)
        if self._tokens is not None:
            self._tokens.give(report.tokens_back + report.tokens_granted - report.tokens, now)
        if report.ended:
            weight = min(1.0, report.ended / AVERAGE_OVER)
            self._tokens_each += weight * (report.tokens / report.ended - self._tokens_each)

    def _starts_for(self, report: Report, now: float) -> int | None:
        """How many calls the host may send; they are taken from the budgets."""
        buckets = [(self._requests, 1.0), (self._tokens, float(int(self._tokens_each)))]
        known = [(bucket, amount) for bucket, amount in buckets if bucket is not None]
        if not known:
            return None
        if report.leaving:
            return 0
        there = min(bucket.times(amount, now) for bucket, amount in known)
        entities = sum(each.report.entities for each in self._hosts.values())
        part = math.ceil(there * report.entities / max(entities, 1)) if entities else there
        starts = min(there, part, max(report.waiting, 1))
        for bucket, amount in known:
            bucket.take(starts * amount, now)
        return starts


def _bucket(per_minute: int | None, now: float, *, full: bool) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute, now=now, full=full)


def _used(bucket: Bucket | None, per_minute: int | None, now: float) -> dict[str, int] | None:
    if bucket is None or per_minute is None:
        return None
    return {"used": int(bucket.used(now)), "allowed": per_minute}


class Sharing:
    """The limits of all models; ``allowance_of`` a model, by name, is what an operator allows."""

    def __init__(self, allowance_of: Callable[[str], Allowance]) -> None:
        self._allowance_of = allowance_of
        self._models: dict[ModelKey, ModelSharing] = {}

    def report(
        self, host: str, reports: Mapping[ModelKey, Report], *, now: float
    ) -> dict[ModelKey, Share]:
        """Take a host's reports in; its shares."""
        return {
            key: self._of(key, report.level, now).report(host, report, now=now)
            for key, report in reports.items()
        }

    def status(self, *, now: float) -> list[dict[str, Any]]:
        """What is known of each model, and what its hosts do; see ``ModelSharing.status``."""
        return [
            {"provider": key.provider, "model": key.model} | sharing.status(now=now)
            for key, sharing in self._models.items()
        ]

    def _of(self, key: ModelKey, level: Level | None, now: float) -> ModelSharing:
        known = self._models.pop(key, None)
        if known is None:
            known = ModelSharing(self._allowance_of(key.model), now=now, level=level)
        self._models[key] = known  # the newest last
        if len(self._models) > MODELS_MAX:
            self._models.pop(next(iter(self._models)))
        return known
