"""Errors as a shell sees them: an exit code, one line that says what is wrong, one what to do."""

from __future__ import annotations

from enum import IntEnum

from ray_agents.errors import RayAgentsError


class ExitCode(IntEnum):
    """How a command ended; part of the interface, documented by ``--help``."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAUTHORIZED = 4
    UNAVAILABLE = 5
    TIMED_OUT = 6
    INTERRUPTED = 130


EXIT_CODES_HELP = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 not found or gone, "
    "4 unauthorized, 5 unavailable, 6 timed out, 130 interrupted."
)
_BY_HTTP_STATUS = {
    400: ExitCode.USAGE,
    401: ExitCode.UNAUTHORIZED,
    404: ExitCode.NOT_FOUND,
    410: ExitCode.NOT_FOUND,
    413: ExitCode.USAGE,
    422: ExitCode.USAGE,
    503: ExitCode.UNAVAILABLE,
    504: ExitCode.TIMED_OUT,
    507: ExitCode.UNAVAILABLE,
}
# What to type next, where an error's own message does not know that it is read in a shell.
_HINTS = {
    "Unauthorized": "give the token: ray-agents --token …, or set RAY_AGENTS_TOKEN",
    "UnknownType": "ray-agents types lists the types there are",
    "UnknownEntity": "ray-agents ps lists the entities there are",
    "EntityGone": "its log can still be read: ray-agents view {address}",
    "RuntimeUnavailable": "ray-agents start, or give the address: ray-agents --url http://…",
    "PortTaken": "choose another: ray-agents start --port N",
    "AskTimedOut": "the message stays in the log: ray-agents observe {address}",
    "HandlerFailed": "ray-agents view {address} shows what happened; then retry or skip",
    "UnknownApproval": "ray-agents inspect {address} shows what waits for approval",
    "NothingParked": "ray-agents inspect {address} shows what is parked",
    "BacklogFull": "ray-agents inspect {address} shows what it is doing",
}


def exit_code(error: RayAgentsError) -> ExitCode:
    """The exit code for an error, from the HTTP status that its class carries."""
    return _BY_HTTP_STATUS.get(error.status, ExitCode.FAILED)


def hint(error: RayAgentsError) -> str | None:
    """What to type next, if there is something."""
    text = _HINTS.get(error.slug)
    return text and text.format(address=error.facts.get("address", "ADDRESS"))
