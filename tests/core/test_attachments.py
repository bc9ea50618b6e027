"""Images of this machine: what is read, how it is sent, and what is refused."""

from __future__ import annotations

import base64
import os
import pickle
from pathlib import Path

import pytest
from support.images import IMAGES, PNG, data_url, encoded

from bailian_apps import AppRequest, BailianApp, InvalidInputError
from bailian_apps.core.attachments import (
    MAX_DATA_URL_BYTES,
    InlineImage,
    images_digest,
    read_image,
    unwrap_images,
    with_short_images,
)


def sent(*images: object) -> list[str]:
    """What stands in the body of a request with these images."""
    return AppRequest(app_id="a", prompt="p", image_list=images).input()["image_list"]


def refusal(image: object) -> InvalidInputError:
    """What a call raises for an image. Nothing listens at its address, so nothing can be sent."""
    app = BailianApp(app_id="a", api_key="k", base_url="http://127.0.0.1:9/api/v1", max_retries=0)
    with pytest.raises(InvalidInputError) as caught:
        app.invoke("p", image_list=["https://a/1.png", image])
    return caught.value


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("form", ["bytes", "path", "data URL", "base64 bytes", "bytearray"])
def test_an_image_in_any_form_is_sent_as_a_data_url(kind: str, form: str, tmp_path: Path) -> None:
    content = IMAGES[kind]
    path = tmp_path / "image"
    path.write_bytes(content)
    forms = {
        "bytes": content,
        "path": path,
        "data URL": data_url(content, kind),
        "base64 bytes": encoded(content).encode(),
        "bytearray": bytearray(content),
    }
    assert sent(forms[form]) == [data_url(content, kind)]


@pytest.mark.parametrize(
    "head",
    ["data:image/jpeg;base64", "data:;base64", "DATA:IMAGE/PNG;BASE64", "data:a/b;name=c;base64"],
)
def test_the_type_of_a_data_url_is_that_of_its_content(head: str) -> None:
    assert sent(f"{head},{encoded(PNG)}") == [data_url(PNG)]


def test_the_type_of_a_file_is_not_that_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "lake.jpg"
    path.write_bytes(PNG)
    assert sent(path) == [data_url(PNG)]


def test_base64_may_have_line_breaks() -> None:
    text = encoded(PNG)
    broken = f"{text[:8]}\r\n{text[8:]}\n"
    forms = [f"data:image/png;base64,{broken}", broken.encode()]
    assert sent(*forms) == [data_url(PNG)] * 2
    assert len({images_digest([form]) for form in (*forms, PNG)}) == 1
    short = "data:image/png;base64,… (24 bytes)"
    assert [str(read_image(form, "")) for form in forms] == [short] * 2


def test_line_breaks_do_not_count_as_part_of_an_image() -> None:
    largest = base64.encodebytes(PNG + bytes(7_864_296 - len(PNG)))
    [url] = sent("data:image/png;base64," + largest.decode())
    assert MAX_DATA_URL_BYTES - 16 < len(url) <= MAX_DATA_URL_BYTES


def test_a_digest_is_computed_once_for_each_image() -> None:
    image = InlineImage(PNG, "")
    assert image.digest() is image.digest()


def test_a_data_url_that_is_right_is_sent_as_it_is() -> None:
    url = data_url(PNG)
    assert sent(url)[0] is url


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("data:image/png;base64,%%s3cret", "is not valid base64"),
        ("data:image/png;base64,s3cre", "is not valid base64"),
        ("data:image/png;base64,", "is an empty Data URL"),
        ("data:image/png,s3cret", "is a Data URL without base64"),
        ("data:image/png;base64", "is a Data URL without base64"),
        (data_url(b"s3cret"), "is not an image of a known type. Pass PNG, JPEG, GIF, WebP"),
        (b"s3cret", "is not an image of a known type"),
        (b"BMW s3cret, a text that begins as an image", "is not an image of a known type"),
        (b"", "is empty"),
        ("s3cret.png", "is text that is neither an http(s) URL nor a Data URL"),
        (encoded(PNG), "is text that is neither"),
        (5, "is of type int, which is not an image"),
        (None, "has neither an address nor content. Pass an http:// or https:// address"),
        ("", "has neither an address nor content"),
        (Path("/s3cret.png"), "is the path of a file that does not exist"),
        (Path("/s3cret\0.png"), "is the path of a file that does not exist"),
    ],
)
def test_what_is_no_image_is_refused_by_its_index(image: object, problem: str) -> None:
    error = refusal(image)
    assert error.field == "image_list[1]"
    assert problem in str(error)
    assert "s3cre" not in str(error)


def test_a_path_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    text, empty, pipe = tmp_path / "text.png", tmp_path / "empty.png", tmp_path / "pipe.png"
    text.write_text("hello")
    empty.touch()
    assert "is the path of a directory" in str(refusal(tmp_path))
    assert "is not an image of a known type" in str(refusal(text))
    assert "is the path of an empty file" in str(refusal(empty))
    if hasattr(os, "mkfifo"):  # reading it would wait for ever
        os.mkfifo(pipe)
        assert "is the path of what is not a regular file" in str(refusal(pipe))
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    assert "is the path of what is not a regular file" in str(refusal(loop))


def test_an_image_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # takes no space; reading it would take all memory
    assert "and the cloud takes 7,864,296 at most" in str(refusal(large))


def test_the_largest_image_is_as_long_as_the_cloud_takes() -> None:
    largest = PNG + bytes(7_864_296 - len(PNG))
    [url] = sent(largest)
    assert MAX_DATA_URL_BYTES - 16 < len(url) <= MAX_DATA_URL_BYTES
    for too_large in (largest + b"\0", data_url(largest + bytes(3))):
        assert "bytes, and the cloud takes" in str(refusal(too_large))


def test_a_repr_and_a_dump_show_the_type_and_the_size_only() -> None:
    short = "data:image/png;base64,… (24 bytes)"
    request = AppRequest(
        app_id="a", prompt="p", image_list=[PNG, data_url(PNG, "a/b"), "https://a"]
    )
    assert f"({short}, {short}, 'https://a')" in repr(request)
    assert request.model_dump()["image_list"] == (short, short, "https://a")
    assert short in request.model_dump_json()
    images = [PNG, "https://a", encoded(PNG), 5]
    shown = with_short_images({"image_list": images, "top_k": 1})
    assert shown == {"image_list": [short, "https://a", "(str)", "(int)"], "top_k": 1}
    assert with_short_images(shown)["image_list"] is shown["image_list"]
    assert unwrap_images(shown["image_list"]) is images
    assert pickle.loads(pickle.dumps(shown)) == shown
    assert with_short_images({"image_list": "https://a"}) == {"image_list": "https://a"}
    assert repr(InlineImage("data:image/png;base64,%%%", "")) == "data:;base64,… (2 bytes)"
    assert repr(InlineImage(encoded(PNG).encode(), "")) == short
    assert repr(InlineImage(Path("a.png"), "")) == "a.png"


def test_one_image_in_two_forms_has_one_digest(tmp_path: Path) -> None:
    forms = [PNG, encoded(PNG).encode(), data_url(PNG), data_url(PNG, "image/jpeg")]
    assert len({images_digest([form]) for form in forms}) == 1
    others = [[IMAGES["image/gif"]], [PNG, PNG], [tmp_path / "a"], [tmp_path / "b"], ["https://a"]]
    assert len({images_digest(each) for each in [*others, [PNG]]}) == 6
    assert images_digest(["https://a", 5]) == images_digest(None) == ""


def test_equal_images_are_sent_once_by_their_content() -> None:
    same = {read_image(PNG, "a"), read_image(bytes(bytearray(PNG)), "b")}
    assert len(same) == 1
    assert read_image(PNG, "a") != read_image(IMAGES["image/gif"], "a")


def test_only_an_oss_address_needs_its_header() -> None:
    def needs(**fields: object) -> bool:
        return AppRequest.model_validate({"app_id": "a", "prompt": "p", **fields}).has_oss_address

    assert needs(image_list=["https://a", "oss://b/c"])
    assert needs(file_list=["oss://b/c"])
    assert not needs(image_list=["https://a/oss://", PNG], file_list=["https://a"])
