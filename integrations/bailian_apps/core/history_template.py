"""How a history is written as one prompt, for apps that take no `messages`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, ConfigDict, ValidationInfo

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.invalid_input import CheckedModel

HistoryFormat: TypeAlias = Literal["messages", "prompt"]

_TEXT = "{text}"


def _check_pattern(value: str, info: ValidationInfo) -> str:
    if _TEXT not in value:
        raise InvalidInputError(
            info.field_name or "pattern",
            "does not contain {text}, so that a part of the conversation would be lost",
            "Put {text} where the text belongs",
        )
    return value


Pattern: TypeAlias = Annotated[str, AfterValidator(_check_pattern)]


class HistoryTemplate(CheckedModel):
    r"""The words around the texts of a history that is sent as one prompt.

    In each pattern, `{text}` is replaced. All other braces stay as they are, also those in the
    texts themselves. The default words are Chinese, as the console and most apps are; an app
    whose users write in another language follows it more reliably with words of that language.

    Example:
        ```python
        english = HistoryTemplate(
            system="Instructions: {text}",
            user="User: {text}",
            assistant="Assistant: {text}",
            conversation="Answer the last message of this conversation.\n\n{text}",
        )
        ```
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    system: Pattern = "系统：{text}"
    """The pattern of the system text."""

    user: Pattern = "用户：{text}"
    """The pattern of a user's message."""

    assistant: Pattern = "助手：{text}"
    """The pattern of an answer."""

    conversation: Pattern = "请直接回复以下对话中用户的最后一条消息。\n\n{text}"
    """The pattern around all of them, where something was said before the last message."""

    def fold(self, turns: Sequence[tuple[str, str]]) -> str:
        """Return a history as one prompt; a single message is returned as it is.

        Args:
            turns: The role and the text of each message, oldest first.
        """
        if len(turns) == 1:
            return turns[0][1]
        patterns = {"system": self.system, "user": self.user, "assistant": self.assistant}
        text = "\n\n".join(patterns[role].replace(_TEXT, text) for role, text in turns)
        has_history = any(role != "system" for role, _ in turns[:-1])
        return self.conversation.replace(_TEXT, text) if has_history else text
