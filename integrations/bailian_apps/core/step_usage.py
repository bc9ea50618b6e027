"""Finds out which tokens of a run are whose. Pure.

`usage.models` lists model calls without their nodes. In workflow-timed.jsonl, an entry appears when
its node speaks, has its last count in the frame in which the node ends, and stays. So the entries
that are new when a node ends are that node's, unless other nodes could have made the calls too:
then nobody can know, and no step gets them.

The file named here is in tests/recordings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bailian_apps.core.result import ModelUsage, Usage

# They never call a model; an End or Output node repeats what others wrote.
_WITHOUT_MODEL = ("start", "end", "output", "retrieval")


@dataclass(slots=True)
class ModelCaller:
    """A node that may call models.

    Attributes:
        type: As on the wire.
        spoke: Whether it has said anything.
        ended: Whether it has ended.
        alone: Whether no other such node ran at the same time.
        usage: The calls that are certainly its own.
    """

    type: str | None
    spoke: bool = False
    ended: bool = False
    alone: bool = True
    usage: Usage | None = None


class UsageByStep:
    """Assigns model calls to the nodes of one run."""

    def __init__(self) -> None:
        """Start without nodes."""
        self._callers: list[ModelCaller] = []  # whose calls were not listed yet
        self._assigned: dict[int, ModelUsage] = {}  # by position in `usage.models`

    def begin(self, type_: str | None) -> ModelCaller | None:
        """A node began; return None if its type never calls a model."""
        if type_ is not None and type_.lower().endswith(_WITHOUT_MODEL):
            return None
        caller = ModelCaller(type_)
        for other in self._callers:
            if not other.ended:
                caller.alone = other.alone = False
        self._callers.append(caller)
        return caller

    def assign(self, models: Sequence[ModelUsage]) -> bool:
        """Assign the model calls of a frame in which a step ended; return whether any was."""
        active = [caller for caller in self._callers if caller.spoke or caller.ended]
        assigned = False
        if all(caller.alone for caller in active):
            changed = [at for at, model in enumerate(models) if self._assigned.get(at) != model]
            new = [at for at in changed if at not in self._assigned]
            for caller, positions in _owners(active, new or changed):
                if caller.ended:
                    own = tuple(self._since(at, models[at]) for at in positions)
                    caller.usage = Usage(models=own)
                    self._assigned.update((at, models[at]) for at in positions)
                    assigned = True
        self._callers = [caller for caller in self._callers if not (caller.ended and models)]
        if not any(caller.spoke for caller in self._callers):
            self._assigned = dict(enumerate(models))
        return assigned

    def _since(self, at: int, model: ModelUsage) -> ModelUsage:
        before = self._assigned.get(at)
        if before is None:
            return model
        return ModelUsage(
            model_id=model.model_id,
            input_tokens=max(0, model.input_tokens - before.input_tokens),
            output_tokens=max(0, model.output_tokens - before.output_tokens),
        )


def _owners(
    callers: list[ModelCaller], positions: list[int]
) -> list[tuple[ModelCaller, list[int]]]:
    """Pair nodes with the calls that are theirs; none if that is not certain."""
    if not positions:
        return []
    if len(callers) == 1:
        return [(callers[0], positions)]
    models = [caller for caller in callers if caller.type == "LLM"]  # each calls its model once
    if len(models) == len(positions):
        return [(caller, [at]) for caller, at in zip(models, positions, strict=True)]
    return []
