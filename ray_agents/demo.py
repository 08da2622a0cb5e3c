"""The demo's registry: one entity type, ``assistant``, that remembers and can calculate."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from ray_agents.definition import Registry
from ray_agents.errors import InvalidPayload
from ray_agents.model import DEFAULT_MODEL
from ray_agents.tools import tool

SYSTEM_PROMPT = (
    "You are a helpful assistant with a long memory: everything said to you, and everything you "
    "answered, is in this conversation. Use the calculator for arithmetic. Be brief."
)
EXPRESSION_CHARS_MAX = 200
EXPONENT_MAX = 64
NUMBER_MAX = 1e30

registry = Registry()

_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


@tool(idempotent=True)
def calculator(
    expression: Annotated[str, Field(min_length=1, max_length=EXPRESSION_CHARS_MAX)],
) -> float:
    """Work out an arithmetic expression of numbers, + - * / // % ** and parentheses.

    Args:
        expression: for example ``(17 + 4) * 2``
    """
    try:
        parsed = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise InvalidPayload(f"{expression!r} is not arithmetic: {error.msg}") from error
    return _value(parsed.body)


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=bool()):
            raise InvalidPayload(f"{node.value!r} is not a number")
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _binary(type(op), _value(left), _value(right))
        case _:
            raise InvalidPayload(f"{ast.unparse(node)!r} is not arithmetic")


def _binary(kind: type[ast.operator], left: float, right: float) -> float:
    if kind is ast.Pow and abs(right) > EXPONENT_MAX:
        raise InvalidPayload(f"exponent {right:g} is over {EXPONENT_MAX}")
    try:
        result = _OPERATORS[kind](left, right)
    except ZeroDivisionError as error:
        raise InvalidPayload("division by zero") from error
    return _bounded(result)


def _bounded(number: Any) -> float:
    if not isinstance(number, int | float) or not abs(number) <= NUMBER_MAX:
        raise InvalidPayload(f"a value is not a number up to {NUMBER_MAX:g}")
    return number


@registry.entity("assistant", description="A helpful assistant that remembers and calculates")
async def assistant(ctx: Any, wake: Any) -> None:
    """Answer what was said since the last wake."""
    ctx.use_agent(system_prompt=SYSTEM_PROMPT, model=DEFAULT_MODEL, tools=[calculator])
    await ctx.agent.run()
