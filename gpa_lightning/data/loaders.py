"""Batches of an in-memory table: which rows, in which order, and the loader that gathers them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler, TensorDataset

from gpa_lightning.data.split import shuffled_rows

EVALUATION_ROWS = 2048
"""Rows a batch where no gradient is needed: large enough to be fast, small enough for a GPU."""

_GATHERED_ROWS = 4096  # at once: about 160 KB


class TableDataset(TensorDataset):
    """Features and target of a table, of which any number of rows is taken in one call.

    Args:
        x: Features, shape ``(rows, in_features)``.
        y: Target, shape ``(rows, 1)``.
        more: Further columns of a batch, such as the rows' weights, shape ``(rows, 1)``.
    """

    def __init__(self, x: Tensor, y: Tensor, *more: Tensor) -> None:
        super().__init__(x, y, *more)

    def __getitem__(self, rows: Tensor | slice | int) -> tuple[Tensor, ...]:
        """Return the rows of the given numbers, or a view of a slice of rows or of one."""
        if isinstance(rows, Tensor):
            return tuple(tensor.index_select(0, rows) for tensor in self.tensors)
        return tuple(tensor[rows] for tensor in self.tensors)

    def batches(self, rows: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield all rows in order, ``rows`` at a time."""
        for start in range(0, len(self), rows):
            yield self[start : start + rows]

    def rescale(self, factor: Tensor, shift: Tensor) -> None:
        """Multiply the features by ``factor`` and add ``shift``, both of shape (in_features,)."""
        self.tensors[0].mul_(factor).add_(shift)


class BatchSampler(DistributedSampler["Tensor | slice"]):
    """Draws the rows of each batch in one go, so that a batch costs one gather.

    A shuffled batch is a tensor of row numbers; one in table order is a slice, which copies
    nothing: a full batch of any size is a view of the table.

    A `DistributedSampler`, so that Lightning takes it as it is on any number of devices and tells
    it the epoch. The order depends on ``seed`` and the epoch alone: not on the global random
    state, the number of workers, or what ran before. With several replicas, replica ``r`` takes
    every ``num_replicas``-th row of the common order: one step of all replicas together sees the
    same rows as one step of a single process whose batch is as large as theirs together. No row
    is lost and none repeated, unlike in its parent, so the last batches of two replicas may
    differ by a row, which `EqualRows` makes up for.

    Args:
        dataset: The table whose rows are numbered.
        batch_size: Rows a batch; the last one holds what is left. ``None``: all rows in one.
        shuffle: Whether each epoch has an order of its own (training) or that of the table. In
            training each replica has equally many batches, as each takes part in every step: the
            last may be empty, if fewer rows are left than there are replicas.
        seed: Seed of the shuffling.
        num_replicas: Number of processes that share the epoch.
        rank: Number of this process.

    Attributes:
        first_batch: Index of the batch that the next epoch begins with; then 0 again.

    Example:
        >>> rows = TableDataset(torch.arange(5), torch.zeros(5))
        >>> [rows[batch][0].tolist() for batch in BatchSampler(rows, batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: TableDataset,
        batch_size: int | None,
        shuffle: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=shuffle, seed=seed)
        self.rows = len(dataset)
        most = len(range(0, self.rows, num_replicas))  # that a replica has
        self.num_samples = most if shuffle else len(range(rank, self.rows, num_replicas))
        self.batch_size = batch_size or max(most, 1)
        self.first_batch = 0

    def __iter__(self) -> Iterator[Tensor | slice]:
        first, self.first_batch = self.first_batch, 0
        # a batch of all rows has no order; leaving it alone spares the shuffle and the gather
        if not self.shuffle or len(self) == 1:
            stride = self.batch_size * self.num_replicas
            for start in range(self.rank + first * stride, self.rank + len(self) * stride, stride):
                yield slice(start, min(start + stride, self.rows), self.num_replicas)
            return
        order = shuffled_rows(self.rows, (self.seed, self.epoch))
        mine = torch.from_numpy(np.ascontiguousarray(order[self.rank :: self.num_replicas]))
        for start in range(first * self.batch_size, self.num_samples, self.batch_size):
            yield mine[start : start + self.batch_size]

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    @property
    def share_of_last_batch(self) -> float:
        """Rows of this replica's last batch, over the mean number of rows of all replicas'."""
        before = (len(self) - 1) * self.batch_size
        mine = len(range(self.rank, self.rows, self.num_replicas)) - before
        return mine * self.num_replicas / (self.rows - before * self.num_replicas)


class TableLoader(DataLoader[Any]):
    """A DataLoader of a `TableDataset`, which gathers the rows of several batches in one go.

    Handing row numbers to the dataset in one call, instead of one call a row, is what makes a
    DataLoader as fast as slicing tensors (PyTorch issue 106704). Small batches are gathered some
    at a time, and go to a GPU in one copy; worker processes gather them one by one.

    Lightning saves its ``state_dict`` with a checkpoint, so that a run that was stopped within an
    epoch goes on with the batch that comes next.

    Args:
        dataset: Features and targets.
        batches: Draws each batch's row numbers.
        sampler: Sampler by which Lightning replaces the loader's own: a `SequentialSampler` (for
            ``--trainer.overfit_batches``) leaves the rows of ``batches`` in the table's order.
        device: The NVIDIA GPU to put the batches on; None leaves them in the host's memory.
        settings: Passed on to `DataLoader`.
    """

    _batches_taken = _first_batch = 0

    def __init__(
        self,
        dataset: TableDataset,
        batches: BatchSampler,
        sampler: object = None,
        device: torch.device | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(sampler, SequentialSampler):
            batches = copy(batches)
            batches.shuffle = False
        self.batches, self.device = batches, device
        super().__init__(dataset, sampler=batches, **{**settings, "batch_size": None})

    def __iter__(self) -> Iterator[list[Tensor]]:  # type: ignore[override]  # has it private
        first, self._first_batch = self._first_batch, 0
        return self._epoch(first)

    def _epoch(self, first: int) -> Iterator[list[Tensor]]:
        """Yield the batches from a given one on; begun when the sampler knows the epoch."""
        batches: Iterator[list[Tensor]]
        self.batches.first_batch = first
        batches = super().__iter__() if self.num_workers else self._gathered(self.batches)
        for taken, batch in enumerate(batches, first + 1):
            self._batches_taken = taken
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been taken."""
        return {"batches": self._batches_taken}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next epoch begin after the batches that had been taken."""
        self._first_batch = state_dict["batches"]

    def _gathered(self, sampler: BatchSampler) -> Iterator[list[Tensor]]:
        batches = iter(sampler)
        at_once = max(1, _GATHERED_ROWS // sampler.batch_size)
        while block := list(islice(batches, at_once)):
            if len(block) == 1 or isinstance(block[0], slice):
                yield from (self._on_device(self.dataset[rows]) for rows in block)
                continue
            numbers = cast("list[Tensor]", block)
            gathered = self._on_device(self.dataset[torch.cat(numbers)])
            sizes = [len(rows) for rows in numbers]  # the last may be short, or empty
            for batch in zip(*(torch.split(tensor, sizes) for tensor in gathered), strict=True):
                # A copy begins where memory is aligned, on which the rounding of a matrix product
                # may depend: so a batch is the same, wherever in a block it stands.
                yield [part.clone() for part in batch]

    def _on_device(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        if self.device is None:
            return list(tensors)
        return [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors]


def table_loader(
    dataset: TableDataset,
    sampler: BatchSampler,
    num_workers: int = 0,
    device: torch.device | None = None,
) -> TableLoader:
    """Build the loader of a table's batches.

    Args:
        dataset: Features and targets.
        sampler: Draws each batch's row numbers.
        num_workers: Processes that gather batches in the background; the table is in memory, so
            0 is the fastest.
        device: The NVIDIA GPU to put the batches on; with workers they are only put into
            page-locked memory, for whoever copies them.

    Returns:
        A loader of ``[features, target]`` batches, shapes ``(batch, in_features)``, ``(batch, 1)``.
    """
    return TableLoader(
        dataset,
        sampler,
        device=device,
        num_workers=num_workers,
        pin_memory=num_workers > 0 and device is not None,
        persistent_workers=num_workers > 0,
        # a loader draws a seed for its workers each epoch; not from the state that dropout uses
        generator=torch.Generator(),
    )
