"""The demo's registry: one entity type, ``assistant``, that remembers and can calculate."""

from __future__ import annotations

import ast
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
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
            value = _value(operand)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return _bounded(_binary(op, _value(left), _value(right)))
        case _:
            raise InvalidPayload(f"{ast.unparse(node)!r} is not arithmetic")


def _binary(op: ast.operator, left: float, right: float) -> Any:
    if isinstance(op, ast.Div | ast.FloorDiv | ast.Mod) and right == 0:
        raise InvalidPayload("division by zero")
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.FloorDiv():
            return left // right
        case ast.Mod():
            return left % right
        case ast.Pow() if abs(right) <= EXPONENT_MAX and (left or right >= 0):
            return left**right
        case _:
            raise InvalidPayload(f"{left:g} {type(op).__name__} {right:g} is not allowed")


def _bounded(number: Any) -> float:
    if not isinstance(number, int | float) or not abs(number) <= NUMBER_MAX:
        raise InvalidPayload(f"a value is not a number up to {NUMBER_MAX:g}")
    return number


@registry.entity("assistant", description="A helpful assistant that remembers and calculates")
async def assistant(ctx: Any, wake: Any) -> None:  # noqa: ARG001 -- every handler takes both
    """Answer what was said since the last wake."""
    ctx.use_agent(system_prompt=SYSTEM_PROMPT, model=DEFAULT_MODEL, tools=[calculator])
    await ctx.agent.run()
