"""What the control API answered, as a value or as the error it names."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import httpx
from pydantic import TypeAdapter

from ray_agents.errors import RayAgentsError, RuntimeUnavailable, Unauthorized, rebuild

PROBLEM = "application/problem+json"
NO_CONTENT = 204
_SHOWN = 200


def read_as(kind: Any, response: httpx.Response) -> Any:
    """The JSON body of a success, as a value of the type ``kind``.

    Raises:
        RayAgentsError: of the class that the problem document names.
        RuntimeUnavailable: the answer is not one of the control API.
    """
    if not response.is_success:  # nor is a redirect: nobody has done anything
        raise error_of(response)
    try:
        value = None if response.status_code == NO_CONTENT else response.json()
        return _reader(kind).validate_python(value)
    except ValueError as error:  # a ValidationError is one
        raise _stranger(response) from error


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def error_of(response: httpx.Response) -> RayAgentsError:
    """The error that a failed ``response``, already read, stands for."""
    if response.headers.get("content-type", "").startswith(PROBLEM):
        return problem_error(response.json())
    if response.status_code == Unauthorized.status:
        return Unauthorized(f"{response.request.url.host!r} refuses our token")
    return _stranger(response)


def problem_error(problem: dict[str, Any]) -> RayAgentsError:
    """The error that a problem document stands for; the root class if it names none of ours."""
    facts = problem.get("facts")
    known = cast("dict[str, Any]", facts) if isinstance(facts, dict) else {}
    return rebuild(str(problem.get("type")), str(problem.get("detail")), known)


def _stranger(response: httpx.Response) -> RuntimeUnavailable:
    """HAProxy answers ``500 Internal Server Error`` in plain text while no replica is up."""
    url = f"{response.request.url.scheme}://{response.request.url.netloc.decode()}"
    return RuntimeUnavailable(
        f"{url!r} answered {response.status_code} {response.text[:_SHOWN]!r}, which is no answer "
        "of our control API; it may be starting or stopping, or another program has that port "
        "(`ray-agents status` tells)",
        url=url,
        status=response.status_code,
    )


def unreachable(client: httpx.AsyncClient, error: httpx.HTTPError) -> RuntimeUnavailable:
    """The error for a request that brought no answer."""
    url = str(client.base_url).rstrip("/")
    if isinstance(error, httpx.ConnectError):
        told = f"nothing answers at {url!r} ({error}); `ray-agents start` starts the runtime"
    elif isinstance(error, httpx.TimeoutException):
        kind = type(error).__name__
        told = f"{url!r} did not answer in time ({kind}); `ray-agents status` tells more"
    else:
        told = f"the connection to {url!r} broke: {error!r}"
    return RuntimeUnavailable(told, url=url)
