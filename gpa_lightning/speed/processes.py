"""The mean gradient of several processes, all of a step's gradients in one message."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn


class SharedGradients:
    """What `DistributedDataParallel` does around a step, for a module that is small.

    It takes the gradients of a module apart into buckets and sends each on its way while the others
    are computed, which for a small network takes longer than to send them all at once.

    Args:
        module: Its weights and buffers are alike in all processes of the default group.
    """

    def __init__(self, module: nn.Module) -> None:
        self._buffers = list(module.buffers())
        self._weights = [weight for weight in module.parameters() if weight.requires_grad]
        self._sizes = [weight.numel() for weight in self._weights]

    def share_buffers(self) -> None:
        """Take the first process's buffers, as before each forward pass."""
        for buffer in self._buffers:
            distributed.broadcast(buffer, 0)

    def average(self) -> None:
        """Put the mean of all processes' gradients in the place of this process's.

        Raises:
            RuntimeError: If a weight has no gradient, with which the processes would fall apart.
        """
        gradients = [weight.grad for weight in self._weights]
        together = torch.cat([each.reshape(-1) for each in _present(gradients)])
        together /= distributed.get_world_size()
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
