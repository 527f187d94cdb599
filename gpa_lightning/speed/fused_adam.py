"""The step of a fused Adam without the bookkeeping around its kernel.

`torch.optim.Adam.step` looks through groups, states and hooks at every step, which for a small
network takes longer than the arithmetic. Here they are looked through once for many steps. This
file is the only one that knows the kernel's name, which is private in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as optimizers


def supports(optimizer: Optimizer) -> bool:
    """Tell whether `FusedAdam` does all that a step of an optimiser does.

    That is: a fused Adam or AdamW of PyTorch's own class with plain settings, which has taken a
    step of every weight already, and into which nobody has hooked.
    """
    return (
        type(optimizer) in (Adam, AdamW)
        and not optimizer._optimizer_step_pre_hooks
        and not optimizer._optimizer_step_post_hooks
        and not optimizers._global_optimizer_pre_hooks
        and not optimizers._global_optimizer_post_hooks
        and all(map(_has_plain_settings, optimizer.param_groups))
        and all(
            weight.dtype == torch.float32 and weight in optimizer.state
            for group in optimizer.param_groups
            for weight in group["params"]
        )
    )


def _has_plain_settings(group: Mapping[str, Any]) -> bool:
    return (
        bool(group["fused"])
        and not (group["amsgrad"] or group["capturable"] or group["differentiable"])
        and not any(isinstance(value, Tensor) for value in (group["lr"], *group["betas"]))
    )


class FusedAdam:
    """Steps of an optimiser that is supported, to the same bits.

    Args:
        optimizer: The optimiser. Its learning rates and other settings are read at every step;
            its weights and their states are looked up once.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [_Group(group, optimizer.state) for group in optimizer.param_groups]

    def step(self) -> None:
        """Step on the weights' gradients; the optimiser itself does where one is missing."""
        gradients = [[weight.grad for weight in group.weights] for group in self._groups]
        if not all(g is not None and g.layout == torch.strided for each in gradients for g in each):
            self._optimizer.step()
            return
        with torch.no_grad():
            for group, each in zip(self._groups, gradients, strict=True):
                group.step(each)


class _Group:
    """A parameter group and the states of its weights."""

    def __init__(self, group: Mapping[str, Any], state: Mapping[Tensor, Any]) -> None:
        self._group = group
        self.weights: list[Tensor] = group["params"]
        states = [state[weight] for weight in self.weights]
        self._steps, self._means, self._squares = (
            [each[name] for each in states] for name in ("step", "exp_avg", "exp_avg_sq")
        )

    def step(self, gradients: list[Any]) -> None:
        """Do what `torch.optim.adam._fused_adam` does with a group."""
        group = self._group
        torch._foreach_add_(self._steps, 1)
        kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        beta1, beta2 = group["betas"]
        kernel(
            self.weights,
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )
