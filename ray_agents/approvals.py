"""Approvals: tool calls that wait until people have decided on them, as rows of the log.

A call of a tool with ``approval="required"`` is not run. Its approval stands in the log as
``pending``, under the key of the call's own row; whoever decides writes the same key again. The
newest row of a key tells all, and the first decision is the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, cast

from ray_agents.errors import AmbiguousApproval, ApprovalDecided
from ray_agents.events import JSON, WAKE_HEADER, Draft, Event, Operation
from ray_agents.views import ApprovalStatus, ApprovalView

STATUS_HEADER = "status"


class AwaitsApproval(BaseException):
    """Ends an attempt at a wake whose run cannot go on before people have decided.

    It passes through handlers, which have nothing to do with it.
    """


def only_awaits(error: BaseException) -> bool:
    """Whether an error, perhaps a group of a handler's tasks, says nothing else than that."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.split(AwaitsApproval)[1] is None
    return isinstance(error, AwaitsApproval)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRecorded:
    """A tool call began to wait for approval, or was decided on.

    ``key`` is that of the call's row, ``tool_call_id`` the model's name for the call. Times are
    microseconds since the epoch. ``wake`` is the wake that waits; it stands in the row's headers.
    """

    key: str
    status: ApprovalStatus
    run_id: str
    tool_call_id: str
    tool_name: str
    args: JSON
    requested_at: int
    expires_at: int | None = None
    decided_at: int | None = None
    by: str | None = None
    reason: str | None = None
    wake: str = ""

    TYPE = "approval"

    @property
    def pending(self) -> bool:
        """Whether nobody has decided yet."""
        return self.status is ApprovalStatus.PENDING

    def decided(
        self,
        status: ApprovalStatus,
        *,
        now: int,
        by: str | None = None,
        reason: str | None = None,
    ) -> Self:
        """The end of the waiting; the same decision again changes nothing.

        Raises:
            ApprovalDecided: it was decided otherwise before.
        """
        if self.status is status:
            return self
        if not self.pending:
            message = f"the call {self.tool_call_id!r} of {self.tool_name!r} {_before(self)}"
            raise ApprovalDecided(message, id=self.tool_call_id, status=self.status.value)
        return replace(self, status=status, decided_at=now, by=by, reason=reason)

    def draft(self) -> Draft:
        """The row to append; its status stands in the headers too, for columnar reads."""
        value = asdict(self)
        wake = value.pop("wake")
        headers = {STATUS_HEADER: self.status.value} | ({WAKE_HEADER: wake} if wake else {})
        return Draft.of(
            self.TYPE, self.key, value=value, operation=Operation.UPSERT, headers=headers
        )

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        row = cast("dict[str, Any]", event.value)
        row["status"] = ApprovalStatus(row["status"])
        return cls(**row, wake=event.headers.get(WAKE_HEADER, ""))

    def view(self) -> ApprovalView:
        """It as doors show it."""
        return ApprovalView(
            id=self.tool_call_id,
            key=self.key,
            status=self.status,
            wake=self.wake,
            tool=self.tool_name,
            args=self.args,
            requested=self.requested_at,
            expires=self.expires_at,
            decided=self.decided_at,
            by=self.by,
            reason=self.reason,
        )


def _before(approval: ApprovalRecorded) -> str:
    """Why no other decision can be made on a call."""
    match approval.status:
        case ApprovalStatus.WITHDRAWN:
            return "was withdrawn, for its run was interrupted or has ended; nobody need decide"
        case ApprovalStatus.EXPIRED:
            return "has expired: nobody decided on it in time"
        case status:
            by = f" by {approval.by}" if approval.by else ""
            return f"was {status.value}{by} already; the first decision stands"


def named(approvals: Iterable[ApprovalRecorded], name: str) -> ApprovalRecorded | None:
    """The one of that key, else the only one of that id; None if there is none.

    ``approvals`` are the newest rows of all keys that may be meant, decided or not. A model may
    give its calls the same id over and over, so one that happens to wait is not enough: it may
    have come after whoever decides has looked.

    Raises:
        AmbiguousApproval: several have that id.
    """
    of_key = {each.key: each for each in approvals}
    if name in of_key:
        return of_key[name]
    found = [each for each in of_key.values() if each.tool_call_id == name]
    if len(found) > 1:
        told_apart = "; ".join(f"{each.key}, {each.status.value}" for each in found)
        message = f"{len(found)} tool calls have the id {name!r}; name one, use its key: "
        keys = [each.key for each in found]
        raise AmbiguousApproval(message + told_apart, id=name, keys=keys)
    return found[0] if found else None


def undecided(
    drafts: Iterable[Draft], approvals: Mapping[str, ApprovalRecorded]
) -> Iterable[Draft]:
    """Those of the rows that end runs which put nothing in the place of a decision.

    ``approvals`` are as they are now; who made the rows may not have known of the last decisions.
    """
    for draft in drafts:
        now = approvals.get(draft.key) if draft.type == ApprovalRecorded.TYPE else None
        if now is None or now.pending:
            yield draft


def awaited(approvals: Iterable[ApprovalRecorded]) -> int:
    """How long a run has waited for people, in microseconds, as far as that has ended.

    What several were asked at the same time is waited for once.
    """
    waits = [(each.requested_at, each.decided_at) for each in approvals if each.decided_at]
    whole = until = 0
    for first, last in sorted(waits):
        whole += max(0, last - max(first, until))
        until = max(until, last)
    return whole


def told(approval: ApprovalRecorded) -> str:
    """What the model reads of a call that was not approved."""
    if approval.status is ApprovalStatus.EXPIRED:
        return "Not run: nobody approved this call in time."
    if approval.status is ApprovalStatus.WITHDRAWN:
        return "Not run: this call was withdrawn, for its run was interrupted or has ended."
    reason = f" The reason given: {approval.reason}" if approval.reason else ""
    return f"Not run: this call was denied.{reason}"
