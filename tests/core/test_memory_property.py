"""Whatever happens to a conversation, the app knows all that is shown, and nothing else of it.

The cloud is a model that remembers in the least helpful way that its documents allow. What decides
is real: `plan_request`, `BailianApp` and the record of claimed sessions.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bailian_apps import AppRequest, AppSettings, BadRequestError, BailianError, Client
from bailian_apps.core.errors import ConnectionLostError, RateLimitError
from bailian_apps.core.history import plan_request
from bailian_apps.core.turns import SessionMarker, Turn
from bailian_apps.emulator import Call, Emulator, PromptOnly
from bailian_apps.run import Run

MAX_ROUNDS = 4
TTL_S = 3600
WORD = re.compile(r"[wa]\d+")
NUMBERS = itertools.count(1)
"""Numbers words and sessions, so that none is there twice in the whole test."""


@dataclass
class Session:
    used_at: float
    rounds: int = 0
    holds: list[str] = field(default_factory=list)


@dataclass
class ModelCloud:
    """Sessions end by time, by rounds, or for no reason. One that was sent messages holds none."""

    takes_messages: bool = True
    refused: int = 0
    now: float = 1_000_000.0
    sessions: dict[tuple[str, str], Session] = field(default_factory=dict)
    fails: str | None = None
    knew: list[str] = field(default_factory=list)
    """What the app knew in the last call: what it was told, and what its session held before."""
    held: list[str] = field(default_factory=list)
    """The latter alone."""

    def frames(self, request: AppRequest, *_: Any, **__: Any) -> Generator[list[Any]]:
        fails, self.fails = self.fails, None
        if fails == "refused":
            raise RateLimitError("busy", status_code=429)
        if request.messages and not self.takes_messages:
            self.refused, self.fails = self.refused + 1, fails
            message = "Required parameter(Prompt) missing or invalid"
            raise BadRequestError(message, code="InvalidParameter", status_code=400)
        session_id = None if request.messages else request.session_id
        session = self.sessions.get((request.app_id, session_id or ""))
        if session is None or self.now - session.used_at >= TTL_S or session.rounds >= MAX_ROUNDS:
            session_id, session = f"s{next(NUMBERS)}", Session(self.now)
            self.sessions[request.app_id, session_id] = session
        told = WORD.findall(" ".join(m.content for m in request.messages or ()))
        told = told or WORD.findall(request.prompt or "")
        assert not set(told) & set(session.holds), "told twice in one session"
        self.held = list(session.holds)
        self.knew = [*session.holds, *told]
        answer = f"a{next(NUMBERS)}"
        session.used_at, session.rounds = self.now, session.rounds + 1
        if not request.messages:
            session.holds += [*told, answer]
        if fails == "lost":
            raise ConnectionLostError("lost")
        output = {"session_id": session_id, "text": answer, "finish_reason": "stop"}
        yield [{"output": output}]


class ModelClient(Client):
    """A client whose requests go to a `ModelCloud`."""

    def __init__(self, cloud: ModelCloud) -> None:
        super().__init__()
        self.frames = cloud.frames  # type: ignore[method-assign]


@dataclass(frozen=True)
class Said:
    """A turn, and its place in the conversation. An edited turn keeps it."""

    place: float
    turn: Turn


@dataclass
class World:
    """A cloud, and branches of conversations with two apps in it."""

    idempotent: bool
    history_format: Any
    cloud: ModelCloud
    client: Client = field(init=False)
    branches: list[list[Said]] = field(default_factory=lambda: [[]])
    system: list[str] = field(default_factory=list)
    places: dict[str, float] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)

    def new(self, role: Any, place: float | None = None) -> Said:
        number = next(NUMBERS)
        said = Said(number if place is None else place, Turn(role=role, text=f"w{number}"))
        self.places[said.turn.text] = said.place
        return said

    def __post_init__(self) -> None:
        self.client = ModelClient(self.cloud)

    # Every method from here on is something that may happen; `how` is any small number.

    def say(self, branch: list[Said], how: int, fails: str | None = None) -> None:
        words = [self.new("user") for _ in range(1 + how % 5 // 4)]
        if answer := self._ask(branch, words, how, fails):
            branch += [*words, answer]

    def fail(self, branch: list[Said], how: int) -> None:
        self.say(branch, how, ("refused", "lost")[how % 2])

    def say_again(self, branch: list[Said], how: int) -> None:
        """The last question is asked once more, and the answer to it replaces the first."""
        if len(branch) > 1 and branch[-2].turn.role == "user":
            *before, words, _ = branch
            if answer := self._ask(before, [words], how):
                branch[:] = [*before, words, answer]

    def say_twice_at_once(self, branch: list[Said], how: int) -> None:
        both = [[words, self._ask(branch, [words], how)] for words in map(self.new, ["user"] * 2)]
        for said in itertools.chain.from_iterable(both if how % 2 else reversed(both)):
            assert said is not None
            branch.append(replace(said, place=next(NUMBERS)))  # as stored, not as asked
            self.places[said.turn.text] = branch[-1].place

    def fork(self, branch: list[Said], how: int) -> None:
        self.branches.append(branch[: len(branch) - how])

    def trim(self, branch: list[Said], how: int) -> None:
        del branch[:how]

    def delete(self, branch: list[Said], how: int) -> None:
        if branch:
            del branch[how % len(branch)]

    def edit(self, branch: list[Said], how: int) -> None:
        if branch:
            old = branch[how % len(branch)]
            new = self.new(old.turn.role, old.place)
            branch[how % len(branch)] = replace(new, turn=replace(old.turn, text=new.turn.text))

    def summarise(self, branch: list[Said], how: int) -> None:
        branch[:how] = [self.new("assistant" if how % 2 else "user", place=0)]

    def store(self, branch: list[Said], how: int) -> None:
        for index, said in enumerate(branch):
            if said.turn.marker:
                stored = json.loads(json.dumps(said.turn.marker.to_dict()))
                turn = replace(said.turn, marker=SessionMarker.from_dict(stored))
                branch[index] = replace(said, turn=turn)

    def wait(self, branch: list[Said], how: int) -> None:
        self.cloud.now += how * 500

    def forget(self, branch: list[Said], how: int) -> None:
        self.forgotten |= {session_id for _, session_id in self.cloud.sessions}
        self.cloud.sessions.clear()

    def instruct(self, branch: list[Said], how: int) -> None:
        self.system = [self.new("system").turn.text] if how % 2 else []

    def _ask(
        self, branch: list[Said], words: list[Said], how: int, fails: str | None = None
    ) -> Said | None:
        app_id = ("app", "app", "app", "other")[how % 4]
        turns = [Turn(role="system", text=text) for text in self.system]
        turns += [said.turn for said in (*branch, *words)]
        settings = AppSettings(
            app_id=app_id,
            idempotent=self.idempotent,
            history_format=self.history_format,
            session_ttl_s=TTL_S,
            session_max_rounds=MAX_ROUNDS,
            max_retries=0,
        )
        plan = plan_request(turns, settings, now=self.cloud.now)
        self.cloud.fails, self.cloud.refused = fails, 0
        try:
            result = Run(settings, plan, client=self.client).invoke()
        except BailianError:
            assert fails
            return None
        shown = {turn.text for turn in turns}
        # Only what nobody could foresee is lost, or has to be asked again.
        attempts = result.attempts - self.cloud.refused
        assert plan.session_id in self.forgotten or not (result.context_lost or attempts > 1)
        assert self.cloud.refused <= 1
        if result.history_format == "prompt":
            assert not (self.cloud.takes_messages and self.history_format == "messages")
        assert not (result.context_lost and self.idempotent)
        if not result.context_lost:
            assert shown <= set(self.cloud.knew)
        # Besides, the app may remember what was trimmed: what came before all that is shown.
        first = min(said.place for said in (*branch, *words))
        assert all(self.places[text] < first for text in set(self.cloud.held) - shown)
        marker = plan.marker(result, now=self.cloud.now)
        answer = Said(next(NUMBERS), Turn(role="assistant", text=result.text, marker=marker))
        self.places[result.text] = answer.place
        return answer


EVENTS = st.sampled_from(
    [
        *[World.say] * 12,
        *[World.fail, World.say_again, World.fork, World.trim, World.store, World.wait] * 2,
        *[World.say_twice_at_once, World.delete, World.edit, World.summarise],
        *[World.forget, World.instruct],
    ]
)


@given(
    happenings=st.lists(
        st.tuples(EVENTS, st.integers(0, 1), st.integers(0, 9)), min_size=4, max_size=30
    ),
    idempotent=st.booleans(),
    history_format=st.sampled_from(["messages", "prompt"]),
    takes_messages=st.booleans(),
)
def test_the_app_knows_what_the_conversation_shows(
    happenings: list[Any], idempotent: bool, history_format: str, takes_messages: bool
) -> None:
    world = World(idempotent, history_format, ModelCloud(takes_messages))
    for event, branch, how in happenings:
        event(world, world.branches[branch % len(world.branches)], how)


# ------------------------------------------------------------- the same, on the wire


class LangChain:
    """A conversation as LangChain messages, stored as JSON between turns."""

    def __init__(self, **fields: Any) -> None:
        from bailian_apps.langchain import ChatBailianApp

        self.model = ChatBailianApp(app_id="app", api_key="k", **fields)

    def ask(self, stored: list[Any], words: str, app_id: str) -> tuple[list[Any], bool]:
        from langchain_core.messages import HumanMessage, messages_from_dict, messages_to_dict

        messages = [*messages_from_dict(json.loads(json.dumps(stored))), HumanMessage(words)]
        answer = self.model.invoke(messages, app_id=app_id)
        lost = answer.response_metadata.get("context_lost", False)
        return messages_to_dict([*messages, answer]), lost

    def shown(self, stored: list[Any]) -> list[str]:
        return [each["data"]["content"] for each in stored]


class LlamaIndex:
    """A conversation as LlamaIndex messages, stored as JSON between turns."""

    def __init__(self, **fields: Any) -> None:
        from bailian_apps.llamaindex import BailianAppLLM

        self.llm = BailianAppLLM(app_id="app", api_key="k", **fields)

    def ask(self, stored: list[Any], words: str, app_id: str) -> tuple[list[Any], bool]:
        from llama_index.core.llms import ChatMessage

        messages = [ChatMessage.model_validate(each) for each in json.loads(json.dumps(stored))]
        messages.append(ChatMessage(content=words))
        response = self.llm.chat(messages, app_id=app_id)
        kept = [each.model_dump(mode="json") for each in (*messages, response.message)]
        return kept, response.raw["context_lost"]

    def shown(self, stored: list[Any]) -> list[str]:
        return ["".join(block.get("text", "") for block in each["blocks"]) for each in stored]


@pytest.mark.parametrize("framework", [LangChain, LlamaIndex])
@settings(max_examples=settings.default.max_examples // 8)  # each starts a server
@given(
    happenings=st.lists(
        st.tuples(
            st.sampled_from(["say", "say", "say", "ask the other", "go back", "forget"]),
            st.integers(0, 9),
        ),
        max_size=12,
    ),
    history_format=st.sampled_from(["messages", "prompt"]),
    only_prompt=st.booleans(),
)
def test_the_app_knows_what_the_conversation_shows_over_http(
    framework: Any, happenings: list[Any], history_format: str, only_prompt: bool
) -> None:
    knew: list[str] = []

    def app(call: Call) -> str:
        held = [text for turn in call.turns for text in (turn.user, turn.answer)]
        held = WORD.findall(" ".join(held))
        told = WORD.findall(" ".join(message["content"] for message in call.messages))
        told = told or WORD.findall(call.prompt)
        assert not set(held) & set(told)
        knew[:] = [*held, *told]
        return f"a{next(NUMBERS)}"

    source: Any = PromptOnly(app) if only_prompt else app
    with Emulator(apps={"app": source, "other": source}) as cloud:
        adapter = framework(base_url=cloud.base_url, history_format=history_format)
        states: list[list[Any]] = [[]]  # as a checkpointer keeps them
        for event, which in happenings:
            if event == "forget":
                cloud.forget()
            elif event == "go back":
                states.append(states[which % len(states)])
            else:
                app_id = "other" if event == "ask the other" else "app"
                state, lost = adapter.ask(states[-1], f"w{next(NUMBERS)}", app_id)
                states.append(state)
                shown = adapter.shown(state)[:-1]
                if lost:
                    assert knew == shown[-1:]
                else:
                    assert sorted(knew) == sorted(shown)  # and nothing of another branch
