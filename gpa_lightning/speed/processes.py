"""The mean gradient of several processes, all of a step's gradients at once."""

from __future__ import annotations

import os
import weakref
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
        buffers = [(buffer.shape, buffer.dtype) for buffer in self._buffers]
        # two turns of gradients: a slower process may still read what was written before
        self._layout = [(torch.Size([2, sum(self._sizes)]), torch.float32), *buffers]
        self._memory: SharedMemory | None
        self._turns: Iterator[int]
        if earlier and earlier._layout == self._layout:
            self._memory, self._turns = earlier._memory, earlier._turns
        else:
            self._memory, self._turns = _share_memory(self._layout), cycle((0, 1))

    def share_buffers(self) -> None:
        """Take the first process's buffers, as before each forward pass.

        Raises:
            RuntimeError: If another process is gone.
        """
        if not self._memory:
            for buffer in self._buffers:
                distributed.broadcast(buffer, 0)
        elif self._buffers:
            _, *first = self._memory.of_processes[0]
            pairs = list(zip(self._buffers, first, strict=True))
            if distributed.get_rank() == 0:
                for buffer, shared in pairs:
                    shared.copy_(buffer)
            self._memory.wait_for_all()
            if distributed.get_rank() > 0:
                for buffer, shared in pairs:
                    buffer.copy_(shared)

    def average(self) -> None:
        """Put the mean of all processes' gradients in the place of this process's.

        Raises:
            RuntimeError: If a weight has no gradient, with which the processes would fall apart, or
                another process is gone.
        """
        gradients = [each.reshape(-1) for each in _present([w.grad for w in self._weights])]
        rank, count = distributed.get_rank(), distributed.get_world_size()
        if self._memory:
            turn = next(self._turns)
            everyones = [tensors[0][turn] for tensors in self._memory.of_processes]
            torch.cat(gradients, out=everyones[rank])
            self._memory.wait_for_all()
            together = everyones[0] + everyones[1]
            for others in everyones[2:]:
                together += others
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


class SharedMemory:
    """Tensors of each process of a machine, which all can read, and pipes by which they wait.

    gloo's smallest message took 1.6 ms after 4 ms of work, a byte in a pipe 0.07 (two cores).

    Args:
        of_processes: Tensors of each process.
        to_others: Descriptors of the pipes to each of the other processes.
        from_others: Descriptors of the pipes from each of them.
    """

    def __init__(
        self, of_processes: list[list[Tensor]], to_others: list[int], from_others: list[int]
    ) -> None:
        self.of_processes = of_processes
        self._to_others, self._from_others = to_others, from_others
        weakref.finalize(self, _close, [*to_others, *from_others])

    def wait_for_all(self) -> None:
        """Wait until each process has called this as often as this one; all see what was written.

        Raises:
            DistNetworkError: If another process has ended.
        """
        try:
            for pipe in self._to_others:
                os.write(pipe, b".")
            all_there = all(os.read(pipe, 1) for pipe in self._from_others)
        except BrokenPipeError:
            all_there = False
        if not all_there:
            raise distributed.DistNetworkError("another process of this machine has ended")


def _share_memory(layout: Sequence[tuple[torch.Size, torch.dtype]]) -> SharedMemory | None:
    """Return tensors of each process, in which all can read, or None if some cannot.

    Neither memory nor pipes have a name in a file system, so that nothing is left behind, whatever
    way a process ends: others find them among the open files of this one.

    Args:
        layout: Shapes and types of a process's tensors.
    """
    rank, count = distributed.get_rank(), distributed.get_world_size()
    ends, starts = [0], []
    for shape, dtype in layout:
        starts.append(-(-ends[-1] // 8) * 8)  # where a number of any type may begin
        ends.append(starts[-1] + shape.numel() * dtype.itemsize)
    name, place, opened = uuid4().hex, "", []
    to_others: list[int] = []
    if hasattr(os, "memfd_create"):  # Linux
        opened = [os.memfd_create(name)]
        os.ftruncate(opened[0], ends[-1])
        for _ in range(count):  # one of them to itself, which is not used
            reading, writing = os.pipe()
            opened.append(reading)
            to_others.append(writing)
        place = f"/proc/{os.getpid()}/fd"
    of_processes, from_others = [], []
    for other, (files, their_name, theirs) in enumerate(_gather((place, name, opened))):
        if not _is_within_reach(files, their_name, theirs):
            continue
        memory = torch.from_file(
            f"{files}/{theirs[0]}", shared=True, size=ends[-1], dtype=torch.uint8
        )
        of_processes.append(
            [
                memory[start:end].view(dtype).view(shape)
                for start, end, (shape, dtype) in zip(starts, ends[1:], layout, strict=True)
            ]
        )
        if other != rank:
            from_others.append(os.open(f"{files}/{theirs[1 + rank]}", os.O_RDONLY))
    everywhere = set(_gather(len(of_processes))) == {count}
    _close(opened)  # which all have opened by now
    if everywhere:
        _close([to_others.pop(rank)])
        return SharedMemory(of_processes, to_others, from_others)
    _close([*to_others, *from_others])
    return None


def _is_within_reach(place: str, name: str, descriptors: Sequence[int]) -> bool:
    """Tell whether a process of this machine has that memory; another may have a like number."""
    with suppress(OSError, IndexError):
        return name in Path(place, str(descriptors[0])).readlink().name
    return False


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _gather(value: object) -> list[Any]:
    """Return a value of each process."""
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
