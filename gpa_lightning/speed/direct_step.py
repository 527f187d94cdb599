"""An optimiser step on a mini-batch without the machinery that makes PyTorch's steps general.

In training the lecture's network by 100 rows, a fifth of the time goes to what PyTorch does
around the arithmetic: autograd records the operations and replays them, and Adam looks through its
groups and states. But the network's gradient is known beforehand, and Adam's state keeps its form.
So a step here is the operations alone. On a CPU they are the same in the same order, and the
weights come out as they would have otherwise, bit for bit; on an NVIDIA GPU they are recorded and
replayed (`cuda_graph.py`).

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

from gpa_lightning.network import FullyConnectedNetwork
from gpa_lightning.speed import gradients, onednn
from gpa_lightning.speed.cuda_graph import StepGraph

_MEAN = 1  # the number of this reduction among PyTorch's operators

NoteLoss = Callable[[Tensor, int], None]


class DirectStep:
    """Steps of fused Adam on the MSE of a `FullyConnectedNetwork`.

    `of` makes one where it does what autograd and the optimiser would do.

    Args:
        network: What is trained.
        optimizer: What trains it, at least its second step from now on.
        most_rows: Of a batch.
        note_loss: Called with each batch's MSE and number of rows.
        graph: Where a GPU's steps are recorded.
    """

    def __init__(
        self,
        network: FullyConnectedNetwork,
        optimizer: Optimizer,
        most_rows: int,
        note_loss: NoteLoss,
        graph: StepGraph,
    ) -> None:
        self.parameters = list(network.parameters())
        self.adam = [AdamGroup(group, optimizer.state) for group in optimizer.param_groups]
        self.dropout = network.dropout if network.training else 0.0
        self._weights, self._biases = self.parameters[::2], self.parameters[1::2]
        self._most_rows = most_rows
        self._note_loss = note_loss
        self._graph = graph
        self._device = self.parameters[0].device
        self._product = onednn.product if self._device.type == "cpu" else gradients.product
        self._wanted = [True] * len(self.parameters)
        self._one = torch.ones((), device=self._device)

    @classmethod
    def of(
        cls,
        network: nn.Module,
        optimizer: Optimizer,
        most_rows: int,
        note_loss: NoteLoss,
        graph: StepGraph,
    ) -> DirectStep | None:
        """Make direct steps, or None where they would not do all that others do.

        That is: for another network or optimiser than this one knows, while a weight is frozen,
        before the optimiser's first step, where somebody has hooked into anything on the way, and
        on a CPU without oneDNN or another device.

        Args:
            network: What is trained.
            optimizer: What trains it.
            most_rows: Of a batch.
            note_loss: Called with each batch's MSE and number of rows.
            graph: Where a GPU's steps are recorded.
        """
        if type(network) is not FullyConnectedNetwork:
            return None
        parameters = list(network.parameters())
        device = parameters[0].device
        if (
            (device.type == "cuda" or (device.type == "cpu" and onednn.is_available()))
            and all(each.dtype == torch.float32 for each in parameters)
            and gradients.stand_for(list(network.layers), device)
            and not _is_listened_to(network)
            and _is_fused_adam(optimizer)
            and _are_all_trained(parameters, optimizer)
        ):
            return cls(network, optimizer, most_rows, note_loss, graph)
        return None

    def __call__(self, batch: Sequence[Tensor]) -> bool:
        """Take a step on a batch of features and targets, and leave its gradient in the weights.

        Args:
            batch: Features, shape ``(batch, in_features)``, and target, shape ``(batch, 1)``.

        Returns:
            Whether it did; it does nothing with more rows, or tensors of another kind.
        """
        x, y = batch
        rows = x.shape[0] if x.dim() == 2 else 0
        if not (
            0 < rows <= self._most_rows
            and y.shape == (rows, 1)
            and x.dtype == y.dtype == torch.float32
            and x.device == y.device == self._device
        ):
            return False
        with torch.no_grad():
            mse = self._graph.replay(self, x, y) if x.is_cuda else None
            self._note_loss(self.take(x, y) if mse is None else mse, rows)
        return True

    def take(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute the MSE of a batch and its gradient, and let Adam step.

        Args:
            x: Features, shape ``(batch, in_features)``.
            y: Target, shape ``(batch, 1)``.

        Returns:
            The MSE before the step.
        """
        for parameter in self.parameters:
            parameter.grad = None  # before the new gradient is there: it takes the old one's place
        *inputs, prediction = gradients.forward(
            x, self._weights, self._biases, self.dropout, self._product
        )
        mse = mse_loss(prediction, y)
        grad = torch.ops.aten.mse_loss_backward(self._one, prediction, y, _MEAN)
        _, all_gradients = gradients.backward(
            grad, inputs, self._weights, self.dropout, self._wanted, False, self._product
        )
        for parameter, gradient in zip(self.parameters, all_gradients, strict=True):
            parameter.grad = gradient
        for group in self.adam:
            group.step()
        return mse


class AdamGroup:
    """A parameter group of Adam or AdamW, its states looked up once."""

    def __init__(self, group: Mapping[str, Any], state: Mapping[Tensor, Any]) -> None:
        self.group = group
        self.parameters: list[Tensor] = group["params"]
        self.rate: Tensor | None = None  # if not the group's own
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
            lr=group["lr"] if self.rate is None else self.rate,
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
        and all(each.requires_grad and optimizer.state.get(each) for each in parameters)
    )
