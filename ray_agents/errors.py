"""Every error this package raises, in one tree, branched by who must act.

    RayAgentsError
    ├── CallerError            the request is wrong; change it
    │   ├── InvalidAddress         400
    │   ├── InvalidPayload         422
    │   ├── Unauthorized           401
    │   ├── UnknownType            404
    │   ├── UnknownEntity          404
    │   ├── UnknownOffset          416
    │   ├── UnknownApproval        404
    │   ├── EntityExists           409
    │   ├── MessageConflict        409
    │   ├── NothingParked          409
    │   ├── OverBudget             409
    │   ├── ApprovalDecided        409
    │   ├── AmbiguousApproval      409
    │   ├── EntityGone             410
    │   ├── OffsetGone             410
    │   ├── PayloadTooLarge        413
    │   ├── BacklogFull            429
    │   └── AskTimedOut            504
    ├── AuthorError            the handler or definition is wrong; mend it
    │   ├── InvalidDefinition      422
    │   ├── DuplicateKey           409
    │   ├── MissingKey             404
    │   ├── NoAgentConfigured      500
    │   ├── HandlerFailed          502
    │   └── NondeterministicWake   500
    ├── OperatorError          the installation is wrong; repair it
    │   ├── StoreUnavailable       503
    │   ├── StoreFull              507
    │   ├── CorruptLog             500
    │   ├── RuntimeUnavailable     503
    │   ├── PortTaken              503
    │   ├── MissingPackage         500
    │   ├── InvalidSetting         500
    │   └── ModelUnavailable       503
    └── Fenced                 another owner has taken this log over  503

A message names the thing with ``!r`` and says what to do next. ``facts`` holds the same things
as attributes, for programs. Each class knows its HTTP status; every door answers with it.
"""

from __future__ import annotations

from typing import Any, ClassVar


class RayAgentsError(Exception):
    """Root of every error raised by this package; ``facts`` are its attributes, JSON-shaped."""

    status: ClassVar[int] = 500

    def __init__(self, message: str, /, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __reduce__(self) -> tuple[Any, ...]:
        return (rebuild, (type(self).__name__, self.message, self.facts))

    @property
    def slug(self) -> str:
        """The class name, which problem+json carries as its type."""
        return type(self).__name__


class CallerError(RayAgentsError):
    """The request is wrong; the caller changes it."""

    status = 400


class InvalidAddress(CallerError):
    """An address does not parse."""


class InvalidPayload(CallerError):
    """A payload, argument or body does not fit its schema; the message names the field."""

    status = 422


class Unauthorized(CallerError):
    """The bearer token is missing or wrong."""

    status = 401


class UnknownType(CallerError):
    """No definition of that type is registered."""

    status = 404


class UnknownEntity(CallerError):
    """No entity lives at that address."""

    status = 404


class UnknownOffset(CallerError):
    """The offset lies beyond the end of the log."""

    status = 416


class UnknownApproval(CallerError):
    """No tool call of that id waits for approval, or ever did."""

    status = 404


class EntityExists(CallerError):
    """An entity already lives at that address."""

    status = 409


class MessageConflict(CallerError):
    """The message id was used before, with another payload."""

    status = 409


class NothingParked(CallerError):
    """``retry`` or ``skip`` found no parked wake."""

    status = 409


class OverBudget(CallerError):
    """A child's share is more than what is left of the budget; ``left`` says how much that is."""

    status = 409


class ApprovalDecided(CallerError):
    """The tool call was decided on before, and otherwise; its ``facts`` say how."""

    status = 409


class AmbiguousApproval(CallerError):
    """More than one tool call of this life has that id: name it by its key.

    ``facts["keys"]`` are those of all that have it.
    """

    status = 409


class EntityGone(CallerError):
    """The entity was killed; its log remains readable."""

    status = 410


class OffsetGone(CallerError):
    """The rows from that offset on were let go; ``first`` is the first offset that exists."""

    status = 410

    @classmethod
    def check(cls, offset: int, *, first: int, log: str) -> None:
        """Raise it if ``offset`` lies below ``first``; 0 is the beginning, wherever that is now."""
        if 0 < offset < first:
            message = (
                f"offset {offset} of {log!r} was let go by its type's retention; the first that "
                f"exists is {first}: read from there, or from 0"
            )
            raise cls(message, offset=offset, first=first)


class PayloadTooLarge(CallerError):
    """A body or message is over its limit."""

    status = 413


class BacklogFull(CallerError):
    """The entity's inbox holds as many unhandled messages as it may."""

    status = 429


class AskTimedOut(CallerError):
    """No reply in time; the message is in the log and will still be handled."""

    status = 504


class AuthorError(RayAgentsError):
    """The handler or the definition is wrong; its author mends it."""


class InvalidDefinition(AuthorError):
    """A definition cannot be registered as it stands."""

    status = 422


class DuplicateKey(AuthorError):
    """An insert met an existing key."""

    status = 409


class MissingKey(AuthorError):
    """An update, delete or read met no such key."""

    status = 404


class NoAgentConfigured(AuthorError):
    """``ctx.agent.run()`` was called before ``ctx.use_agent()``."""


class HandlerFailed(AuthorError):
    """A handler failed as often as it may, and its wake is parked."""

    status = 502


class NondeterministicWake(AuthorError):
    """A wake that ran again did something else than what it had committed before."""


class OperatorError(RayAgentsError):
    """The installation is wrong; the operator repairs it."""

    status = 503


class StoreUnavailable(OperatorError):
    """The store cannot be opened, read or written."""


class StoreFull(OperatorError):
    """The store has no room."""

    status = 507


class CorruptLog(OperatorError):
    """A log holds bytes that were never written so; they are not served and not cut."""

    status = 500


class RuntimeUnavailable(OperatorError):
    """Ray or the control API does not answer."""


class PortTaken(OperatorError):
    """Another process listens on a port that we need."""


class MissingPackage(OperatorError):
    """Something asked for needs an optional package; the message says what to install."""

    status = 500


class InvalidSetting(OperatorError):
    """An environment variable does not say what a setting needs; the message names it."""

    status = 500


class ModelUnavailable(OperatorError):
    """The model provider cannot be reached or refuses us."""


class Fenced(RayAgentsError):
    """Another owner has taken this log over; nothing of this append is acknowledged."""

    status = 503


def _tree(root: type[RayAgentsError]) -> dict[str, type[RayAgentsError]]:
    found = {root.__name__: root}
    for branch in root.__subclasses__():
        found |= _tree(branch)
    return found


def rebuild(slug: str, message: str, facts: dict[str, Any]) -> RayAgentsError:
    """The error named ``slug``; an unknown name gives the root. Pickle and HTTP clients use it."""
    return _tree(RayAgentsError).get(slug, RayAgentsError)(message, **facts)
