"""The Dockerfile and the Kubernetes manifest of the example service fit it and each other."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "service"
VARIABLES = {"DASHSCOPE_API_KEY", "BAILIAN_APP_ID", "DATABASE_URL"}


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each in one line."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, argument) for name, argument in lines]


def last(name: str) -> str:
    return [argument for each, argument in instructions() if each == name][-1]


def command() -> list[str]:
    return json.loads(last("CMD"))


@pytest.fixture
def manifest() -> dict[str, Any]:
    documents = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.fixture
def pod(manifest: dict[str, Any]) -> Any:
    return manifest["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What the application that the image starts answers."""
    pytest.importorskip("fastapi")
    pytest.importorskip("langgraph")
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    module, _, factory = command()[1].partition(":")
    app = getattr(import_module(module), factory)()
    return set(app.openapi()["paths"])


def test_the_image_runs_as_nobody_special_and_stops_on_sigterm() -> None:
    stages = [argument for name, argument in instructions() if name == "FROM"]
    assert all(re.match(r"python:3\.\d+-slim\b", stage) for stage in stages)
    assert instructions()[0][0] == "FROM"
    assert last("USER") == "10001:10001"
    after = [name for name, _ in instructions()][-4:]
    assert after == ["USER", "EXPOSE", "HEALTHCHECK", "CMD"]  # all that runs, runs as this user
    assert command()[0] == "uvicorn"  # the exec form: it is process 1


def test_the_image_has_no_key_and_only_files_that_there_are() -> None:
    set_there = " ".join(argument for name, argument in instructions() if name in ("ENV", "ARG"))
    assert not any(variable in set_there for variable in VARIABLES)
    allowed = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert allowed[0] == "*"
    copied = [argument for name, argument in instructions() if name == "COPY"]
    for argument in copied:
        for source in argument.split()[:-1] if not argument.startswith("--from") else ():
            assert (ROOT / source).exists()
            assert any(source.startswith(each[1:]) for each in allowed if each[0] == "!")


def test_the_image_installs_what_the_service_imports() -> None:
    requirements = (FOLDER / "requirements.txt").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py"))
    imported = set(re.findall(r"^ *(?:from|import) ([a-z]\w*)", source, re.M))
    known = imported - set(sys.stdlib_module_names) - {"bailian_apps", "langchain_core"}
    # These come with FastAPI and with the checkpointer.
    assert known - {"anyio", "pydantic", "starlette"} == {
        "fastapi", "langgraph", "psycopg", "psycopg_pool",
    }  # fmt: skip
    for package in ("fastapi", "langgraph", "langgraph-checkpoint-postgres", "uvicorn"):
        assert re.search(rf"^{package}>=", requirements, re.M)
    assert "psycopg[binary,pool]>=" in requirements


def test_probes_and_ports_are_those_of_the_service(
    manifest: dict[str, Any], pod: Any, routes: set[str]
) -> None:
    [container] = pod["containers"]
    [port] = container["ports"]
    probes = [container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    for probe in probes:
        assert probe["httpGet"]["path"] in routes
        assert probe["httpGet"]["port"] == port["name"]
    paths = [probe["httpGet"]["path"] for probe in probes]
    assert paths == ["/healthz", "/healthz", "/readyz"]  # a database that is away kills no worker
    [served] = manifest["Service"]["spec"]["ports"]
    assert served["targetPort"] == port["name"]
    in_image = command()[command().index("--port") + 1]
    assert str(port["containerPort"]) == in_image == last("EXPOSE")
    assert f":{in_image}/healthz" in last("HEALTHCHECK")


def test_a_pod_has_the_time_that_a_graceful_end_takes(pod: Any) -> None:
    [container] = pod["containers"]
    _, before = container["lifecycle"]["preStop"]["exec"]["command"]
    limit = command()[command().index("--timeout-graceful-shutdown") + 1]
    assert pod["terminationGracePeriodSeconds"] >= int(before) + int(limit) + 5


def test_the_manifest_selects_its_pods_and_gives_them_no_rights(
    manifest: dict[str, Any], pod: Any
) -> None:
    deployment = manifest["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert (
        deployment["selector"]["matchLabels"] == manifest["Service"]["spec"]["selector"] == labels
    )
    assert (manifest["Deployment"]["apiVersion"], manifest["Service"]["apiVersion"]) == (
        "apps/v1",
        "v1",
    )
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"{pod['securityContext']['runAsUser']}:" in last("USER")
    [container] = pod["containers"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert set(container["resources"]) == {"requests", "limits"}


def test_secrets_are_references_and_every_variable_is_read(pod: Any) -> None:
    [container] = pod["containers"]
    secret = {
        each["name"] for each in container["env"] if "secretKeyRef" in each.get("valueFrom", ())
    }
    assert secret == VARIABLES
    source = (FOLDER / "app.py").read_text(encoding="utf-8")
    own = {each["name"] for each in container["env"]} - {"DASHSCOPE_API_KEY", "BAILIAN_APP_ID"}
    assert all(f'"{name}"' in source for name in own)
