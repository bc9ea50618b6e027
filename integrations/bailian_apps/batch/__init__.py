"""Many prompts for one app: limits, a budget, a journal, results as they complete.

`run_batch` and its async form `arun_batch` for one machine; `bailian_apps.batch.ray_data` for many.
"""

from bailian_apps.batch.batch import arun_batch, run_batch
from bailian_apps.batch.journal import read_journal
from bailian_apps.batch.tasks import AsyncBatch
from bailian_apps.batch.threads import Batch
from bailian_apps.batch.values import (
    BatchCounts,
    BatchFailure,
    BatchResult,
    BatchStatus,
    Budget,
    PromptInput,
)

__all__ = [
    "AsyncBatch",
    "Batch",
    "BatchCounts",
    "BatchFailure",
    "BatchResult",
    "BatchStatus",
    "Budget",
    "PromptInput",
    "arun_batch",
    "read_journal",
    "run_batch",
]
