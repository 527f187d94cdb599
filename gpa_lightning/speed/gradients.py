"""Fully connected layers and their gradient, written out as the operations that they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Product = Callable[..., Tensor]
"""Computes what `product` does, with its arguments."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Compute ``x @ weight.T + bias``, and ReLU of it if wanted, as PyTorch does by default."""
    output = functional.linear(x, weight, bias)
    return output.relu_() if relu else output


def stand_for(modules: Sequence[nn.Module], device: torch.device) -> bool:
    """Tell whether `forward` computes what calling the modules one by one would.

    That is, in single precision: uncompiled, and while nobody has hooked into a module (PyTorch's
    own fast paths, of `torch.nn.TransformerEncoderLayer` for example, look at the same two
    attributes).

    Args:
        modules: Linear layers, ReLU and dropout.
        device: Where they are.
    """
    return (
        not torch.is_autocast_enabled(device.type)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    )


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    dropout: float,
    product: Product,
) -> list[Tensor]:
    """Compute every layer's output, ReLU (and dropout) between the layers.

    Args:
        x: Input, shape ``(batch, in_features)``.
        weights: Of each layer, shape ``(outputs, inputs)``.
        biases: Of each layer, shape ``(outputs,)``.
        dropout: Probability with which each hidden unit is zeroed, after its ReLU; the random
            numbers are those that `torch.nn.Dropout` would draw.
        product: What multiplies matrices.

    Returns:
        The input, then the output of each layer, hidden ones after ReLU and dropout.
    """
    outputs = [x]
    last = len(weights) - 1
    for depth in range(last):
        hidden = product(outputs[-1], weights[depth], biases[depth], relu=True)
        if dropout:
            functional.dropout(hidden, dropout, inplace=True)
        outputs.append(hidden)
    outputs.append(product(outputs[-1], weights[last], biases[last]))
    return outputs


def backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    dropout: float,
    wanted: Sequence[bool],
    x_wanted: bool,
    product: Product,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Compute the gradients of a loss with respect to what `forward` was given.

    Args:
        grad: That with respect to the last layer's output.
        inputs: Of each layer, as `forward` returned them.
        weights: Of each layer.
        dropout: As `forward` had it.
        wanted: Of each layer's weight and bias in turn, whether its gradient is.
        x_wanted: Whether that with respect to the first layer's input is.
        product: What multiplies matrices.

    Returns:
        The latter, then those of each layer's weight and bias in turn; None where not wanted.
    """
    gradients: list[Tensor | None] = [None] * len(wanted)
    for depth in reversed(range(len(weights))):
        if wanted[2 * depth]:
            gradients[2 * depth] = _weight_gradient(grad, inputs[depth], product)
        if wanted[2 * depth + 1]:
            gradients[2 * depth + 1] = grad.sum(0)
        if not (x_wanted or any(wanted[: 2 * depth])):
            return None, gradients
        grad = product(grad, weights[depth].T)
        if depth:
            # a unit that ReLU or dropout has zeroed passes nothing on
            torch.ops.aten.threshold_backward.grad_input(grad, inputs[depth], 0, grad_input=grad)
            if dropout:
                grad.mul_(1 / (1 - dropout))
    return grad, gradients


def _weight_gradient(grad: Tensor, x: Tensor, product: Product) -> Tensor:
    """Compute ``grad.T @ x``, from the side that leaves less to transpose."""
    if x.shape[1] < grad.shape[1]:
        return product(x.T, grad.T).T.contiguous()
    return product(grad.T, x.T)
