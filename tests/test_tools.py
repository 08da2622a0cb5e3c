"""Tools made from typed functions."""

import pickle
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Annotated, Literal

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]
import pytest
from pydantic import BaseModel, Field

from ray_agents.errors import InvalidDefinition, InvalidPayload
from ray_agents.media import image
from ray_agents.tools import Tool, tool


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class Place(BaseModel):
    city: str
    country: str | None = None


@tool
async def weather(
    place: Place,
    unit: Unit = Unit.CELSIUS,
    days: Annotated[int, Field(ge=1, description="how many days")] = 3,
    style: Literal["short", "long"] | None = None,
) -> str:
    """Say what the weather will be.

    Args:
        place: where it is,
            as exactly as you can
        days: ignored, for the annotation says more
        unit: of the temperatures
        style: of the answer
    """
    return f"{place.city} {unit.value} {days} {style}"


def test_the_name_and_description_come_from_the_function() -> None:
    assert (weather.name, weather.description) == ("weather", "Say what the weather will be.")


def test_the_schema_says_what_the_signature_says() -> None:
    schema = weather.input_schema
    properties = schema["properties"]
    assert schema["required"] == ["place"]
    assert schema["additionalProperties"] is False
    assert properties["place"]["description"] == "where it is, as exactly as you can"
    assert properties["days"] == {
        "type": "integer",
        "minimum": 1,
        "default": 3,
        "description": "how many days",
    }
    assert schema["$defs"]["Unit"]["enum"] == ["celsius", "fahrenheit"]
    assert schema["$defs"]["Place"]["required"] == ["city"]
    assert {"enum": ["short", "long"], "type": "string"} in properties["style"]["anyOf"]


def test_the_schema_carries_no_titles_but_keeps_arguments_named_title() -> None:
    @tool
    def rename(title: str) -> None:
        """Rename."""
        _ = title

    assert rename.input_schema["properties"] == {"title": {"type": "string"}}
    assert "title" not in rename.input_schema


async def test_a_call_gets_arguments_of_their_declared_types() -> None:
    args = weather.check({"place": {"city": "Rome"}, "unit": "fahrenheit"})
    assert await weather.call(args) == "Rome fahrenheit 3 None"


@pytest.mark.parametrize(
    ("args", "field"),
    [
        ({"place": {"city": 3}}, "place.city"),
        ({"place": {"city": "Rome"}, "days": 0}, "days"),
        ({"place": {"city": "Rome"}, "unit": "kelvin"}, "unit"),
        ({"place": {"city": "Rome"}, "mood": "good"}, "mood"),
        ({}, "place"),
        ([1], "arguments"),
    ],
)
def test_wrong_arguments_are_refused_by_the_name_of_their_field(args: object, field: str) -> None:
    with pytest.raises(InvalidPayload, match=repr(field)) as caught:
        weather.check(args)
    assert caught.value.facts["fields"] == [field]


def test_arguments_may_have_names_that_pydantic_uses_itself() -> None:
    @tool
    def odd(schema: int, json: int, copy: int = Field(3, ge=2)) -> int:
        """Add."""
        return schema + json + copy

    assert odd.call(odd.check({"schema": 1, "json": 2})) == 6
    with pytest.raises(InvalidPayload, match="'copy'"):
        odd.check({"schema": 1, "json": 2, "copy": 1})


def test_a_tool_can_still_be_called_as_the_function_it_was() -> None:
    @tool(name="adder", idempotent=True, timeout=timedelta(seconds=1))
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    assert add(1, 2) == 3
    assert (add.name, add.idempotent, add.blocking) == ("adder", True, True)


def test_variadic_and_positional_only_parameters_are_refused() -> None:
    def variadic(*numbers: int) -> None: ...
    def positional(number: int, /) -> None: ...

    for function in (variadic, positional):
        with pytest.raises(InvalidDefinition, match=function.__name__):
            tool(function)


def test_a_parameter_without_a_schema_is_refused_by_the_name_of_its_tool() -> None:
    class Socket: ...

    def connect(socket: Socket) -> None: ...

    with pytest.raises(InvalidDefinition, match="connect"):
        tool(connect)


@pytest.mark.parametrize("name", ["", "with space", "x" * 65, "über"])
def test_a_name_the_provider_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(InvalidDefinition, match="name"):
        Tool.of(Place, repr, name=name)


def test_a_tool_can_be_built_from_a_model_and_a_callable() -> None:
    def greet(place: Place) -> str:
        """Greet a place."""
        return f"Hello, {place.city}"

    made = Tool.of(Place, greet)
    assert (made.name, made.description) == ("greet", "Greet a place.")
    assert made.call(made.check({"city": "Rome"})) == "Hello, Rome"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("plain", "plain"),
        ("", "(empty text)"),
        (None, "(no result)"),
        ({"a": [1, 2.5]}, '{"a":[1,2.5]}'),
        (Place(city="Rome"), '{"city":"Rome","country":null}'),
    ],
)
def test_results_become_text(result: object, text: str) -> None:
    assert weather.render(result) == text


def test_a_long_result_is_cut_and_says_so() -> None:
    made = Tool.of(Place, repr, name="x", result_chars_max=10)
    assert made.render("x" * 25) == "x" * 10 + "\n[cut here: the first 10 of 25 characters]"


def test_images_and_documents_stay_blocks_and_text_beside_them_is_cut() -> None:
    made = Tool.of(Place, repr, name="x", result_chars_max=3)
    picture = image(b"\x89PNG\r\n\x1a\n")
    assert made.render(picture) == [picture]
    told = "lon\n[cut here: the first 3 of 4 characters]"
    assert made.render(["long", picture]) == [{"type": "text", "text": told}, picture]


@dataclass
class Report:
    title: str
    places: tuple[Place, ...]


def test_dataclasses_models_and_what_is_in_them_become_json() -> None:
    told = '{"title":"All","places":[{"city":"Rome","country":null}]}'
    assert weather.render(Report("All", (Place(city="Rome"),))) == told
    assert weather.render([Place(city="Rome")]) == '[{"city":"Rome","country":null}]'
    assert weather.render((1, "a")) == '[1,"a"]'


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_picture_among_other_things_stays_a_picture(kind: type) -> None:
    picture, text = image(b"\x89PNG\r\n\x1a\n"), {"type": "text", "text": "seen"}
    rendered = weather.render(kind(["before", picture, Place(city="Rome"), {"n": 1}, text, None]))
    assert rendered == [
        {"type": "text", "text": "before"},
        picture,
        {"type": "text", "text": '{"city":"Rome","country":null}'},
        {"type": "text", "text": '{"n":1}'},
        text,
        {"type": "text", "text": "null"},
    ]


def test_a_picture_that_is_none_fails_the_tool_and_says_why() -> None:
    picture = image(b"\x89PNG\r\n\x1a\n")
    picture["source"]["media_type"] = "image/gif"
    for result in (picture, ["before", picture, Place(city="Rome")]):
        with pytest.raises(InvalidPayload, match="not begin like image/gif, but like image/png"):
            weather.render(result)


def test_text_in_an_annotation_describes_and_the_docstring_does_not_overrule_it() -> None:
    @tool
    def go(
        to: Annotated[Place | None, "where to"],
        by: Annotated[Unit, "how", Field(description="by what")] = Unit.CELSIUS,
        *,
        fast: bool = False,
    ) -> None:
        """Go.

        Args:
            to: overruled
            by: overruled
            fast: or slowly
        """
        _ = (to, by, fast)

    properties = go.input_schema["properties"]
    told = {name: field["description"] for name, field in properties.items()}
    assert told == {"to": "where to", "by": "by what", "fast": "or slowly"}
    assert {"type": "null"} in properties["to"]["anyOf"]
    assert go.input_schema["required"] == ["to"]


def test_nested_models_are_checked_to_the_bottom() -> None:
    class Trip(BaseModel):
        stops: list[Place]
        unit: Unit | None = None

    @tool
    def plan(trip: Trip, backup: Trip | None = None) -> str:
        """Plan."""
        return f"{trip.stops[0].city} {trip.unit} {backup}"

    args = plan.check({"trip": {"stops": [{"city": "Rome"}], "unit": "celsius"}})
    assert plan.call(args) == "Rome Unit.CELSIUS None"
    with pytest.raises(InvalidPayload, match=r"'trip.stops.0.city'"):
        plan.check({"trip": {"stops": [{"city": 3}]}})


def test_a_result_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidPayload, match="'weather'"):
        weather.render(object())


def test_a_tool_travels_by_value() -> None:
    copy = pickle.loads(cloudpickle.dumps(weather))  # noqa: S301 # pyright: ignore[reportUnknownMemberType]
    assert copy.spec == weather.spec
    assert copy.check({"place": {"city": "Rome"}}).a0.city == "Rome"
