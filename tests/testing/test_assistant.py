"""The stand-in server's default script."""

import re
from pathlib import Path
from typing import Any

import pytest

from ray_agents.demo import calculator
from ray_agents.testing.assistant import assistant
from ray_agents.testing.script import Answer

TOOLS = [calculator.spec.as_json()]


def ask(*messages: Any, **body: Any) -> Answer:
    spoken: list[Any] = [
        message if isinstance(message, dict) else {"role": role, "content": message}
        for role, message in zip(("user", "assistant") * 9, messages, strict=False)
    ]
    return assistant({"messages": spoken, "tools": TOOLS, **body})


def called(expression: str) -> dict[str, Any]:
    call = {
        "type": "tool_use",
        "id": "t",
        "name": "calculator",
        "input": {"expression": expression},
    }
    return {"role": "assistant", "content": [call]}


def result(text: str, **extra: Any) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": "t", "content": text, **extra}
    return {"role": "user", "content": [block]}


@pytest.mark.parametrize(
    ("question", "expression"),
    [
        ("What is 17 * 23?", "17 * 23"),
        ("what's 17 times 23, please", "17 * 23"),
        ("Divide 1,000 by 8.", "1000 / 8"),
        ("Can you subtract 3 from 10?", "10 - 3"),
        ("(2 + 3) x 4 = ?", "(2 + 3) * 4"),
        ("2 to the power of 10?", "2 ** 10"),
    ],
)
def test_arithmetic_goes_to_the_calculator(question: str, expression: str) -> None:
    assert ask(question).calls == [("calculator", {"expression": expression})]


def test_an_answer_uses_the_result_of_its_call() -> None:
    assert ask("17 * 23?", called("17 * 23"), result("391")).text == "17 * 23 is 391."


def test_what_the_readme_asks_it_can_do() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    asked = re.findall(r'(?:ray-agents ask /\S+|ask\("/assistant/\w+",) "(.*?)"', readme)
    assert len(asked) >= 5
    for question in asked:
        earlier = "My name is Ada. What is 6 * 7?", called("6 * 7"), result("42"), "6 * 7 is 42."
        answer = ask(*earlier, question)
        assert answer.calls or "I have read" not in answer.text


def test_a_failed_call_is_told() -> None:
    answer = ask("1 / 0?", called("1 / 0"), result("division by zero", is_error=True))
    assert "division by zero" in answer.text


def test_that_means_the_last_result() -> None:
    talk = ("17 * 23?", called("17 * 23"), result("391"), {"role": "assistant", "content": "391."})
    answer = ask(*talk, {"role": "user", "content": "multiply that by 2"})
    assert answer.calls == [("calculator", {"expression": "391 * 2"})]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What was my first question?", "17 plus 4"),
        ("What is my name?", "Your name is Ada."),
        ("What was the first number?", "17"),
    ],
)
def test_it_answers_from_earlier_messages(question: str, answer: str) -> None:
    assert answer in ask("My name is Ada. What is 17 plus 4?", "It is 21.", question).text


def test_a_tool_with_one_text_argument_is_called_by_its_name() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"name": "get_weather", "description": "", "input_schema": schema}]
    answer = ask("How is the weather in Rome?", tools=tools)
    assert answer.calls == [("get_weather", {"city": "Rome"})]


def test_without_tools_it_still_answers() -> None:
    assert "17" in ask("What is 17 * 23?", tools=[]).text


def test_it_thinks_when_asked_to() -> None:
    assert ask("2 + 2?", thinking={"type": "adaptive"}).thinking
    assert not ask("2 + 2?").thinking
