"""The mean gradient of several processes, all of a step's gradients at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, distributed, nn


class SharedGradients:
    """What `DistributedDataParallel` does around a step, for a module that is small.

    It takes the gradients of a module apart into buckets and sends each on its way while the others
    are computed, which for a small network takes longer than to send them all at once. Processes
    of one machine read each other's gradients in memory (on Linux); others send one message.

    Args:
        module: Its weights and buffers are alike in all processes of the default group.
        earlier: What shared the gradients until now, whose memory is taken over.
    """

    def __init__(self, module: nn.Module, earlier: SharedGradients | None = None) -> None:
        self._buffers = list(module.buffers())
        self._weights = [weight for weight in module.parameters() if weight.requires_grad]
        self._sizes = [weight.numel() for weight in self._weights]
        self._memory: list[Tensor] | None
        self._turns: Iterator[int]  # a slower process may still read what was written before
        if earlier and sum(earlier._sizes) == sum(self._sizes):
            self._memory, self._turns = earlier._memory, earlier._turns
        else:
            self._memory, self._turns = _memory_of_all(2, sum(self._sizes)), cycle((0, 1))
        self._signal = torch.zeros(1)

    def share_buffers(self) -> None:
        """Take the first process's buffers, as before each forward pass."""
        for buffer in self._buffers:
            distributed.broadcast(buffer, 0)

    def average(self) -> None:
        """Put the mean of all processes' gradients in the place of this process's.

        Raises:
            RuntimeError: If a weight has no gradient, with which the processes would fall apart.
        """
        gradients = [each.reshape(-1) for each in _present([w.grad for w in self._weights])]
        rank, count = distributed.get_rank(), distributed.get_world_size()
        if self._memory:
            turn = next(self._turns)
            torch.cat(gradients, out=self._memory[rank][turn])
            distributed.all_reduce(self._signal)  # all have written
            together = self._memory[0][turn] + self._memory[1][turn]
            for others in self._memory[2:]:
                together += others[turn]
            together /= count
        else:
            together = torch.cat(gradients)
            together /= count
            distributed.all_reduce(together)
        for weight, mean in zip(self._weights, torch.split(together, self._sizes), strict=True):
            weight.grad = mean.view_as(weight)


def _present(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    present = [gradient for gradient in gradients if gradient is not None]
    if len(present) < len(gradients):
        raise RuntimeError(
            "with several processes, each weight has to take part in each step's loss: "
            "--strategy ddp_find_unused_parameters_true lets some be left out"
        )
    return present


def _memory_of_all(*shape: int) -> list[Tensor] | None:
    """Return a tensor of each process, in which all can read, or None if some cannot.

    It has no name in a file system, so that nothing is left behind, whatever way a process ends.
    """
    numbers = torch.Size(shape).numel()
    name, place, descriptor = uuid4().hex, "", None
    if hasattr(os, "memfd_create"):  # Linux
        descriptor = os.memfd_create(name)
        os.ftruncate(descriptor, numbers * torch.float32.itemsize)
        place = f"/proc/{os.getpid()}/fd/{descriptor}"
    memory = [
        torch.from_file(place, shared=True, size=numbers).view(shape)
        for place, name in _gather((place, name))
        if _is_within_reach(place, name)
    ]
    everywhere = set(_gather(len(memory))) == {distributed.get_world_size()}
    if descriptor is not None:
        os.close(descriptor)  # which all have opened by now
    return memory if everywhere else None


def _is_within_reach(place: str, name: str) -> bool:
    """Tell whether a process of this machine has that memory; another may have a like number."""
    with suppress(OSError):
        return name in Path(place).readlink().name
    return False


def _gather(value: object) -> list[Any]:
    """Return a value of each process."""
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
