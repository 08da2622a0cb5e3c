"""A stand-in server of Chat Completions, small: the second provider's twin, for tests.

Scripts, totals and accidents are those of :mod:`ray_agents.testing.messages_api`; an answer's
thinking comes as ``reasoning_content``. Requests are checked by the rules that differ: results of
tools are messages of their own, each call has one, right after it. In a test::

    async with ChatApi(script=["Hello!"]) as api:
        ...  # ModelSettings(base_url=api.url + "/v1")
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ray_agents.model import Usage
from ray_agents.models.scripted import words
from ray_agents.testing.assistant import assistant
from ray_agents.testing.calls import Call, CallBook, Totals
from ray_agents.testing.loopback import LoopbackServer, json_answer, streamed_answer
from ray_agents.testing.script import Answer, Body, Refusal, Script
from ray_agents.testing.speaking import Frame, Spoken, Tongue

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

CHARS_PER_TOKEN = 4
_DONE: Frame = {}


class ChatApi(LoopbackServer):
    """The server, on a loopback port of its own. ``api_key`` is the only one it takes, if given."""

    def __init__(self, script: Script = assistant, *, api_key: str | None = None) -> None:
        super().__init__()
        self._api_key = api_key
        self._book = CallBook(script)

    @property
    def calls(self) -> Sequence[Call]:
        """The calls that reached it, in order."""
        return self._book.calls

    @property
    def totals(self) -> Totals:
        """Its own count of calls and tokens."""
        return self._book.totals

    def app(self) -> Starlette:
        """The ASGI application."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])

    async def _complete(self, request: Request) -> Response:
        body, headers = await request.json(), dict(request.headers)
        step = self._book.decide(body, self._wrong(headers.get("authorization", ""), body))
        if isinstance(step, Refusal):
            self._book.refuse(body, headers, step)
            content = _error_of(step.kind, step.message)
            return json_answer(content, status=step.status, headers=step.headers)
        usage = step.usage or _estimate(body, step)
        call = self._book.begin(body, headers, usage)
        frames = _stream_of(step, usage, model=body["model"], number=self.totals.calls)
        spoken = Spoken(step, frames, _TONGUE)
        return streamed_answer(
            spoken.chunks(timedelta(0)), ended=lambda: self._book.end(call, whole=spoken.whole)
        )

    def _wrong(self, authorization: str, body: Body) -> Refusal | None:
        if self._api_key is not None and authorization != f"Bearer {self._api_key}":
            return Refusal(status=401, kind="invalid_api_key", message="Incorrect API key")
        told = next(_complaints(body), None)
        return (
            None
            if told is None
            else Refusal(status=400, kind="invalid_request_error", message=told)
        )


def _complaints(body: Body) -> Iterator[str]:
    """What is wrong with a request."""
    if not body.get("stream") or body.get("stream_options") != {"include_usage": True}:
        yield "this stand-in only streams, and tells usage at the end"
    messages: list[Frame] = body.get("messages") or []
    if not messages:
        yield "messages: must not be empty"
    waiting: list[str] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.get("role") == "tool":
            yield from _wrong_result(message, waiting, where)
            continue
        if waiting:
            yield _UNANSWERED.format(where=where, ids=waiting)
        calls: list[Frame] = message.get("tool_calls") or []
        waiting = [each["id"] for each in calls]
        if message.get("role") not in ("system", "user", "assistant"):
            yield f"{where}: unknown role {message.get('role')!r}"
        if not message.get("content") and not waiting:
            yield f"{where}: content must not be empty"
    if waiting:
        yield _UNANSWERED.format(where="the end", ids=waiting)


_UNANSWERED = "{where}: 'tool_calls' must be followed by tool messages; missing: {ids}"


def _wrong_result(message: dict[str, Any], waiting: list[str], where: str) -> Iterator[str]:
    """What is wrong with the result of a call; the call no longer waits for it."""
    if message.get("tool_call_id") not in waiting:
        yield f"{where}: 'tool' must be a response to a preceding 'tool_calls'"
    else:
        waiting.remove(message["tool_call_id"])
    if not isinstance(message.get("content"), str):
        yield f"{where}: the content of 'tool' must be text"


def _estimate(body: Body, answer: Answer) -> Usage:
    asked = len(json.dumps([body.get("tools"), body["messages"]]))
    said = len(json.dumps([answer.text, answer.thinking, list(answer.calls)]))
    return Usage(input_tokens=asked // CHARS_PER_TOKEN, output_tokens=said // CHARS_PER_TOKEN)


def _stream_of(answer: Answer, usage: Usage, *, model: str, number: int) -> Iterator[Frame]:
    def chunk(delta: Frame, finish: str | None = None) -> Frame:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return head | {"choices": [choice]}

    head: Frame = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "model": model}
    head["created"] = 0
    yield chunk({"role": "assistant", "content": ""})
    yield from (chunk({"reasoning_content": word}) for word in words(answer.thinking))
    yield from (chunk({"content": word}) for word in words(answer.text))
    for index, (name, args) in enumerate(answer.calls):
        begun = {"index": index, "id": f"call_{index}", "type": "function"}
        text = json.dumps(args)
        yield chunk({"tool_calls": [begun | {"function": {"name": name, "arguments": ""}}]})
        for piece in (text[:7], text[7:]):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, answer.stop_reason or ("tool_calls" if answer.calls else "stop"))
    yield head | {"choices": [], "usage": _wire_usage(usage)}
    yield _DONE


def _wire_usage(usage: Usage) -> Frame:
    asked = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    return {
        "prompt_tokens": asked,
        "completion_tokens": usage.output_tokens,
        "total_tokens": asked + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
    }


def _encoded(frame: Frame) -> bytes:
    return f"data: {json.dumps(frame) if frame else '[DONE]'}\n\n".encode()


def _error_of(kind: str, message: str) -> Frame:
    return {"error": {"message": message, "type": kind, "code": None, "param": None}}


def _is_word(frame: Frame) -> bool:
    return bool(frame.get("choices") and frame["choices"][0]["delta"])


_TONGUE = Tongue(encoded=_encoded, is_word=_is_word, error_of=_error_of)
