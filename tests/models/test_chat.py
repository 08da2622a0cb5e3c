"""Two transcripts' rules, and how the one is made of the other."""

from typing import Any

import pytest

from ray_agents.media import document, image
from ray_agents.model import Answered, Block, ModelEvent, ModelRequest, ToolCallBegun, Usage
from ray_agents.models.answers import TornAnswer
from ray_agents.models.chat import ChatInParts, chat_messages, usage_in

HI: Block = {"type": "text", "text": "hi"}


def call(call_id: str, **args: Any) -> Block:
    return {"type": "tool_use", "id": call_id, "name": "look", "input": args}


def request(*turns: list[Block]) -> ModelRequest:
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": r, "content": c} for r, c in zip(roles, turns, strict=False)]
    return ModelRequest(model="m", messages=messages)


def mapped(*turns: list[Block]) -> list[dict[str, Any]]:
    return chat_messages(request(*turns))


def result(call_id: str, content: Any, **more: Any) -> Block:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content} | more


def answered(*deltas: Any, finish: str | None = "stop", asked: ModelRequest | None = None) -> Any:
    parts = ChatInParts(asked or request([HI]))
    events: list[ModelEvent] = []
    for delta in deltas:
        events += parts.take({"choices": [{"delta": delta}]})
    events += parts.take({"choices": [{"delta": {}, "finish_reason": finish}]})
    return parts.answered(), events


def test_results_are_messages_of_their_own_and_errors_say_so() -> None:
    results = [result("a", "sky"), result("b", "no", is_error=True), HI]
    assert mapped([HI], [HI, call("a", at=1), call("b")], results)[1:] == [
        {
            "role": "assistant",
            "content": "hi",
            "tool_calls": [
                {"id": "a", "type": "function", "function": _function('{"at": 1}')},
                {"id": "b", "type": "function", "function": _function("{}")},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "sky"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: no"},
        {"role": "user", "content": [HI]},
    ]


def _function(arguments: str) -> dict[str, str]:
    return {"name": "look", "arguments": arguments}


def test_images_in_a_result_follow_it() -> None:
    shown = mapped([HI], [call("a")], [result("a", [HI, image(b"\x89PNG\r\n\x1a\n")])])[2:]
    assert shown[0]["content"] == "hi\n[image]"
    assert shown[1]["content"][0]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="


def test_documents_are_files_and_what_cannot_be_shown_is_named() -> None:
    stranger: Block = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
    parts = mapped([document(b"%PDF", title="a.pdf"), stranger])[0]["content"]
    assert parts[0]["file"] == {
        "filename": "a.pdf",
        "file_data": "data:application/pdf;base64,JVBERg==",
    }
    assert parts[1]["text"] == "[a image that cannot be shown here: file_1]"


def test_what_only_another_provider_reads_is_left_out() -> None:
    thought: Block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    assert mapped([HI], [thought], [HI])[1:] == [{"role": "user", "content": [HI]}]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
        ("new", "new"),
    ],
)
def test_reasons_to_stop_are_ours(finish: str, reason: str) -> None:
    answer, _ = answered({"content": "a"}, finish=finish)
    assert answer.stop_reason == reason


def test_a_refusal_is_one() -> None:
    answer, _ = answered({"refusal": "I cannot."})
    assert (answer.stop_reason, answer.content[0]["text"]) == ("refusal", "I cannot.")


def test_ids_that_are_missing_or_taken_are_made_anew() -> None:
    before = request([HI], [call("call_0")], [result("call_0", "x")])
    parts: list[Any] = [
        {"index": 0, "id": "call_0", "function": {"name": "a", "arguments": "{"}},
        {"index": 1, "id": None, "function": {"name": "b", "arguments": None}},
        {"index": 0, "function": {"arguments": '"x": 1}'}},
    ]
    answer, events = answered(*[{"tool_calls": [part]} for part in parts], asked=before)
    assert [block["id"] for block in answer.content] == ["call_0000", "call_0001"]
    assert [block["input"] for block in answer.content] == [{"x": 1}, {}]
    begun = [event.id for event in events if isinstance(event, ToolCallBegun)]
    assert (begun, answer.stop_reason) == (["call_0000", "call_0001"], "tool_use")


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_arguments_that_are_no_object_stay_readable(text: str) -> None:
    answer, _ = answered({"tool_calls": [{"index": 0, "function": {"arguments": text}}]})
    assert answer.content[0]["input"] == {"INVALID_JSON": text}


def test_an_answer_without_an_end_is_torn() -> None:
    with pytest.raises(TornAnswer):
        answered({"content": "a"}, finish=None)


def test_cached_tokens_are_not_counted_twice() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 3}
    details = {"prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 1}}
    assert usage_in(usage | details) == Usage(
        input_tokens=3, output_tokens=3, cache_read_tokens=6, cache_write_tokens=1
    )
    assert isinstance(answered({"content": "a"})[0], Answered)
