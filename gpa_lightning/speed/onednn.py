"""The network's forward and backward pass on the faster of PyTorch's two CPU libraries.

PyTorch multiplies single-precision matrices with Intel's MKL, which on other makers' processors
seems to leave their widest instructions unused. oneDNN, which PyTorch also carries, is twice as
fast on an AMD EPYC, and applies ReLU on the way out. PyTorch offers it as an operator without a
gradient, under a private name (its compiler calls it). So the whole network is one function here,
with its gradient written out, which also spares autograd's bookkeeping between layers. This file
is the only one that knows the operator's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpa_lightning.speed import gradients

_LEAST_WORK = 1 << 19  # multiplications; for fewer the call of oneDNN costs more than it saves


def is_available() -> bool:
    """Tell whether this build of PyTorch has the operator for this processor."""
    compiled: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return compiled and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def applies(modules: Sequence[nn.Module], x: Tensor) -> bool:
    """Tell whether `fully_connected` computes what calling the modules one by one would.

    That is: in single precision, on a CPU, for a batch of rows, and where `gradients.stand_for`
    says so.

    Args:
        modules: The modules that the function would stand in for.
        x: Their input.
    """
    return (
        x.dim() == 2
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and gradients.stand_for(modules, x.device)
        and is_available()
    )


def fully_connected(x: Tensor, layers: Sequence[nn.Linear], dropout: float = 0.0) -> Tensor:
    """Compute fully connected layers with ReLU (and dropout) between them, with a gradient.

    Args:
        x: Input, shape ``(batch, in_features)``, float32 on the CPU.
        layers: One after the other.
        dropout: Probability with which each hidden unit is zeroed, after its ReLU.

    Returns:
        Output of the last layer, shape ``(batch, out_features)``.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> x = torch.ones(4, 2)
        >>> torch.allclose(fully_connected(x, [layer]), layer(x))
        True
    """
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    output: Tensor = _FullyConnected.apply(x, dropout, *parameters)  # type: ignore[no-untyped-call]
    return output


class _FullyConnected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: float, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        *inputs, output = gradients.forward(x, weights, biases, dropout, product)
        ctx.dropout = dropout
        ctx.save_for_backward(*inputs, *weights)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, weights = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        x_wanted, _, *wanted = ctx.needs_input_grad
        grad_x, others = gradients.backward(
            grad, inputs, weights, ctx.dropout, wanted, x_wanted, product
        )
        return grad_x, None, *others


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Compute ``x @ weight.T + bias``, and ReLU of it if wanted, all in single precision."""
    if x.numel() * weight.shape[0] < _LEAST_WORK:
        return gradients.product(x, weight, bias, relu)
    activation = "relu" if relu else "none"
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")
    return result
