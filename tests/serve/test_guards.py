"""Who may pass, and how much they may bring."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from ray_agents.errors import InvalidSetting
from ray_agents.settings import Settings
from serve.api import create_app
from tests.fake_runtime import FakeRuntime
from tests.serve.apps import app_over

TOKEN = "open-sesame"
AT = "/v1/entities/assistant/amy"


@asynccontextmanager
async def api_of(settings: Settings) -> AsyncGenerator[httpx.AsyncClient]:
    app = app_over(FakeRuntime(), settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://control") as client,
    ):
        yield client


@pytest.mark.parametrize("path", ["/v1/types", AT, "/readyz", "/openapi.json", "/docs", "/nowhere"])
@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Bearer ", f"Basic {TOKEN}", TOKEN, "Bearer é"]
)
async def test_without_the_token_nothing_is_told(path: str, header: str | None) -> None:
    async with api_of(Settings(token=TOKEN)) as api:
        headers = [] if header is None else [(b"authorization", header.encode())]
        answer = await api.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["type"] == "Unauthorized"


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN}"])
async def test_with_the_token_all_is_open(header: str) -> None:
    async with api_of(Settings(token=TOKEN)) as api:
        assert (await api.get("/v1/types", headers={"authorization": header})).status_code == 200


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer x"])
async def test_an_empty_token_lets_nobody_in(header: str) -> None:
    async with api_of(Settings(token="")) as api:
        assert (await api.get("/v1/types", headers={"authorization": header})).status_code == 401


async def test_health_needs_no_token() -> None:
    async with api_of(Settings(token=TOKEN)) as api:
        assert (await api.get("/healthz")).status_code == 200


async def test_a_body_over_the_limit_is_refused_by_its_announced_size() -> None:
    async with api_of(Settings(body_bytes_max=1_000)) as api:
        answer = await api.post(f"{AT}/messages", json={"payload": "x" * 1_000})
    assert answer.status_code == 413
    assert answer.json()["facts"] == {"bytes_max": 1_000}


async def test_a_body_without_a_size_is_read_no_further_than_the_limit() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 100
            yield b"x" * 100

    async with api_of(Settings(body_bytes_max=1_000)) as api:
        answer = await api.post(f"{AT}/messages", content=endless())
    assert answer.status_code == 413
    assert read <= 1_200


async def test_a_body_at_the_limit_passes() -> None:
    async with api_of(Settings(body_bytes_max=1_000)) as api:
        body = b'{"args": {"x": "' + b"x" * (1_000 - 19) + b'"}}'
        headers = {"content-type": "application/json"}
        answer = await api.put(AT, content=body, headers=headers)
    assert len(body) == 1_000
    assert answer.status_code == 201


@pytest.mark.parametrize("size", ["x", "-1", "1e9"])
async def test_a_size_that_is_none_is_refused(size: str) -> None:
    async with api_of(Settings()) as api:
        answer = await api.post(f"{AT}/messages", headers={"content-length": size})
    assert answer.json()["type"] == "InvalidPayload"


@pytest.mark.parametrize("host", ["::", "10.0.0.1"])
def test_other_machines_are_not_answered_without_a_token(host: str) -> None:
    with pytest.raises(InvalidSetting, match="RAY_AGENTS_TOKEN"):
        create_app(lambda _: FakeRuntime(), Settings(http_host=host))
    create_app(lambda _: FakeRuntime(), Settings(http_host=host, token=TOKEN))
