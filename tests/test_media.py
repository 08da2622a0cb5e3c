"""Images and documents, told from JSON that only looks like them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_agents.errors import InvalidPayload
from ray_agents.media import (
    blocks_in,
    check_media,
    document,
    fitted,
    image,
    is_media,
    text_in,
)
from ray_agents.testing.rules import check_messages
from ray_agents.timeline import blocks_said_in

PNG = b"\x89PNG\r\n\x1a\n"
PICTURE = image(PNG)
TEXT = {"type": "text", "text": "see"}


def source(**fields: str) -> dict[str, Any]:
    return {"type": "image", "source": fields}


@pytest.mark.parametrize(
    "block",
    [
        PICTURE,
        document(b"%PDF", title="Report"),
        source(type="url", url="https://example.org/a.png"),
        source(type="file", file_id="file_1"),
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}},
        document(b"%PDF") | {"context": "of 2019", "citations": {"enabled": True}},
    ],
)
def test_what_a_provider_takes_is_media(block: Any) -> None:
    assert is_media(block)
    assert blocks_in(block) == [block]


@pytest.mark.parametrize(
    "value",
    [
        "text",
        {"type": "image"},
        {"type": "image", "source": "a.png"},
        {"type": "video", "source": {"type": "url", "url": "x"}},
        source(type="url", url=""),
        source(type="base64", media_type="image/tiff", data="AAAA"),
        source(type="base64", media_type="image/png", data="AAA"),
        source(type="base64", media_type="image/png", data=""),
        source(type="text", data="hi"),
        source(type="url", url="https://example.org/a.png", name="a"),
        PICTURE | {"title": "an image has none"},
        PICTURE | {"cache_control": {"type": "ephemeral"}, "note": "x"},
        {"type": [], "source": {"type": "url", "url": "x"}},
        {"type": "image", "source": {"type": []}},
        {"type": "image", "source": {"type": {}, "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "base64", "media_type": [], "data": "AAAA"}},
        {"type": "document", "source": {"type": "text", "data": "of no type"}},
        document(b"%PDF") | {"title": 3},
        document(b"%PDF") | {"citations": True},
        [TEXT],
        [PICTURE, {"type": "tool_use"}],
        [PICTURE, 3],
        [],
    ],
)
def test_what_only_resembles_it_is_not(value: Any) -> None:
    assert blocks_in(value) is None


names = st.sampled_from(["content", "type", "source", "media_type", "data", "url", "text", "title"])
leaves = (
    st.none() | st.integers() | st.sampled_from(["image", "url", "base64", "image/png", "AAAA"])
)
anything = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(names, inner))


@given(anything, st.booleans())
def test_whatever_is_sent_it_is_valid_for_a_provider(value: Any, near: bool) -> None:
    block = {"type": "image", "source": value} if near else value
    check_messages([{"role": "user", "content": blocks_said_in({"content": ["look", block]})}])


def test_marks_for_the_cache_are_not_for_senders_to_set() -> None:
    marked = [block | {"cache_control": {"type": "ephemeral"}} for block in (TEXT, PICTURE)]
    assert blocks_in(marked) == [TEXT, PICTURE]


def test_strings_among_blocks_become_text_and_blank_ones_go() -> None:
    assert blocks_in(["see", "", PICTURE]) == [TEXT, PICTURE]


def test_what_is_too_large_is_cut_where_all_can_see_it() -> None:
    large = image(PNG + b"x" * 292)
    kept = fitted([TEXT, PICTURE, large, PICTURE], chars_max=28)
    assert [block["type"] for block in kept] == ["text", "image", "text", "image"]
    assert kept[2]["text"] == "[cut here: this image has 400 characters, and 16 of 28 are left]"


def test_a_result_says_its_text_and_names_the_rest() -> None:
    assert text_in([TEXT, PICTURE]) == "see\n[image]"
    assert text_in("plain") == "plain"


def test_an_image_of_a_type_that_no_model_reads_is_refused() -> None:
    with pytest.raises(InvalidPayload, match="image/tiff"):
        image(b"x", "image/tiff")
    with pytest.raises(InvalidPayload, match="0 bytes"):
        document(b"")


OF_EACH_TYPE = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0 and so on",
    "image/gif": b"GIF89a and so on",
    "image/webp": b"RIFF\x00\n\x00\xffWEBPVP8 ",
}


@pytest.mark.parametrize("named", OF_EACH_TYPE)
@pytest.mark.parametrize("begins", OF_EACH_TYPE)
def test_bytes_must_begin_like_their_type(named: str, begins: str) -> None:
    if named == begins:
        assert is_media(image(OF_EACH_TYPE[begins], named))
        return
    with pytest.raises(InvalidPayload, match=f"not begin like {named}, but like {begins}"):
        image(OF_EACH_TYPE[begins], named)


def test_a_document_is_a_pdf_and_may_begin_a_little_later() -> None:
    assert is_media(document(b"\n" * 1_000 + b"%PDF-1.7"))
    with pytest.raises(InvalidPayload, match="but like image/png"):
        document(PNG)
    with pytest.raises(InvalidPayload, match="does not begin like application/pdf"):
        document(b"Dear Ada")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"media_type": "image/tiff", "data": "SUkqAA=="}, "'image/tiff' is no type of image"),
        ({"media_type": "image/png", "data": "not base64!"}, "is not base64"),
        ({"media_type": "image/png", "data": "iVBORw0K\nGgo="}, "is not base64"),
        ({"media_type": "image/png", "data": "iVBORw0KGgo"}, "is not base64"),
        ({"media_type": "image/png", "data": "h\xe9h\xe9"}, "is not base64"),
        ({"media_type": "image/png", "data": "/9j/4AAQ"}, "but like image/jpeg"),
        ({"media_type": "image/png", "data": ""}, "does not begin like image/png"),
    ],
)
def test_data_that_is_no_such_image_is_refused_at_the_door(fields: Any, said: str) -> None:
    broken = source(type="base64", **fields)
    marked = broken | {"cache_control": {"type": "ephemeral"}}
    for value in (broken, ["see", broken], (TEXT, PICTURE, marked)):
        with pytest.raises(InvalidPayload, match=said):
            check_media(value)
    assert blocks_in(broken) is None  # a log that has it already


@pytest.mark.parametrize(
    "value", [PICTURE, [TEXT, PICTURE], source(type="url", url="x"), {"n": 1}, "text", None, [[]]]
)
def test_all_else_passes(value: Any) -> None:
    check_media(value)
