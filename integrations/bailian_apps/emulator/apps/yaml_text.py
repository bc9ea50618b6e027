"""Reads YAML from files that may come from anyone, and finds the line of each value."""

from collections.abc import Hashable, Sequence
from typing import Any, NoReturn, cast

import yaml

from bailian_apps.emulator.wire.frames import MAX_NESTING

_MAX_ALIASED = 100_000


class YamlError(ValueError):
    """A text is not YAML; `line` is where, if that is known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        """Create the error."""
        super().__init__(problem)
        self.line = line


class YamlText:
    """A YAML text.

    Attributes:
        value: Its value.
    """

    def __init__(self, text: str) -> None:
        """Read a text.

        Raises:
            YamlError: It is not YAML, or too deep or too large.
        """
        loader: Any = _Loader(text)
        try:
            self._root = loader.get_single_node()
            self.value: Any = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else None
            raise YamlError(str(error.problem or error.context), line) from error
        except (yaml.YAMLError, ValueError) as error:  # a ValueError: such as a date 2025-13-01
            raise YamlError(str(error)) from error
        finally:
            loader.dispose()

    def line_of(self, path: Sequence[str | int]) -> int:
        """Return the line of a value; of a missing one, that of the nearest value around it."""
        node, line = self._root, 1
        for part in path:
            inner = _value_in(node, part)
            if inner is not None:
                line, node = inner
        return line


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, deep nesting, and aliases that stand for very many values.

    PyYAML's own loader ignores all but the last of duplicate keys. An alias is one object to it,
    but whatever checks or shows the values visits them as often as they are named.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open = 0
        # How many values each node stands for, itself included, and in how many levels.
        self._extents: dict[yaml.Node, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node of the document."""
        event = cast("yaml.Event", self.peek_event())  # pyright: ignore[reportUnknownMemberType]
        self._open += 1
        self._check_nesting(self._open, event.start_mark)
        node = super().compose_node(parent, index)
        self._open -= 1
        if node is None:
            return None
        if isinstance(event, yaml.AliasEvent):
            if node not in self._extents:
                _refuse("an alias stands for a value that contains it", event.start_mark)
            return node
        inner = [self._extents[each] for each in _nodes_in(node)]
        size = 1 + sum(each[0] for each in inner)
        levels = 1 + max((each[1] for each in inner), default=0)
        self._check_nesting(levels, node.start_mark)
        self._extents[node] = size, levels
        if size - len(self._extents) > _MAX_ALIASED:
            _refuse(f"aliases stand for more than {_MAX_ALIASED} values", node.start_mark)
        return node

    def _check_nesting(self, levels: int, mark: yaml.Mark) -> None:
        if levels > MAX_NESTING:
            _refuse(f"nested more than {MAX_NESTING} levels deep", mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping for a node."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"duplicate key {key!r}", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _value_in(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
    """Return the line and the node of a field or an item."""
    if isinstance(node, yaml.MappingNode):
        pairs = cast("list[tuple[yaml.Node, yaml.Node]]", node.value)
        for key, value in pairs:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        items = cast("list[yaml.Node]", node.value)
        if part < len(items):
            return items[part].start_mark.line + 1, items[part]
    return None


def _nodes_in(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refuse(problem: str, mark: yaml.Mark) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
