"""Tools: what a model may call, made from typed functions.

``@tool`` reads a function's signature and docstring and makes a :class:`Tool`: pydantic gives the
JSON schema and checks what the model sends. A tool never raises into the loop: wrong arguments
and failures become results that the model can read and act on. This module only describes and
checks; ``loop.py`` runs the function.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from types import FunctionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import to_json

from ray_agents.docstrings import argument_docs, without_arguments
from ray_agents.errors import InvalidDefinition, InvalidPayload
from ray_agents.injected import Injected, asked_by
from ray_agents.media import blocks_in, check_media, fitted, is_block, is_media
from ray_agents.model import Block, ToolSpec
from ray_agents.progress import ToolProgress

RESULT_CHARS_MAX = 50_000
ERROR_CHARS_MAX = 4_000
TOOL_TIMEOUT = timedelta(minutes=2)
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

Approval = Literal["required"]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something a model may call. ``call`` gets the checked arguments, an ``arguments`` model.

    ``idempotent`` says that running it twice is as good as once: only then is it run again after
    a crash interrupted it. ``timeout`` ends it with an error result for the model. ``blocking``
    says that ``call`` is a plain function, which the loop runs in a thread.

    With ``approval="required"`` each call of it waits until people have approved it; meanwhile
    the entity sleeps. A call that nobody has decided on within ``approval_timeout`` counts as
    denied; None waits for ever. ``wants`` are the parameters that the model does not fill in and
    that were not given yet (:meth:`given`).
    """

    name: str
    description: str
    arguments: type[BaseModel]
    input_schema: Mapping[str, Any]
    call: Callable[[Any], Any]
    blocking: bool
    idempotent: bool = False
    timeout: timedelta = TOOL_TIMEOUT
    result_chars_max: int = RESULT_CHARS_MAX
    approval: Approval | None = None
    approval_timeout: timedelta | None = None
    function: Callable[..., Any] | None = None
    wants: Mapping[str, type[Injected]] = field(default_factory=dict[str, type[Injected]])

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            message = f"{self.name!r} cannot be a tool's name; it must match {_NAME.pattern}"
            raise InvalidDefinition(message, tool=self.name)
        if self.timeout <= timedelta(0) or self.result_chars_max < 1:
            message = f"tool {self.name!r}: timeout and result_chars_max must be positive"
            raise InvalidDefinition(message, tool=self.name)
        if self.approval not in (None, "required"):
            message = f"tool {self.name!r}: approval={self.approval!r}; it is 'required' or None"
            raise InvalidDefinition(message, tool=self.name)
        bound = self.approval_timeout
        if bound is not None and (self.approval is None or bound <= timedelta(0)):
            message = f"tool {self.name!r}: approval_timeout={bound!r} needs approval='required'"
            raise InvalidDefinition(f"{message}, and to be positive", tool=self.name)

    def given(self, value: Injected) -> Tool:
        """The tool, its parameters that ask for something like ``value`` given it."""
        names = [name for name, kind in self.wants.items() if isinstance(value, kind)]
        if not names:
            return self
        wants = {name: kind for name, kind in self.wants.items() if name not in names}
        call = partial(self.call, **dict.fromkeys(names, value))
        return replace(self, call=call, wants=wants)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the decorated function itself, unchecked, as if it were not a tool."""
        if self.function is None:
            raise InvalidDefinition(f"tool {self.name!r} was not made from a function")
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        options = {
            "name": self.name,
            "description": self.description,
            "idempotent": self.idempotent,
            "timeout": self.timeout,
            "result_chars_max": self.result_chars_max,
            "approval": self.approval,
            "approval_timeout": self.approval_timeout,
        }
        if self.function is not None:
            return partial(tool, self.function, **options), ()
        return partial(Tool.of, self.arguments, self.call, **options), ()

    @classmethod
    def of(
        cls,
        arguments: type[M],
        call: Callable[[M], Any],
        *,
        name: str | None = None,
        description: str | None = None,
        idempotent: bool = False,
        timeout: timedelta = TOOL_TIMEOUT,
        result_chars_max: int = RESULT_CHARS_MAX,
        approval: Approval | None = None,
        approval_timeout: timedelta | None = None,
    ) -> Tool:
        """A tool from a pydantic model of its arguments and an (async) callable on it.

        Raises:
            InvalidDefinition: the name or a bound is not allowed.
        """
        return cls(
            name=getattr(call, "__name__", arguments.__name__) if name is None else name,
            description=description or inspect.getdoc(call) or inspect.getdoc(arguments) or "",
            arguments=arguments,
            input_schema=_schema_of(arguments),
            call=call,
            blocking=not inspect.iscoroutinefunction(call),
            idempotent=idempotent,
            timeout=timeout,
            result_chars_max=result_chars_max,
            approval=approval,
            approval_timeout=approval_timeout,
        )

    @property
    def spec(self) -> ToolSpec:
        """The tool as the model sees it."""
        return ToolSpec(
            name=self.name, description=self.description, input_schema=self.input_schema
        )

    def check(self, args: Any) -> BaseModel:
        """The arguments a model sent, validated.

        Raises:
            InvalidPayload: they do not fit; the message names every wrong field.
        """
        try:
            return self.arguments.model_validate(args)
        except ValidationError as error:
            wrong = [
                (".".join(map(str, item["loc"])) or "arguments", item["msg"])
                for item in error.errors(include_url=False, include_context=False)
            ]
            text = "; ".join(f"{field!r}: {message}" for field, message in wrong)
            raise InvalidPayload(
                f"the arguments of {self.name!r} are not valid: {text}",
                tool=self.name,
                fields=[field for field, _ in wrong],
            ) from error

    def render(self, result: Any) -> str | list[Block]:
        """What the model reads of a result: text as it is, anything else as JSON, cut if long.

        Images and documents (:mod:`ray_agents.media`) stay blocks, alone or in a list or tuple;
        what else is in it stands as text between them.

        Raises:
            InvalidPayload: the result cannot be written as JSON, or an image in it is none.
        """
        if isinstance(result, str):
            return cut(result, chars_max=self.result_chars_max) or "(empty text)"
        if result is None:
            return "(no result)"
        check_media(result)
        if (blocks := blocks_in(self._told_apart(result))) is not None:
            return [self._cut_text(block) for block in fitted(blocks)]
        return cut(self._json(result), chars_max=self.result_chars_max)

    def _told_apart(self, result: Any) -> Any:
        """A sequence with media among other things, these as text; anything else as it is."""
        if not isinstance(result, list | tuple):
            return result
        items = list(cast("Sequence[Any]", result))
        if not any(is_media(item) for item in items):
            return items
        return [item if is_block(item) else self._json(item) for item in items]

    def _json(self, result: Any) -> str:
        try:
            return to_json(result, inf_nan_mode="constants").decode()
        except (ValueError, TypeError) as error:
            message = f"the result of {self.name!r} cannot be written as JSON: {error}"
            raise InvalidPayload(message, tool=self.name) from error

    def _cut_text(self, block: Block) -> Block:
        if block["type"] != "text":
            return block
        return block | {"text": cut(block["text"], chars_max=self.result_chars_max)}


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    timeout: timedelta = TOOL_TIMEOUT,
    result_chars_max: int = RESULT_CHARS_MAX,
    approval: Approval | None = None,
    approval_timeout: timedelta | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a tool of a typed function, sync or async; options are the fields of :class:`Tool`.

    The schema comes from the signature (``Annotated`` and ``Field`` say more), the description
    from the docstring, whose ``Args:`` section describes the arguments. A parameter annotated
    ``Context`` or ``ToolProgress`` is no argument: the tool is given one when it runs.

    Raises:
        InvalidDefinition: a parameter is positional-only, variadic, or has no JSON schema.
    """
    if function is None:
        return partial(_tool_of, options=options)
    return _tool_of(function, options=options)


def _tool_of(function: Callable[..., Any], *, options: Mapping[str, Any]) -> Tool:
    arguments, names, wants = _arguments_of(function)
    blocking = not inspect.iscoroutinefunction(function)
    doc = inspect.getdoc(function) or ""
    fields = {
        "name": function.__name__,
        "description": without_arguments(doc),
    } | {name: value for name, value in options.items() if value is not None}
    made = Tool(
        arguments=arguments,
        input_schema=_schema_of(arguments),
        call=partial(_call_with, function, names),
        blocking=blocking,
        function=function,
        wants=wants,
        **cast("dict[str, Any]", fields),
    )
    return made.given(ToolProgress())


def cut(text: str, *, chars_max: int) -> str:
    """``text``, or its beginning with a line that says how much is missing."""
    if len(text) <= chars_max:
        return text
    return f"{text[:chars_max]}\n[cut here: the first {chars_max} of {len(text)} characters]"


def _call_with(
    function: Callable[..., Any], names: Mapping[str, str], values: BaseModel, /, **given: Injected
) -> Any:
    return function(**{name: getattr(values, field) for field, name in names.items()}, **given)


def _arguments_of(
    function: Callable[..., Any],
) -> tuple[type[BaseModel], dict[str, str], dict[str, type[Injected]]]:
    """A model of the parameters, whose fields have neutral names so that none can clash.

    And the parameters' names by field, and those that are not the model's to fill in.
    """
    docs = argument_docs(inspect.getdoc(function) or "")
    hints = _hints_of(function)
    # By value, a function travels with its annotations but not with the names they are spelt in.
    if isinstance(function, FunctionType):
        function.__annotations__ = hints
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    wants: dict[str, type[Injected]] = {}
    for index, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            message = (
                f"tool {function.__name__!r}: parameter {parameter.name!r} is "
                f"{parameter.kind.description}; a model calls by name, so make it an ordinary one"
            )
            raise InvalidDefinition(message, tool=function.__name__)
        if (asked := asked_by(hints.get(parameter.name))) is not None:
            wants[parameter.name] = asked
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        hint = _described(hints.get(parameter.name, Any), docs.get(parameter.name))
        fields[f"a{index}"] = (hint, default)
        names[f"a{index}"] = parameter.name
    config = ConfigDict(extra="forbid", alias_generator=names.__getitem__)
    try:
        model = create_model(f"{function.__name__}_arguments", __config__=config, **fields)
    except PydanticUserError as error:
        message = f"tool {function.__name__!r} has a parameter without a JSON schema: {error}"
        raise InvalidDefinition(message, tool=function.__name__) from error
    return model, names, wants


def _described(hint: Any, description: str | None) -> Any:
    """``hint`` with a description from the docstring, which any other it has overrides.

    Text in ``Annotated`` is a description, too.
    """
    base, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    texts = [description] if description is not None else []
    texts += [each for each in metadata if isinstance(each, str)]
    if not texts:
        return hint
    others = [each for each in metadata if not isinstance(each, str)]
    return Annotated[(base, Field(description=texts[-1]), *others)]


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        message = (
            f"tool {function.__name__!r}: an annotation cannot be resolved ({error}); "
            "define the type at module level"
        )
        raise InvalidDefinition(message, tool=function.__name__) from error


def _schema_of(arguments: type[BaseModel]) -> dict[str, Any]:
    schema = _untitled(arguments.model_json_schema())
    schema.setdefault("properties", {})
    return schema


def _untitled(schema: Any, *, names: bool = False) -> Any:
    """``schema`` without pydantic's titles, which repeat names; ``names``: keys are names."""
    if isinstance(schema, list):
        return [_untitled(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value
        if key in ("default", "const", "enum", "examples") and not names
        else _untitled(value, names=key in ("properties", "$defs") and not names)
        for key, value in cast("dict[str, Any]", schema).items()
        if names or key != "title" or not isinstance(value, str)
    }
