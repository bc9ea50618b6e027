"""Images and files that reach the emulator: what it takes, refuses and shows."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from support.images import PNG, data_url

from bailian_apps.emulator import Emulator


def app(call: Any) -> str:
    return "ok"


OSS = {"X-DashScope-OssResourceResolve": "enable"}


@pytest.mark.parametrize("strict", [True, False])
def test_every_documented_form_of_an_image_is_taken(post: Any, strict: bool) -> None:
    images = ["https://example.com/a.png", "http://example.com/a.png", data_url(PNG), "oss://a/b"]
    with Emulator(apps={"app": app}, strict=strict) as cloud:
        answer = post(cloud, headers=OSS, image_list=images, file_list=["oss://a/b.pdf"])
        assert answer.status == 200
        assert cloud.requests[0].input["image_list"] == images


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"image_list": ["https://a", "oss://a/b.png"]},
            "(input.image_list.1) missing or invalid: an oss:// address needs the header",
        ),
        ({"file_list": ["oss://a/b.pdf"]}, "(input.file_list.0) missing or invalid: an oss://"),
        ({"image_list": ["data:image/png;base64,%%s3cret"]}, "(input.image_list.0) missing"),
        ({"image_list": ["data:image/png;base64,"]}, "(input.image_list.0) missing or invalid"),
        ({"image_list": ["data:image/png,s3cret"]}, "(input.image_list.0) missing or invalid"),
        ({"image_list": ["data:;base64,aGk="]}, "The data URL must be data:image/…;base64,…"),
        (
            {"image_list": [data_url(PNG + bytes(7_864_320))]},
            "Exceeded limit on max bytes per data-uri item : 10485760",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_the_cloud_cannot_read_is_refused(
    post: Any, fields: dict[str, Any], message: str, strict: bool
) -> None:
    with Emulator(apps={"app": app}, strict=strict) as cloud:
        answer = post(cloud, **fields)
    assert (answer.status, answer.body["code"]) == (400, "InvalidParameter")
    assert message in answer.body["message"]
    assert "s3cret" not in answer.body["message"]


def test_the_admin_page_and_a_repr_shorten_an_image(post: Any) -> None:
    url = data_url(PNG + bytes(9_000))
    with Emulator(apps={"app": app}) as cloud:
        post(cloud, image_list=[url, "https://example.com/a.png"])
        admin = cloud.base_url.replace("/api/v1", "/__emulator__/requests")
        with urllib.request.urlopen(admin) as answer:
            [shown] = json.load(answer)["requests"]
    [request] = cloud.requests
    short = f"data:image/png;base64,… ({len(url)} characters)"
    assert shown["body"]["input"]["image_list"] == [short, "https://example.com/a.png"]
    assert short in repr(request)
    assert len(repr(request)) < 2_000
    assert request.input["image_list"][0] == url
