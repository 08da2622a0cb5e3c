"""The rules of the Messages API for a request, checked strictly: what the real one answers 400 to.

Stricter in two things, so that nothing depends on the provider's leniency: roles must alternate
(the API would join neighbours), and a thinking block must carry the very signature its text was
given by the stand-in or the scripted model (:func:`~ray_agents.models.scripted.signature_of`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ray_agents.media import is_media
from ray_agents.models.scripted import signature_of

Block = Mapping[str, Any]

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
CACHE_BREAKPOINTS_MAX = 4
THINKING = frozenset({"thinking", "redacted_thinking"})
ASSISTANT_TYPES = THINKING | {"text", "tool_use", "server_tool_use"}
RESULT_TYPES = frozenset({"text", "image", "document", "search_result"})
USER_TYPES = RESULT_TYPES | {"tool_result"}


class RuleBroken(Exception):
    """The request breaks a rule; the text is the message of the 400."""


def check_request(body: Any) -> None:
    """Pass if the body of ``POST /v1/messages`` is valid.

    Raises:
        RuleBroken: it is not.
    """
    _need(isinstance(body, dict), "the body must be an object")
    tokens = body.get("max_tokens")
    _need(isinstance(tokens, int) and tokens >= 1, "max_tokens: must be at least 1")
    _check_thinking(body.get("thinking"), tokens)
    check_prompt(body)


def check_prompt(body: Any) -> None:
    """Pass if what a request asks is valid, as ``POST /v1/messages/count_tokens`` takes it.

    Raises:
        RuleBroken: it is not.
    """
    _need(isinstance(body, dict), "the body must be an object")
    _need(isinstance(body.get("model"), str) and body["model"], "model: Field required")
    _check_tools(body.get("tools") or [])
    _check_system(body.get("system"))
    check_messages(body.get("messages"))
    marks = str(body).count("'cache_control': {")
    _need(
        marks <= CACHE_BREAKPOINTS_MAX,
        f"a maximum of {CACHE_BREAKPOINTS_MAX} blocks with cache_control may be provided",
    )


def check_messages(messages: Any, *, ends_with_user: bool = True) -> None:
    """Pass if a transcript is valid; ``ends_with_user`` unless it is not to be sent now.

    A transcript may end with the assistant only to continue a paused server tool turn.

    Raises:
        RuleBroken: it is not.
    """
    _need(messages and isinstance(messages, list), "messages: at least one message is required")
    listed = cast("list[Any]", messages)
    calls: list[str] = []
    unended: set[str] = set()
    seen: set[str] = set()
    before = "assistant"
    for index, message in enumerate(listed):
        where = f"messages.{index}"
        role, content = _role_and_content(message, where)
        _need(role != before, f"{where}: roles must alternate, but {role!r} follows {before!r}")
        if role == "user":
            _need(calls or not unended, f"{where}: server tool calls without result: {unended}")
            _check_user(content, calls, where)
            calls = []
        else:
            calls, unended = _check_assistant(content, seen, where)
        before = role
    _need(not calls, _UNANSWERED.format(where=f"messages.{len(listed) - 1}", ids=calls))
    if ends_with_user and before == "assistant":
        _, last = _role_and_content(listed[-1], "messages")
        paused = any(block["type"] == "server_tool_use" for block in last)
        _need(paused, "This model does not support assistant message prefill")


_UNANSWERED = (
    "{where}: `tool_use` ids were found without `tool_result` blocks immediately after: {ids}. "
    "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
)


def _need(holds: object, message: str) -> None:
    if not holds:
        raise RuleBroken(message)


def _role_and_content(message: Any, where: str) -> tuple[str, Sequence[Block]]:
    _need(isinstance(message, dict), f"{where}: must be an object")
    _need(set(message) == {"role", "content"}, f"{where}: extra or missing fields")
    role = message["role"]
    content: Any = message["content"]
    _need(role in ("user", "assistant"), f"{where}.role: must be 'user' or 'assistant'")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    _need(content and isinstance(content, list), f"{where}.content: must not be empty")
    return role, cast("list[Block]", content)


def _check_user(content: Sequence[Block], calls: Sequence[str], where: str) -> None:
    """Results of the calls of the message before come first, each once, none missing."""
    answered: list[str] = []
    for index, block in enumerate(content):
        at = f"{where}.content.{index}"
        _need(block.get("type") in USER_TYPES, f"{at}: {block.get('type')!r} is not a user's block")
        if block["type"] == "tool_result":
            _need(len(answered) == index, f"{at}: tool_result blocks must come first")
            _check_result(block, calls, at)
            answered.append(block["tool_use_id"])
        else:
            _check_shown(block, at)
    _need(len(set(answered)) == len(answered), f"{where}: each tool_use must have a single result")
    missing = [each for each in calls if each not in answered]
    _need(not missing, _UNANSWERED.format(where=where, ids=missing))


def _check_result(block: Block, calls: Sequence[str], at: str) -> None:
    extra = set(block) - {"type", "tool_use_id", "content", "is_error", "cache_control"}
    _need(not extra, f"{at}: extra inputs are not permitted: {extra}")
    _need(
        block.get("tool_use_id") in calls,
        f"{at}: unexpected `tool_use_id` {block.get('tool_use_id')!r}: each `tool_result` block "
        "must have a corresponding `tool_use` block in the previous message",
    )
    inner = block.get("content", "")
    _need(isinstance(inner, str | list), f"{at}.content: must be text or blocks")
    _need(inner or not block.get("is_error"), f"{at}: content cannot be empty if is_error is true")
    for index, each in enumerate(cast("list[Block]", inner) if isinstance(inner, list) else ()):
        where = f"{at}.content.{index}"
        _need(each.get("type") in RESULT_TYPES, f"{where}: {each.get('type')!r} is not allowed")
        _check_shown(each, where)


def _check_shown(block: Block, at: str) -> None:
    if block["type"] == "text":
        _check_text(block, at)
    elif block["type"] in ("image", "document"):
        bare = {name: value for name, value in block.items() if name != "cache_control"}
        _need(is_media(bare), f"{at}.source: Input should be a valid source")


def _check_assistant(
    content: Sequence[Block], seen: set[str], where: str
) -> tuple[list[str], set[str]]:
    """The ids of the calls it makes, and of the server's own that have no result yet."""
    calls: list[str] = []
    server_calls: set[str] = set()
    for index, block in enumerate(content):
        at = f"{where}.content.{index}"
        kind = str(block.get("type"))
        known = kind in ASSISTANT_TYPES or kind.endswith("_tool_result")
        _need(known and kind != "tool_result", f"{at}: {kind!r} is not an assistant's block")
        if kind == "text":
            _check_text(block, at)
        elif kind == "thinking":
            _check_signature(block, at)
        elif kind == "redacted_thinking":
            _need(block.get("data"), f"{at}.data: Field required")
        elif kind == "tool_use":
            _check_call(block, seen, at)
            calls.append(block["id"])
        elif kind == "server_tool_use":
            _check_call(block, seen, at)
            server_calls.add(block["id"])
        else:
            _check_server_result(block, server_calls, at)
    _need(
        content[-1]["type"] not in THINKING,
        f"{where}: The final block in an assistant message cannot be `thinking`.",
    )
    return calls, server_calls


def _check_server_result(block: Block, calls: set[str], at: str) -> None:
    """It follows the server's own call in the same turn, once."""
    call_id = block.get("tool_use_id")
    _need(
        call_id in calls,
        f"{at}: unexpected `tool_use_id` {call_id!r}: no `server_tool_use` block stands before it",
    )
    calls.remove(cast("str", call_id))


def _check_text(block: Block, at: str) -> None:
    text = block.get("text")
    _need(
        isinstance(text, str) and text.strip(),
        f"{at}: text content blocks must contain non-whitespace text",
    )


def _check_signature(block: Block, at: str) -> None:
    _need(set(block) == {"type", "thinking", "signature"}, f"{at}: signature: Field required")
    _need(
        block["signature"] == signature_of(block["thinking"]),
        f"{at}: Invalid `signature` in `thinking` block",
    )


def _check_call(block: Block, seen: set[str], at: str) -> None:
    extra = set(block) - {"type", "id", "name", "input", "cache_control", "caller"}
    _need(not extra, f"{at}: extra inputs are not permitted: {extra}")
    call_id = block.get("id")
    _need(
        isinstance(call_id, str) and _CALL_ID.fullmatch(call_id),
        f"{at}.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
    )
    _need(call_id not in seen, f"{at}: `tool_use` ids must be unique")
    seen.add(cast("str", call_id))
    name = block.get("name")
    _need(isinstance(name, str) and _TOOL_NAME.fullmatch(name), f"{at}.name: not a tool's name")
    _need(isinstance(block.get("input"), dict), f"{at}.input: Input should be a valid dictionary")


def _check_tools(tools: Any) -> None:
    _need(isinstance(tools, list), "tools: must be a list")
    names: set[str] = set()
    for index, each in enumerate(cast("list[Any]", tools)):
        at = f"tools.{index}"
        name = each.get("name")
        _need(isinstance(name, str) and _TOOL_NAME.fullmatch(name), f"{at}.name: not allowed")
        _need(name not in names, "tools: Tool names must be unique.")
        names.add(name)
        schema = each.get("input_schema")
        _need(
            isinstance(schema, dict) and cast("dict[str, Any]", schema).get("type") == "object",
            f"{at}.input_schema.type: must be 'object'",
        )


def _check_thinking(thinking: Any, max_tokens: int) -> None:
    if thinking is None:
        return
    kind = thinking.get("type")
    _need(
        kind in ("enabled", "disabled", "adaptive", "between_tools"), "thinking.type: not allowed"
    )
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        _need(
            isinstance(budget, int) and 1024 <= budget < max_tokens,
            "thinking.enabled.budget_tokens: must be at least 1024 and less than max_tokens",
        )


def _check_system(system: Any) -> None:
    if isinstance(system, list):
        for index, block in enumerate(cast("list[Block]", system)):
            _check_text(block, f"system.{index}")
    else:
        _need(system is None or isinstance(system, str), "system: must be text or blocks")
