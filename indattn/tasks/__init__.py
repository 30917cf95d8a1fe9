"""The tasks, one file each."""

from indattn.tasks.base import SequenceTask, Task, batch_generator
from indattn.tasks.cross_modal_retrieval import CrossModalRetrieval
from indattn.tasks.sequence_retrieval import SequenceRetrieval
from indattn.tasks.sorting import Sorting
from indattn.tasks.synthetic import Synthetic

__all__ = [
    "CrossModalRetrieval",
    "SequenceRetrieval",
    "SequenceTask",
    "Sorting",
    "Synthetic",
    "Task",
    "batch_generator",
]
