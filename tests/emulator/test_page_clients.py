"""The clients on the vendor's page get their answers, each sent as the page's code sends it.

The page is "Application calling API" (help.aliyun.com/zh/model-studio): it has the same three
requests in Python, Java, curl, PHP, Node.js, C# and Go. Python's are in `test_sdk.py` and at the
end here, sent by the SDK itself. The others are sent byte by byte: the JSON as each language's own
encoder writes it, and the headers that its HTTP library adds.
"""

from __future__ import annotations

import gzip
import http.client
import inspect
import json
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from dashscope import Application

from bailian_apps.emulator import Agent, Emulator, Node, Workflow

WHO = "你是谁?"
CITY = "查询这个城市的行政区域划分"
HELLO = "你好"


@pytest.fixture(autouse=True, scope="module")
def strict_emulators() -> None:
    """Here the emulators are as their users have them."""


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class PageClient:
    """One language of the page.

    Attributes:
        whole: The body that asks who the app is.
        city: The body with `biz_params`.
        stream: The body that asks for a stream.
        headers: The headers of all requests, without `Host` and `Content-Length`.
        stream_headers: Those that a stream has too.
        flag: How it writes a flag that is set.
    """

    whole: str
    city: str
    stream: str
    headers: tuple[tuple[str, str], ...]
    stream_headers: tuple[tuple[str, str], ...] = (("X-DashScope-SSE", "enable"),)
    flag: Any = True


KEY = ("Authorization", "Bearer sk-page")
JSON_TYPE = ("Content-Type", "application/json")

CURL = PageClient(
    whole="""{
"input": {
"prompt": "你是谁?"
},
"parameters": {},
"debug": {}
}""",
    city="""{
"input": {
"prompt": "查询这个城市的行政区域划分",
"biz_params": {
"city": "杭州"}
},
"parameters": {}
}""",
    stream="""{
"input": {
"prompt": "你好",
"biz_params": {
"city": "杭州"}
},
"parameters": {
"has_thoughts": true,
"incremental_output": true
},
"debug": {}
}""",
    headers=(("User-Agent", "curl/8.5.0"), ("Accept", "*/*"), KEY, JSON_TYPE),
)

PHP = PageClient(  # json_encode escapes what is not ASCII
    whole=json.dumps({"input": {"prompt": WHO}}, separators=(",", ":")),
    city=json.dumps(
        {"input": {"prompt": CITY, "biz_params": {"city": "杭州"}}}, separators=(",", ":")
    ),
    stream=json.dumps(
        {
            "input": {"prompt": HELLO, "biz_params": {"city": "杭州"}},
            "parameters": {"has_thoughts": True, "incremental_output": True},
        },
        separators=(",", ":"),
    ),
    headers=(("Accept", "*/*"), JSON_TYPE, KEY),
)

NODE = PageClient(  # its flags are strings
    whole=compact({"input": {"prompt": WHO}, "parameters": {}, "debug": {}}),
    city=compact(
        {
            "input": {"prompt": CITY, "biz_params": {"city": "杭州"}},
            "parameters": {},
            "debug": {},
        }
    ),
    stream=compact(
        {
            "input": {"prompt": HELLO, "biz_params": {"city": "杭州"}},
            "parameters": {"incremental_output": "true", "has_thoughts": "true"},
            "debug": {},
        }
    ),
    headers=(
        ("Accept", "application/json, text/plain, */*"),
        JSON_TYPE,
        KEY,
        ("User-Agent", "axios/1.7.9"),
        ("Accept-Encoding", "gzip, compress, deflate, br"),
        ("Connection", "close"),
    ),
    flag="true",
)

CSHARP = PageClient(  # a verbatim string, with its line breaks
    whole="""{
    "input": {
        "prompt": "你是谁?"
    },
    "parameters": {},
    "debug": {}
}""",
    city="""{
    "input": {
        "prompt": "查询这个城市的行政区域划分",
        "biz_params":{
            "city":"杭州"
        }
    },
    "parameters": {},
    "debug": {}
}""",
    stream="""{
    "input": {
        "prompt": "你好",
        "biz_params":{
            "city":"杭州"
        }
    },
    "parameters": {
        "incremental_output": true,
        "has_thoughts": true
    },
    "debug": {}
}""",
    headers=(KEY, ("Content-Type", "application/json; charset=utf-8")),
)

GO = PageClient(  # json.Marshal sorts the keys, and net/http asks for gzip
    whole=compact({"debug": {}, "input": {"prompt": WHO}, "parameters": {}}),
    city=compact(
        {
            "debug": {},
            "input": {"biz_params": {"city": "杭州"}, "prompt": CITY},
            "parameters": {},
        }
    ),
    stream=compact(
        {
            "debug": {},
            "input": {"biz_params": {"city": "杭州"}, "prompt": HELLO},
            "parameters": {"has_thoughts": True, "incremental_output": True},
        }
    ),
    headers=(("User-Agent", "Go-http-client/1.1"), KEY, JSON_TYPE, ("Accept-Encoding", "gzip")),
)

JAVA = PageClient(  # the vendor's Java SDK, as its source builds body and headers
    whole=compact(
        {
            "input": {"prompt": WHO},
            "parameters": {"has_thoughts": False, "incremental_output": False},
        }
    ),
    city=compact(
        {
            "input": {"prompt": CITY, "biz_params": {"city": "杭州"}},
            "parameters": {"has_thoughts": False, "incremental_output": False},
        }
    ),
    stream=compact(
        {
            "input": {"prompt": HELLO, "biz_params": {"city": "杭州"}},
            "parameters": {"has_thoughts": True, "incremental_output": True},
        }
    ),
    headers=(
        KEY,
        ("user-agent", "dashscope/2.18.2; java/17.0.9; platform/Linux; processor/amd64"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("Connection", "Keep-Alive"),
        ("Accept-Encoding", "gzip"),
    ),
    stream_headers=(
        ("Cache-Control", "no-cache"),
        ("Accept", "text/event-stream"),
        ("X-Accel-Buffering", "no"),
        ("X-DashScope-SSE", "enable"),
    ),
)

# By the page, either this header or `X-DashScope-SSE: enable` starts a stream.
ACCEPT_ALONE = replace(CURL, stream_headers=(("Accept", "text/event-stream"),))

CLIENTS = {
    "curl": CURL,
    "PHP": PHP,
    "Node.js": NODE,
    "C#": CSHARP,
    "Go": GO,
    "Java": JAVA,
    "Accept alone": ACCEPT_ALONE,
}
each_client = pytest.mark.parametrize("client", CLIENTS.values(), ids=list(CLIENTS))

APP = Workflow(
    nodes=[
        Node(name="大模型", output=["{biz_params.city}", ":西湖"]),
        Node(name="结束", type="End"),
    ]
)


@dataclass(frozen=True)
class Received:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.content)

    @property
    def frames(self) -> list[dict[str, Any]]:
        lines = self.content.decode().split("\n")
        return [json.loads(line[5:]) for line in lines if line.startswith("data:")]


def send(
    cloud: Emulator, client: PageClient, body: str, *, stream: bool = False, app_id: str = "app"
) -> Received:
    url = urlsplit(cloud.base_url)
    content = body.encode()
    with closing(http.client.HTTPConnection("127.0.0.1", url.port, timeout=60)) as connection:
        connection.putrequest(
            "POST", f"{url.path}/apps/{app_id}/completion", skip_accept_encoding=True
        )
        names = [name for name, _ in client.stream_headers] if stream else []
        for name, value in client.headers:
            if name not in names:
                connection.putheader(name, value)
        for name, value in client.stream_headers if stream else ():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        received = response.read()
    if headers.get("content-encoding") == "gzip":
        received = gzip.decompress(received)
    return Received(response.status, headers, received)


def with_session(body: str, session_id: str) -> str:
    fields = json.loads(body)
    fields["input"]["session_id"] = session_id
    return json.dumps(fields)


def test_the_default_of_an_emulator_is_what_the_cloud_takes() -> None:
    assert inspect.signature(Emulator).parameters["strict"].default is False


@each_client
@pytest.mark.parametrize("strict", [False, True])
def test_a_client_of_the_page_gets_one_answer(client: PageClient, strict: bool) -> None:
    with Emulator(apps={"app": lambda call: f"答:{call.prompt}"}, strict=strict) as cloud:
        answer = send(cloud, client, client.whole)
        (request,) = cloud.requests
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.body["output"]["text"] == f"答:{WHO}"
    assert answer.body["output"]["finish_reason"] == "stop"
    assert request.prompt == WHO
    assert request.headers["authorization"] == "Bearer ***"


@each_client
def test_a_client_of_the_page_passes_biz_params_and_continues_a_session(
    client: PageClient,
) -> None:
    def app(call: Any) -> str:
        return f"{call.biz_params['city']},{len(call.turns)}"

    with Emulator(apps={"app": app}) as cloud:
        first = send(cloud, client, client.city).body["output"]
        second = send(cloud, client, with_session(client.city, first["session_id"])).body["output"]
        other = send(cloud, client, client.city).body["output"]
    assert (first["text"], second["text"], other["text"]) == ("杭州,0", "杭州,1", "杭州,0")
    assert second["session_id"] == first["session_id"] != other["session_id"]


@each_client
@pytest.mark.parametrize("strict", [False, True])
def test_a_client_of_the_page_gets_a_stream_with_thoughts(client: PageClient, strict: bool) -> None:
    with Emulator(apps={"app": APP}, strict=strict) as cloud:
        answer = send(cloud, client, client.stream, stream=True)
        (request,) = cloud.requests
    assert answer.headers["content-type"] == "text/event-stream;charset=UTF-8"
    assert request.parameters["has_thoughts"] == client.flag
    outputs = [frame["output"] for frame in answer.frames]
    nodes = [json.loads(thought["response"]) for thought in outputs[-1]["thoughts"]]
    assert [node["nodeType"] for node in nodes] == ["Start", "LLM", "End"]
    assert outputs[-1]["text"] == "杭州:西湖"
    deltas = [
        json.loads(json.loads(thought["response"])["nodeResult"])["result"]
        for output in outputs
        for thought in output.get("thoughts", ())
        if '"nodeType":"LLM"' in thought["response"]
    ]
    assert "".join(deltas) == "杭州:西湖"  # incremental_output holds


@each_client
def test_a_stream_of_the_page_continues_a_session(client: PageClient) -> None:
    app = Agent(thoughts=[{"reasoning": "想。"}], text=["你", "好"])
    with Emulator(apps={"app": app}) as cloud:
        first = send(cloud, client, client.stream, stream=True).frames[-1]["output"]["session_id"]
        again = with_session(client.stream, first)
        answer = send(cloud, client, again, stream=True)
        assert [len(session.turns) for session in cloud.sessions.values()] == [2]
    outputs = [frame["output"] for frame in answer.frames]
    assert {output["session_id"] for output in outputs} == {first}
    assert "".join(output.get("text") or "" for output in outputs) == "你好"
    assert any("想。" in str(output.get("thoughts")) for output in outputs)


@each_client
def test_a_client_of_the_page_reads_an_error(client: PageClient) -> None:
    with Emulator(apps={"app": APP}, api_key="sk-other") as cloud:
        answer = send(cloud, client, client.whole)
    assert answer.status == 401
    assert answer.body["code"] == "InvalidApiKey"
    assert answer.headers["x-request-id"] == answer.body["request_id"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_the_headers_of_the_cloud(stream: bool) -> None:
    with Emulator(apps={"app": APP}) as cloud:
        answer = send(cloud, CURL, CURL.stream, stream=stream)
    request_id = answer.frames[0]["request_id"] if stream else answer.body["request_id"]
    assert answer.headers["x-request-id"] == request_id
    assert answer.headers["x-dashscope-timeout"] == "180"


def test_a_json_answer_is_compressed_only_where_the_client_accepts_it() -> None:
    refusing = replace(GO, headers=(*GO.headers[:3], ("Accept-Encoding", "identity")))
    with Emulator(apps={"app": lambda call: "你好"}) as cloud:
        for client, coding in ((GO, "gzip"), (NODE, "gzip"), (CURL, None), (refusing, None)):
            answer = send(cloud, client, client.whole)
            assert answer.headers.get("content-encoding") == coding
            assert answer.body["output"]["text"] == "你好"
        stream = send(cloud, GO, GO.stream, stream=True)
    assert "content-encoding" not in stream.headers


@pytest.mark.parametrize(
    "body",
    [
        {"app_id": "app", "input": {"prompt": HELLO, "app_id": "app"}},
        {"input": {"prompt": HELLO}, "parameters": {"stream": True, "debug": {"trace": 1}}},
        {"input": {"prompt": HELLO}, "parameters": {"thinking_budget": 100, "max_tokens": 9}},
        {"input": {"prompt": HELLO}, "parameters": {"enable_thinking": "False"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("strict", [False, True])
def test_what_public_clients_send_is_taken(body: dict[str, Any], strict: bool) -> None:
    with Emulator(apps={"app": lambda call: "你好"}, strict=strict) as cloud:
        answer = send(cloud, CURL, compact(body))
    assert answer.body["output"]["text"] == "你好"


def test_the_pages_python_gets_its_answers() -> None:
    """Python sends through the SDK, so its requests are the SDK's own."""
    biz_params = {"city": "杭州"}
    with Emulator(apps={"app": APP}) as cloud:
        options = {"api_key": "sk-page", "app_id": "app", "base_address": cloud.base_url}
        whole = Application.call(**options, prompt=CITY, biz_params=biz_params)
        *_, last = Application.call(
            **options,
            prompt=HELLO,
            biz_params=biz_params,
            stream=True,
            incremental_output=True,
            has_thoughts=True,
        )
    assert whole.output.text == last.output.text == "杭州:西湖"
    assert whole.output.thoughts is None
    assert len(last.output.thoughts) == 3
