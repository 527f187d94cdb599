"""An optimiser step on a mini-batch without the machinery that makes PyTorch's steps general.

In training the lecture's network by 100 rows, a quarter of the time goes to what PyTorch does
around the arithmetic: autograd records the operations and replays them, and Adam looks through its
groups and states. But the network's gradient is known beforehand, and Adam's state keeps its form.
So a step here is the operations alone, the same in the same order, and the weights come out as
they would have otherwise, bit for bit.

This file is the only one that knows the name of Adam's kernel, which is private in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.modules.module import _has_any_global_hook
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as optimizers

from gpa_lightning import onednn
from gpa_lightning.network import FullyConnectedNetwork

NoteLoss = Callable[[Tensor, int], None]


class DirectStep:
    """Steps of fused Adam on the MSE of a `FullyConnectedNetwork`, on the CPU.

    `of` makes one where it does what autograd and the optimiser would do.

    Args:
        network: What is trained.
        optimizer: What trains it, at least its second step from now on.
        most_rows: Of a batch.
        note_loss: Called with each batch's MSE and number of rows.
    """

    def __init__(
        self,
        network: FullyConnectedNetwork,
        optimizer: Optimizer,
        most_rows: int,
        note_loss: NoteLoss,
    ) -> None:
        self._parameters = list(network.parameters())
        self._weights, self._biases = self._parameters[::2], self._parameters[1::2]
        self._dropout = network.dropout if network.training else 0.0
        self._adam = [_AdamGroup(group, optimizer.state) for group in optimizer.param_groups]
        self._most_rows = most_rows
        self._note_loss = note_loss
        self._wanted = [True] * len(self._parameters)
        self._one = torch.ones(())

    @classmethod
    def of(
        cls, network: nn.Module, optimizer: Optimizer, most_rows: int, note_loss: NoteLoss
    ) -> DirectStep | None:
        """Make direct steps, or None where they would not do all that others do.

        That is: for another network or optimiser than this one knows, while a weight is frozen,
        before the optimiser's first step, or where somebody has hooked into anything on the way.

        Args:
            network: What is trained.
            optimizer: What trains it.
            most_rows: Of a batch.
            note_loss: Called with each batch's MSE and number of rows.
        """
        if (
            type(network) is FullyConnectedNetwork
            and onednn.applies(list(network.layers))
            and not _is_listened_to(network)
            and _is_fused_adam(optimizer)
            and _are_all_trained(list(network.parameters()), optimizer)
        ):
            return cls(network, optimizer, most_rows, note_loss)
        return None

    def __call__(self, batch: Sequence[Tensor]) -> bool:
        """Take a step on a batch of features and targets, and leave its gradient in the weights.

        Args:
            batch: Features, shape ``(batch, in_features)``, and target, shape ``(batch, 1)``.

        Returns:
            Whether it did; it does nothing with more rows, or tensors of another kind.
        """
        x, y = batch
        if not (
            onednn.takes(x)
            and onednn.takes(y)
            and y.shape == (len(x), 1)
            and 0 < len(x) <= self._most_rows
        ):
            return False
        for parameter in self._parameters:
            parameter.grad = None  # before the new gradient is there: it takes the old one's place
        with torch.no_grad():
            *inputs, prediction = onednn.forward(x, self._weights, self._biases, self._dropout)
            self._note_loss(mse_loss(prediction, y), len(x))
            grad = torch.ops.aten.mse_loss_backward(self._one, prediction, y, 1)
            _, gradients = onednn.backward(
                grad, inputs, self._weights, self._dropout, self._wanted, x_wanted=False
            )
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            for group in self._adam:
                group.step()
        return True


class _AdamGroup:
    """A parameter group of Adam or AdamW, its states looked up once."""

    def __init__(self, group: Mapping[str, Any], state: Mapping[Tensor, Any]) -> None:
        self.group = group
        self.parameters: list[Tensor] = group["params"]
        states = [state[parameter] for parameter in self.parameters]
        self.steps, self.means, self.squares = (
            [each[name] for each in states] for name in ("step", "exp_avg", "exp_avg_sq")
        )

    def step(self) -> None:
        """Do what `torch.optim.Adam.step` does with it."""
        group = self.group
        torch._foreach_add_(self.steps, 1)
        kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        beta1, beta2 = group["betas"]
        kernel(
            self.parameters,
            [parameter.grad for parameter in self.parameters],  # type: ignore[misc]  # it has
            self.means,
            self.squares,
            [],
            self.steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )


def _is_listened_to(network: nn.Module) -> bool:
    return (
        torch.is_anomaly_enabled()
        or _has_any_global_hook()  # type: ignore[no-untyped-call]
        or any(
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            for module in network.modules()
        )
        or any(
            parameter._backward_hooks or parameter._post_accumulate_grad_hooks
            for parameter in network.parameters()
        )
    )


def _is_fused_adam(optimizer: Optimizer) -> bool:
    return type(optimizer) in (Adam, AdamW) and not (
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or optimizers._global_optimizer_pre_hooks
        or optimizers._global_optimizer_post_hooks
        or any(
            not group["fused"]
            or group["amsgrad"]
            or any(isinstance(value, Tensor) for value in (group["lr"], *group["betas"]))
            for group in optimizer.param_groups
        )
    )


def _are_all_trained(parameters: Sequence[Tensor], optimizer: Optimizer) -> bool:
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return (
        len(trained) == len(parameters)
        and {id(parameter) for parameter in trained} == {id(each) for each in parameters}
        and all(each.requires_grad and optimizer.state[each] for each in parameters)
    )
