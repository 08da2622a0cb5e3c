"""The demo's calculator and registry."""

import subprocess
import sys

import pytest

from ray_agents.demo import calculator, registry
from ray_agents.errors import InvalidPayload


@pytest.mark.parametrize(
    ("expression", "value"),
    [("17 * 23", 391), ("-(2 + 3) ** 2", -25), ("7 // 2 + 7 % 4", 6), ("1 / 4", 0.25), ("+3", 3)],
)
def test_the_calculator_calculates(expression: str, value: float) -> None:
    assert calculator(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "1 / 0",
        "2 ** 65",
        "10 ** 40",
        "0 ** -1",
        "(-8) ** 0.5",
        "x + 1",
        "True",
        "a.b",
        "1 +",
        "'a'",
    ],
)
def test_the_calculator_refuses_what_is_not_bounded_arithmetic(expression: str) -> None:
    with pytest.raises(InvalidPayload):
        calculator(expression)


def test_the_registry_has_the_assistant() -> None:
    assert registry.get("assistant").description


def test_the_demo_is_imported_without_ray_and_without_the_sdk() -> None:
    code = "import sys, ray_agents.demo; print({'ray', 'anthropic', 'fastapi'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
