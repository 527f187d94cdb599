"""What training minimises: the MSE, in one piece or in many, and the lecture's penalties."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

Norm = Literal["l1", "l2"]


class DivergenceError(ValueError):
    """A training that has left the finite numbers: one line, with where and what to try."""


def weight_norm(parameters: Iterable[Tensor], norm: Norm) -> Tensor:
    r"""Compute the L1 or L2 norm of all weights together, as the lecture defines them.

    :math:`\|w\|_1 = \sum_j |w_j|` or :math:`\|w\|_2 = \sqrt{\sum_j w_j^2}`: the L2 norm is not
    squared, unlike the usual weight decay ("Avoiding Over-Fitting", strategy 2). Biases count, as
    in the lecture, where a bias is the weight of a feature that is always 1.

    Args:
        parameters: The weights, of any shapes.
        norm: Which norm.

    Returns:
        The norm, a scalar; its gradient at the origin is 0.

    Example:
        >>> weights = [torch.tensor([3.0]), torch.tensor([[-4.0]])]
        >>> weight_norm(weights, "l1").item(), weight_norm(weights, "l2").item()
        (7.0, 5.0)
    """
    order = 1 if norm == "l1" else 2
    norms = [torch.linalg.vector_norm(parameter, order) for parameter in parameters]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms), order)
    return total


@torch.no_grad()
def evaluation_mse(network: nn.Module, x: Tensor, y: Tensor, rows: int = 2048) -> float:
    """Compute the MSE over a whole set in evaluation mode, without touching the network's mode.

    Args:
        network: Maps ``(batch, in_features)`` to ``(batch, 1)``.
        x: Standardised features, shape ``(rows, in_features)``, on any device.
        y: Targets, shape ``(rows, 1)``.
        rows: Rows that are evaluated at a time.

    Returns:
        The mean of the squared errors.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    total = torch.zeros((), dtype=torch.float64)
    for x_piece, y_piece in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
        prediction = network(x_piece.to(device))
        total += mse_loss(prediction, y_piece.to(device), reduction="sum").cpu()
    network.train(was_training)
    return total.item() / len(x)


def mse_in_pieces(network: nn.Module, x: Tensor, y: Tensor, rows: int) -> Tensor:
    """Compute the exact MSE of a large batch, and its gradient, with the memory of a small one.

    The forward pass runs forward *and* backward over pieces of ``rows`` rows, so that only one
    piece's activations exist at a time; the backward pass hands out the gradient summed on the
    way. Autograd, mixed precision's loss scaling and gradient hooks see an ordinary loss.

    Args:
        network: Maps ``(batch, in_features)`` to ``(batch, 1)``.
        x: Standardised features, shape ``(batch, in_features)``; may stay in host memory, each
            piece is moved to the network's device by itself.
        y: Targets, shape ``(batch, 1)``.
        rows: Rows a piece.

    Returns:
        The mean of the squared errors over all rows, a scalar on the network's device.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    loss: Tensor = _MSEInPieces.apply(  # type: ignore[no-untyped-call]
        network, x, y, rows, *parameters
    )
    return loss


class _MSEInPieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, network: nn.Module, x: Tensor, y: Tensor, rows: int, *parameters: Tensor
    ) -> Tensor:
        device = parameters[0].device
        gradients: tuple[Tensor, ...] = ()
        total = torch.zeros((), device=device)
        needs_gradient = any(ctx.needs_input_grad)
        for x_piece, y_piece in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
            with torch.set_grad_enabled(needs_gradient):
                prediction = network(x_piece.to(device, non_blocking=True))
                target = y_piece.to(device, non_blocking=True)
                loss = mse_loss(prediction, target, reduction="sum") / len(x)
            total += loss.detach()
            if needs_gradient:
                piece = torch.autograd.grad(loss, parameters)
                if gradients:
                    torch._foreach_add_(gradients, piece)
                else:
                    gradients = piece
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, ()
        torch._foreach_mul_(gradients, grad_output)
        return None, None, None, None, *gradients
