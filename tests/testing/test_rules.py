"""The strict reading of the Messages API's rules."""

from typing import Any

import pytest

from ray_agents.models.scripted import signature_of
from ray_agents.testing.rules import RuleBroken, check_messages, check_request

CALL: dict[str, Any] = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "seen"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": signature_of("hm")}
SEARCH: dict[str, Any] = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}
FOUND: dict[str, Any] = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}
TEXT = {"type": "text", "text": "hi"}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content) or "hi"}


def claude(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def test_a_whole_conversation_with_thinking_and_tools_is_valid() -> None:
    check_messages([user(), claude(THOUGHT, TEXT, CALL), user(RESULT, TEXT), claude(TEXT), user()])


def test_a_paused_server_tool_turn_may_be_continued() -> None:
    check_messages([user(), claude(SEARCH)])
    check_messages([user(), claude(SEARCH, FOUND, TEXT), user()])


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ([], "at least one"),
        ([claude(TEXT)], "alternate"),
        ([user(), user()], "alternate"),
        ([user(), claude(TEXT)], "prefill"),
        ([user(), claude(), user()], "must not be empty"),
        ([user({"type": "text", "text": " \n"})], "non-whitespace"),
        ([user(), claude(CALL), user(TEXT)], "without `tool_result`"),
        ([user(), claude(CALL)], "without `tool_result`"),
        ([user(), claude(CALL), user(TEXT, RESULT)], "come first"),
        ([user(), claude(CALL), user(RESULT, RESULT)], "single result"),
        ([user({"type": "image", "source": {"type": "url"}})], "valid source"),
        ([user(), claude(CALL), user(RESULT | {"content": [CALL]})], "not allowed"),
        ([user(RESULT)], "unexpected `tool_use_id`"),
        ([user(), claude(CALL, CALL), user(RESULT)], "unique"),
        ([user(), claude(CALL), user(RESULT | {"content": "", "is_error": True})], "empty"),
        ([user(), claude(THOUGHT), user()], "final block"),
        ([user(), claude(THOUGHT | {"signature": "x"}, TEXT), user()], "signature"),
        ([user(), claude(RESULT), user()], "assistant's block"),
        ([user(THOUGHT)], "user's block"),
        ([user(), claude({"type": "redacted_thinking"}, TEXT), user()], "data"),
        ([user(), claude(SEARCH, TEXT), user()], "without result"),
        ([user(), claude(FOUND, TEXT), user()], "server_tool_use"),
        ([user(), claude(SEARCH, FOUND, FOUND, TEXT), user()], "server_tool_use"),
        ([user(), claude(CALL | {"id": "no spaces"}), user()], "pattern"),
    ],
)
def test_a_broken_rule_is_named(broken: list[Any], rule: str) -> None:
    with pytest.raises(RuleBroken, match=rule):
        check_messages(broken)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"tools": [{"name": "x y"}]}, "name"),
        ({"tools": [{"name": "x", "input_schema": {"type": "string"}}]}, "object"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "budget"),
        ({"system": [{"type": "text", "text": ""}]}, "system"),
    ],
)
def test_the_rest_of_the_request_is_checked_too(change: dict[str, Any], rule: str) -> None:
    body = {"model": "m", "max_tokens": 100, "messages": [user()]}
    check_request(body)
    with pytest.raises(RuleBroken, match=rule):
        check_request(body | change)
