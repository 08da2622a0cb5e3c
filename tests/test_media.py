"""Images and documents, told from JSON that only looks like them."""

from typing import Any

import pytest

from ray_agents.errors import InvalidPayload
from ray_agents.media import blocks_in, document, fitted, image, is_media, text_in

PICTURE = image(b"png")
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
        [TEXT],
        [PICTURE, {"type": "tool_use"}],
        [PICTURE, 3],
        [],
    ],
)
def test_what_only_resembles_it_is_not(value: Any) -> None:
    assert blocks_in(value) is None


def test_strings_among_blocks_become_text_and_blank_ones_go() -> None:
    assert blocks_in(["see", "", PICTURE]) == [TEXT, PICTURE]


def test_what_is_too_large_is_cut_where_all_can_see_it() -> None:
    large = image(b"x" * 300)
    kept = fitted([TEXT, PICTURE, large, PICTURE], chars_max=8)
    assert [block["type"] for block in kept] == ["text", "image", "text", "image"]
    assert kept[2]["text"] == "[cut here: this image has 400 characters, and 4 of 8 are left]"


def test_a_result_says_its_text_and_names_the_rest() -> None:
    assert text_in([TEXT, PICTURE]) == "see\n[image]"
    assert text_in("plain") == "plain"


def test_an_image_of_a_type_that_no_model_reads_is_refused() -> None:
    with pytest.raises(InvalidPayload, match="image/tiff"):
        image(b"x", "image/tiff")
    with pytest.raises(InvalidPayload, match="0 bytes"):
        document(b"")
