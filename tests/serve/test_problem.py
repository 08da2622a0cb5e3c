"""Whatever goes wrong, the answer is a problem document that names it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest

from ray_agents import errors
from ray_agents.errors import RayAgentsError
from ray_agents.settings import Settings
from serve.problem import title_of
from tests.fake_runtime import FakeRuntime, failing
from tests.serve.apps import app_over

AT = "/v1/entities/assistant/amy"


@asynccontextmanager
async def api_of(
    runtime: FakeRuntime | None = None, settings: Settings | None = None
) -> AsyncGenerator[httpx.AsyncClient]:
    app = app_over(runtime or FakeRuntime(), settings or Settings())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://control") as client,
    ):
        yield client


def all_errors(root: type[RayAgentsError] = RayAgentsError) -> list[type[RayAgentsError]]:
    return [root, *(leaf for branch in root.__subclasses__() for leaf in all_errors(branch))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
async def test_each_error_is_answered_with_its_status_and_facts(
    kind: type[RayAgentsError],
) -> None:
    async with api_of(failing(kind("it went wrong", thing="x"))) as api:
        answer = await api.get(AT)
    assert answer.status_code == kind.status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["detail"]) == (kind.__name__, "it went wrong")
    assert (problem["status"], problem["facts"]) == (kind.status, {"thing": "x"})


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_a_title_is_a_sentence_without_markup(kind: type[RayAgentsError]) -> None:
    title = title_of(kind)
    assert title.endswith((".", "…"))
    assert not set(title) & set("`*|[]")
    assert ":class:" not in title


async def test_busy_says_when_to_come_again() -> None:
    async with api_of(failing(errors.BacklogFull("full"))) as api:
        assert (await api.get(AT)).headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("PATCH", AT, 405), ("GET", AT + "/", 404)],
)
async def test_a_wrong_route_or_method_is_a_problem(method: str, path: str, status: int) -> None:
    async with api_of() as api:
        answer = await api.request(method, path)
    assert answer.json() | {"detail": ""} == {
        "type": "about:blank",
        "title": {404: "Not Found", 405: "Method Not Allowed"}[status],
        "status": status,
        "detail": "",
        "facts": {},
    }


async def test_what_nobody_expected_is_logged_with_the_id_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "ray_agents.serve"):
        async with api_of(failing(ZeroDivisionError("secret"))) as api:
            answer = await api.get(AT)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["id"] in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/entities/assistant/..%2Fx",
        "/v1/entities/Assistant/amy",
        "/v1/entities/assistant/" + "x" * 300,
        "/v1/entities/assistant/a%00b",
        "/v1/entities/assistant/a%0Ab",
        "/v1/entities/" + "t" * 65 + "/amy",
    ],
)
async def test_an_invalid_address_is_refused(path: str) -> None:
    async with api_of() as api:
        answer = await api.put(path)
    assert answer.status_code in (400, 404)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{nonsense", "body"),
        (b"\xff\xfe", "body"),
        (b"[1]", "body"),
        (b'{"payload": 1, "stranger": 2}', "body.stranger"),
        (b'{"payload": 1, "id": ""}', "body.id"),
        (b'{"payload": 1, "after": "later"}', "body.after"),
    ],
)
async def test_a_bad_body_is_422_and_names_the_field(body: bytes, field: str) -> None:
    async with api_of() as api:
        headers = {"content-type": "application/json"}
        answer = await api.post(f"{AT}/messages", content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["facts"] == {"field": field}


async def test_a_body_that_does_not_say_json_is_told_how() -> None:
    async with api_of() as api:
        answer = await api.post(f"{AT}/messages", data={"payload": "hi"})
    assert "content-type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "status=tired", "stranger=1"])
async def test_a_bad_query_is_422_and_names_the_field(query: str) -> None:
    async with api_of() as api:
        answer = await api.get(f"/v1/entities?{query}")
    assert answer.status_code == 422
    assert query.partition("=")[0] in answer.json()["facts"]["field"]
