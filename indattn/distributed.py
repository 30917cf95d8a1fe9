"""Several processes that train one run together (started by torchrun).

Every process draws the same batches and keeps some of their rows; gradients are added up, so that each takes the step
that one process with the whole batch would take. The first process alone writes, evaluates and prints.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from indattn.errors import UserError, under_torchrun
from indattn.misalignment import Batch

__all__ = ["ALONE", "Workers", "every_kth_row", "joined"]

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""After which a process that waits for another gives up; the first evaluates while the others wait."""


@dataclass(frozen=True)
class Workers:
    """The processes that train a run, as one of them sees them.

    Attributes:
        rank: number of this process; 0 is the one that writes.
        count: how many there are.
        local_rank: number of this process on its machine, and of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes, evaluates and prints."""
        return self.rank == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in which all have the same shapes.

        Raises:
            UserError: if another process has ended or does not answer.
        """
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _others_answer():
            dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def share(self, value: T) -> T:
        """The first process's value.

        Raises:
            UserError: if another process has ended or does not answer.
        """
        if self.count == 1:
            return value
        box = [value]
        with _others_answer():
            dist.broadcast_object_list(box)
        return box[0]

    def agree(self, make: Callable[[], T]) -> T:
        """What ``make`` makes in this process.

        Raises:
            UserError: in every process, if it was raised in one of them.
        """
        made: list[T] = []
        own: UserError | None = None
        try:
            made.append(make())
        except UserError as error:
            own = error
        if self.count > 1:
            every: list[Any] = [None] * self.count
            with _others_answer():
                dist.all_gather_object(every, own and str(own))
            others = (f"process {rank}: {message}" for rank, message in enumerate(every) if message)
            own = own or next((UserError(message) for message in others), None)
        if own is not None:
            raise own
        return made[0]


ALONE = Workers()


def every_kth_row(batch: Batch, first: int, k: int) -> Batch:
    """Rows ``first``, ``first + k``, ... of a batch: parts of one that is sorted by length cost the same."""
    return batch if k == 1 else {key: value[first::k] for key, value in batch.items()}


@contextlib.contextmanager
def joined() -> Iterator[Workers]:
    """The processes that torchrun started with this one; :data:`ALONE` where it did not.

    Raises:
        UserError: if they do not find one another.
    """
    if not under_torchrun():
        yield ALONE
        return
    with _others_answer():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    yield Workers(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))
    dist.destroy_process_group()  # not after an error: NCCL might wait for a process that has ended


@contextlib.contextmanager
def _others_answer() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"another process of this training has ended or does not answer ({reason}); "
            "what was saved is kept, and the same command resumes"
        ) from error
