"""Which calls each injected fault hits."""

import threading
from dataclasses import dataclass
from random import Random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bailian_apps.emulator.errors import suggestion
from bailian_apps.emulator.faults.fault import Fault
from bailian_apps.emulator.faults.table import FAULTS


class FaultSpec(BaseModel):
    """A fault and the calls that it hits; see `Emulator.fail` for the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    nth: Annotated[int, Field(ge=1)] = 1
    times: Annotated[int, Field(ge=1)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    app_id: str | None = None
    after_frames: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> "FaultSpec":
        if self.name not in FAULTS:
            hint = suggestion(self.name, FAULTS) or "."
            raise ValueError(f"no fault {self.name!r}{hint} The faults are: {', '.join(FAULTS)}")
        if self.share is not None and self.nth != 1:
            raise ValueError("share and nth cannot be combined")
        if self.seed is not None and self.share is None:
            raise ValueError("seed needs share, whose random choice it makes repeatable")
        if self.after_frames is not None and not self.fault.counts_frames:
            raise ValueError(f"after_frames: {self.name!r} does not happen after a frame")
        return self

    @property
    def fault(self) -> Fault:
        """The fault."""
        return FAULTS[self.name]


@dataclass(slots=True)
class _Plan:
    """A fault with the number of calls left to hit."""

    spec: FaultSpec
    left: float
    random: Random
    seen: int = 0

    def hits(self, app_id: str, *, stream: bool) -> bool:
        """Count a call, and return whether the fault hits it."""
        spec = self.spec
        if spec.app_id not in (None, app_id) or (spec.fault.needs_stream and not stream):
            return False
        self.seen += 1
        if self.left <= 0:
            return False
        if spec.share is not None:
            return self.random.random() < spec.share
        return self.seen >= spec.nth


class FaultPlan:
    """The faults to inject; used by the server's thread and by the test's."""

    def __init__(self) -> None:
        """Create a plan without faults."""
        self._plans: list[_Plan] = []
        self._lock = threading.Lock()

    def add(self, spec: FaultSpec) -> None:
        """Inject a fault into later calls."""
        left = spec.times or (1 if spec.share is None else float("inf"))
        with self._lock:
            self._plans.append(_Plan(spec, left, Random(spec.seed)))  # noqa: S311

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._plans.clear()

    def pending(self) -> list[tuple[FaultSpec, float]]:
        """Return the faults that may still happen, each with the number of calls left to hit."""
        with self._lock:
            return [(plan.spec, plan.left) for plan in self._plans if plan.left > 0]

    def take(self, app_id: str, *, stream: bool) -> FaultSpec | None:
        """Return the fault for this call; of several, the one added first."""
        if not self._plans:
            return None
        with self._lock:
            hitting = [plan for plan in self._plans if plan.hits(app_id, stream=stream)]
            if not hitting:
                return None
            hitting[0].left -= 1
            return hitting[0].spec
