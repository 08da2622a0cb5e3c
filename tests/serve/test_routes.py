"""Each verb over HTTP, against a runtime in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from ray_agents.address import Address
from ray_agents.definition import Registry
from ray_agents.modes import Mode
from ray_agents.requests import ShareRequest
from ray_agents.settings import Settings
from serve import imports
from tests.fake_runtime import FakeRuntime, failing
from tests.serve.apps import app_over

AMY = Address.of("assistant", "amy")
AT = "/v1/entities/assistant/amy"
registry = Registry()


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
async def api(runtime: FakeRuntime) -> AsyncIterator[httpx.AsyncClient]:
    app = app_over(runtime, Settings())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://control") as client,
    ):
        yield client


async def test_the_lifespan_enters_and_leaves_the_runtime(runtime: FakeRuntime) -> None:
    app = app_over(runtime, Settings())
    async with app.router.lifespan_context(app):
        assert runtime.entered
    assert not runtime.entered


async def test_put_spawns_at_the_address(api: httpx.AsyncClient, runtime: FakeRuntime) -> None:
    answer = await api.put(AT, json={"args": {"a": 1}, "tags": {"team": "x"}})
    assert answer.status_code == 201
    assert answer.json()["address"] == "/assistant/amy"
    assert runtime.spawned[AMY].args == {"a": 1}


async def test_put_needs_no_body(api: httpx.AsyncClient) -> None:
    assert (await api.put(AT)).status_code == 201


async def test_post_spawns_under_a_fresh_id_and_tells_where(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/entities/assistant", json={})
    assert answer.status_code == 201
    again = await api.get(answer.headers["location"])
    assert again.json()["address"] == answer.json()["address"]


async def test_a_post_repeated_with_its_spawn_id_is_the_same_entity(
    api: httpx.AsyncClient, runtime: FakeRuntime
) -> None:
    body = {"spawn_id": "order-17"}
    places = [(await api.post("/v1/entities/a", json=body)).headers["location"] for _ in range(2)]
    other = (await api.post("/v1/entities/a", json={"spawn_id": "order-18"})).headers["location"]
    assert places[0] == places[1] != other
    assert [each.spawn_id for each in runtime.spawned.values()] == ["order-17", "order-18"]


async def test_get_shows_the_entity(api: httpx.AsyncClient) -> None:
    await api.put(AT)
    assert (await api.get(AT)).json()["status"] == "sleeping"


async def test_list_passes_filters_and_paging_on(
    api: httpx.AsyncClient, runtime: FakeRuntime
) -> None:
    await api.put(AT)
    query = {"type": "assistant", "status": "idle", "tag": "team=x", "limit": 5, "cursor": "c"}
    answer = await api.get("/v1/entities", params=query)
    assert answer.json()["cursor"] == "more"
    assert runtime.queries[0].model_dump(mode="json", exclude_none=True) == query


async def test_send_answers_202_with_the_receipt(
    api: httpx.AsyncClient, runtime: FakeRuntime
) -> None:
    await api.put(AT)
    answer = await api.post(
        f"{AT}/messages", json={"payload": "hi", "from": "/user/eve", "id": "m"}
    )
    assert answer.status_code == 202
    assert answer.json()["offset"] == 0
    assert runtime.sent[0][1].from_ == "/user/eve"


async def test_a_field_that_does_not_exist_is_refused_by_name(api: httpx.AsyncClient) -> None:
    await api.put(AT)
    answer = await api.post(f"{AT}/messages", json={"payload": 1, "after": 1.5})
    assert answer.status_code == 422
    assert "after" in answer.json()["detail"]


async def test_send_takes_a_delay_in_seconds(api: httpx.AsyncClient, runtime: FakeRuntime) -> None:
    await api.put(AT)
    body = {"payload": "hi", "after_seconds": 90.5}
    assert (await api.post(f"{AT}/messages", json=body)).status_code == 202
    assert runtime.sent[0][1].after_seconds == 90.5


@pytest.mark.parametrize("delay", [-1, 1e12, "soon"])
async def test_a_delay_out_of_range_is_refused_by_name(
    api: httpx.AsyncClient, delay: object
) -> None:
    await api.put(AT)
    answer = await api.post(f"{AT}/messages", json={"payload": 1, "after_seconds": delay})
    assert answer.status_code == 422
    assert "after_seconds" in answer.json()["detail"]


async def test_a_first_message_is_not_delayed(api: httpx.AsyncClient) -> None:
    answer = await api.put(AT, json={"message": {"payload": 1, "after_seconds": 5}})
    assert answer.status_code == 422
    assert "not delayed" in answer.json()["detail"]


async def test_ask_waits_for_the_reply(api: httpx.AsyncClient) -> None:
    await api.put(AT)
    answer = await api.post(f"{AT}/ask?within=2.5", json={"payload": "hi"})
    assert answer.json()["text"] == "2.5 s for hi"


async def test_delete_kills_and_keeps_the_reason(
    api: httpx.AsyncClient, runtime: FakeRuntime
) -> None:
    await api.put(AT)
    answer = await api.delete(AT, params={"reason": "done"})
    assert answer.status_code == 204
    assert (await api.delete(AT, params={"reason": "done", "life": 0})).status_code == 204
    assert (await api.delete(AT, params={"life": "first"})).status_code == 422
    assert (runtime.killed, runtime.ended) == ({AMY: "done"}, [None, 0])


async def test_interrupt_says_which_wake_it_stopped(
    api: httpx.AsyncClient, runtime: FakeRuntime
) -> None:
    await api.put(AT)
    body = {"wake": "w1", "reason": "enough", "id": "once"}
    answer = await api.post(f"{AT}/interrupt", json=body)
    assert answer.json() == {
        "address": str(AMY),
        "interrupted": True,
        "wake": "w1",
        "offset": 7,
        "running": None,
    }
    assert runtime.interrupts == [(AMY, "w1", "enough")]
    assert (await api.post(f"{AT}/interrupt")).status_code == 200
    assert runtime.signals == ["once", None]


async def test_the_mode_is_a_field_of_the_message(
    api: httpx.AsyncClient, runtime: FakeRuntime
) -> None:
    await api.put(AT)
    body = {"payload": "hi", "mode": "steer"}
    assert (await api.post(f"{AT}/messages", json=body)).status_code == 202
    assert runtime.sent[0][1].mode is Mode.STEER
    assert (await api.post(f"{AT}/messages", json=body | {"mode": "now"})).status_code == 422


@pytest.mark.parametrize(("verb", "wakes"), [("retry", 2), ("skip", 1)])
async def test_parked_wakes_are_retried_or_skipped(
    api: httpx.AsyncClient, runtime: FakeRuntime, verb: str, wakes: int
) -> None:
    await api.put(AT)
    answer = await api.post(f"{AT}/{verb}", json={"wake": "w1"})
    assert answer.json() == {"wakes": wakes}
    assert (await api.post(f"{AT}/{verb}")).status_code == 200
    assert runtime.parked == [(verb, AMY, "w1"), (verb, AMY, None)]


async def test_an_interrupt_needs_no_body(api: httpx.AsyncClient, runtime: FakeRuntime) -> None:
    await api.put(AT)
    assert (await api.post(f"{AT}/interrupt")).status_code == 200
    assert (await api.post(f"{AT}/interrupt", json={})).status_code == 200
    assert runtime.interrupts == [(AMY, None, None)] * 2


@pytest.mark.parametrize("verb", ["interrupt", "retry", "skip"])
@pytest.mark.parametrize(
    "body", ['{"wakes": "w1"}', '{"wake": 1}', '{"wake": ""}', '{"wake": "w1"', '"w1"', "wake=w1"]
)
async def test_a_guard_that_is_not_understood_stops_and_parks_nothing(
    api: httpx.AsyncClient, runtime: FakeRuntime, verb: str, body: str
) -> None:
    await api.put(AT)
    json = {"content-type": "application/json"}
    answer = await api.post(f"{AT}/{verb}", content=body, headers=json)
    assert (answer.status_code, answer.json()["type"]) == (422, "InvalidPayload")
    assert (runtime.interrupts, runtime.parked) == ([], [])


@pytest.mark.parametrize("verb", ["interrupt", "retry", "skip"])
async def test_a_guard_in_the_query_or_in_a_form_is_refused_and_not_ignored(
    api: httpx.AsyncClient, runtime: FakeRuntime, verb: str
) -> None:
    await api.put(AT)
    answer = await api.post(f"{AT}/{verb}", params={"wake": "w1"})
    assert (answer.status_code, answer.json()["facts"]) == (422, {"field": "query.wake"})
    assert (await api.post(f"{AT}/{verb}", data={"wake": "w1"})).status_code == 422
    assert (runtime.interrupts, runtime.parked) == ([], [])


@pytest.mark.parametrize(
    ("verb", "fields"),
    [("interrupt", {"wake", "reason", "id"}), ("retry", {"wake"}), ("skip", {"wake"})],
)
async def test_the_api_describes_the_bodies_of_guards(
    api: httpx.AsyncClient, verb: str, fields: set[str]
) -> None:
    told = (await api.get("/openapi.json")).json()
    post = told["paths"][f"/v1/entities/{{type}}/{{id}}/{verb}"]["post"]
    assert {each["in"] for each in post["parameters"]} == {"path"}
    assert not post["requestBody"].get("required", False)
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    (name,) = [each["$ref"].split("/")[-1] for each in schema["anyOf"] if "$ref" in each]
    assert set(told["components"]["schemas"][name]["properties"]) == fields


@pytest.mark.parametrize(
    ("verb", "path", "known"),
    [
        ("PUT", f"{AT}?spawn_id=x", "takes none: write it in the JSON body"),
        ("GET", f"{AT}/state?offset=1", "takes at"),
        ("GET", f"{AT}/events?since=1", "takes limit, live, offset"),
        ("POST", f"{AT}/approvals/a/b?by=ann", "takes none"),
        ("DELETE", f"{AT}?why=done", "takes life, reason"),
        ("GET", f"{AT}/export?child=1", "takes children"),
    ],
)
async def test_a_query_parameter_that_nobody_reads_is_refused(
    api: httpx.AsyncClient, verb: str, path: str, known: str
) -> None:
    body = {"decision": "deny"} if verb == "POST" else None
    answer = await api.request(verb, path, json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "InvalidPayload")
    assert known in answer.json()["detail"]
    assert (await api.get(AT)).status_code == 404


@pytest.mark.parametrize("verb", ["DELETE", "GET"])
async def test_a_body_that_nobody_reads_is_refused(
    api: httpx.AsyncClient, runtime: FakeRuntime, verb: str
) -> None:
    await api.put(AT)
    answer = await api.request(verb, AT, json={"reason": "done"})
    assert (answer.status_code, answer.json()["facts"]) == (422, {"field": "body"})
    assert f"{verb} '{AT}' takes no body" in answer.json()["detail"]
    assert runtime.killed == {}


@pytest.mark.parametrize(
    "budget",
    [
        {},
        {"tokens_max": None},
        {"tokens_max": True},
        {"tokens_max": "9"},
        {"tokens_max": 0},
        {"cost_max": True},
        {"cost_max": "1e400"},
        {"cost_max": 0},
    ],
)
async def test_a_budget_that_bounds_nothing_or_no_number_is_refused(
    api: httpx.AsyncClient, runtime: FakeRuntime, budget: dict[str, object]
) -> None:
    answer = await api.put(AT, json={"budget": budget})
    assert (answer.status_code, answer.json()["type"]) == (422, "InvalidPayload")
    assert "budget" in answer.json()["detail"]
    assert not runtime.spawned


@pytest.mark.parametrize("budget", [{"tokens_max": 9}, {"cost_max": "0.50"}, {"cost_max": 0.5}])
async def test_a_budget_is_tokens_or_dollars(
    api: httpx.AsyncClient, runtime: FakeRuntime, budget: dict[str, object]
) -> None:
    assert (await api.put(AT, json={"budget": budget})).status_code == 201
    assert runtime.spawned[AMY].budget == ShareRequest.model_validate(budget)


async def test_tool_calls_that_wait_are_listed_and_decided_on(
    api: httpx.AsyncClient, runtime: FakeRuntime
) -> None:
    await api.put(AT)
    (waits,) = (await api.get(f"{AT}/approvals")).json()
    assert (waits["id"], waits["tool"], waits["args"]) == ("toolu_1", "delete", {"path": "a"})
    body = {"decision": "deny", "reason": "no", "by": "ann"}
    answer = await api.post(f"{AT}/approvals/{waits['key']}", json=body)
    assert (answer.status_code, answer.json()["status"]) == (200, "denied")
    ((address, key, request),) = runtime.decided
    assert (address, key, request.model_dump()) == (AMY, waits["key"], body)


async def test_a_decision_is_to_approve_or_to_deny(api: httpx.AsyncClient) -> None:
    await api.put(AT)
    answer = await api.post(f"{AT}/approvals/x", json={"decision": "maybe"})
    assert (answer.status_code, answer.json()["facts"]) == (422, {"field": "body.decision"})


async def test_types_are_listed(api: httpx.AsyncClient) -> None:
    assert [each["type"] for each in (await api.get("/v1/types")).json()] == ["assistant"]


async def test_definitions_register_by_import_path(
    api: httpx.AsyncClient, runtime: FakeRuntime
) -> None:
    answer = await api.post("/v1/types", json={"source": "ray_agents.demo:registry"})
    assert answer.status_code == 201
    assert runtime.registered[0][1] == "ray_agents.demo:registry"


@pytest.mark.parametrize("source", ["nowhere:registry", "json:nothing", "json:loads"])
async def test_what_cannot_be_imported_is_named(api: httpx.AsyncClient, source: str) -> None:
    answer = await api.post("/v1/types", json={"source": source})
    assert answer.status_code == 422
    assert answer.json()["type"] == "InvalidDefinition"
    assert repr(source) in answer.json()["detail"]


async def test_registering_by_value_is_off(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/types", json={"value": "gAR9lC4="})
    assert answer.status_code == 422
    assert "RAY_AGENTS_REGISTER_BY_VALUE" in answer.json()["detail"]


async def test_health_and_readiness(api: httpx.AsyncClient, runtime: FakeRuntime) -> None:
    assert (await api.get("/healthz")).json() == {"status": "ok"}
    assert (await api.get("/readyz")).status_code == 200
    runtime.fails_with = failing(TimeoutError()).fails_with
    assert (await api.get("/healthz")).status_code == 200
    assert (await api.get("/readyz")).json()["type"] == "RuntimeUnavailable"


async def test_the_api_describes_itself(api: httpx.AsyncClient) -> None:
    paths = (await api.get("/openapi.json")).json()["paths"]
    assert "/v1/entities/{type}/{id}/ask" in paths
    assert (await api.get("/docs")).status_code == 200


async def test_the_api_describes_what_it_answers_and_takes(api: httpx.AsyncClient) -> None:
    paths = (await api.get("/openapi.json")).json()["paths"]
    for path, verbs in paths.items():
        for verb, told in verbs.items():
            problem = told["responses"]["default"]["content"]
            assert list(problem) == ["application/problem+json"], (path, verb)
            assert "422" not in told["responses"], (path, verb)
    carried = "application/vnd.apache.arrow.file"
    assert carried in paths["/v1/imports"]["post"]["requestBody"]["content"]
    exported = paths["/v1/entities/{type}/{id}/export"]["get"]["responses"]["200"]
    assert list(exported["content"]) == [carried]
    events = paths["/v1/entities/{type}/{id}/events"]["get"]["responses"]["200"]
    assert set(events["content"]) == {"application/json", "text/event-stream"}


async def test_an_entity_is_forked_shown_as_of_then_and_carried(
    api: httpx.AsyncClient, runtime: FakeRuntime
) -> None:
    await api.put(AT)
    await runtime.append(AMY, "a", "b", "c")
    answer = await api.post(f"{AT}/fork", json={"to": "/assistant/bob", "at": 2})
    assert (answer.status_code, answer.json()["address"]) == (201, "/assistant/bob")
    assert runtime.forked[0][1].at == 2
    for query, texts in ({"at": 1}, ["a"]), ({}, ["a", "b", "c"]):
        state = await api.get(f"{AT}/state", params=query)
        assert state.json()["collections"] == {"texts": texts}
    assert (await api.get(f"{AT}/state", params={"at": 9})).status_code == 416
    file = await api.get(f"{AT}/export", params={"children": True})
    assert file.content == b"export of /assistant/amy and all"
    assert file.headers["content-type"] == "application/vnd.apache.arrow.file"
    made = await api.post("/v1/imports", content=file.content, params={"to": "/assistant/cay"})
    assert (made.status_code, made.json()[0]["address"]) == (201, "/assistant/cay")
    assert runtime.imported == file.content


async def test_what_cannot_be_exported_is_an_error_and_no_broken_file(
    api: httpx.AsyncClient,
) -> None:
    answer = await api.get(f"{AT}/export")
    assert (answer.status_code, answer.json()["type"]) == (404, "UnknownEntity")


async def test_an_import_may_be_larger_than_a_message_but_not_endless(
    monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime
) -> None:
    app = app_over(runtime, Settings(body_bytes_max=1_000))
    monkeypatch.setattr(imports, "IMPORT_BYTES_MAX", 5_000)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://control") as client,
    ):
        assert (await client.post("/v1/imports", content=b"x" * 5_000)).status_code == 201
        assert (await client.post("/v1/imports", content=b"x" * 5_001)).status_code == 413
