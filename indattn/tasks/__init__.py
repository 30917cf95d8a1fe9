"""The tasks, one file each."""

from indattn.tasks.base import Task, batch_generator
from indattn.tasks.sequence_retrieval import SequenceRetrieval
from indattn.tasks.sorting import Sorting
from indattn.tasks.synthetic import Synthetic

__all__ = ["SequenceRetrieval", "Sorting", "Synthetic", "Task", "batch_generator"]
