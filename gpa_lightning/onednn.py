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
from torch.nn import functional

_LEAST_WORK = 1 << 19  # multiplications; for fewer the call of oneDNN costs more than it saves


def is_available() -> bool:
    """Tell whether this build of PyTorch has the operator for this processor."""
    compiled: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return compiled and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def takes(x: Tensor) -> bool:
    """Tell whether a tensor is what this file computes with: 2-D, single precision, on a CPU."""
    return x.dim() == 2 and x.dtype == torch.float32 and x.device.type == "cpu"


def applies(modules: Sequence[nn.Module]) -> bool:
    """Tell whether `fully_connected` computes what calling the modules one by one would.

    That is, for an input that it `takes`: uncompiled, and while nobody has hooked into a module
    (PyTorch's own fast paths, of `torch.nn.TransformerEncoderLayer` for example, look at the same
    two attributes).

    Args:
        modules: The modules that the function would stand in for.
    """
    return (
        not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
        and is_available()
    )


def fully_connected(x: Tensor, layers: Sequence[nn.Linear], dropout: float = 0.0) -> Tensor:
    """Compute fully connected layers with ReLU (and dropout) between them, with a gradient.

    Args:
        x: Input, shape ``(batch, in_features)``, float32 on the CPU.
        layers: One after the other.
        dropout: Probability with which each hidden unit is zeroed, after its ReLU; the random
            numbers are those that `torch.nn.Dropout` would draw.

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
        weights = parameters[::2]
        *inputs, output = forward(x, weights, parameters[1::2], dropout)
        ctx.dropout = dropout
        ctx.save_for_backward(*inputs, *weights)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, weights = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        x_wanted, _, *wanted = ctx.needs_input_grad
        grad_x, gradients = backward(grad, inputs, weights, ctx.dropout, wanted, x_wanted)
        return grad_x, None, *gradients


def forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dropout: float
) -> list[Tensor]:
    """Compute every layer's output.

    Args:
        x: Input, shape ``(batch, in_features)``.
        weights: Of each layer, shape ``(outputs, inputs)``.
        biases: Of each layer, shape ``(outputs,)``.
        dropout: Probability with which each hidden unit is zeroed.

    Returns:
        The input, then the output of each layer, hidden ones after ReLU and dropout.
    """
    outputs = [x]
    last = len(weights) - 1
    for depth in range(last):
        hidden = _product(outputs[-1], weights[depth], biases[depth], relu=True)
        if dropout:
            functional.dropout(hidden, dropout, inplace=True)
        outputs.append(hidden)
    outputs.append(_product(outputs[-1], weights[last], biases[last]))
    return outputs


def backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    dropout: float,
    wanted: Sequence[bool],
    x_wanted: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Compute the gradients of a loss with respect to what `forward` was given.

    Args:
        grad: That with respect to the last layer's output.
        inputs: Of each layer, as `forward` returned them.
        weights: Of each layer.
        dropout: As `forward` had it.
        wanted: Of each layer's weight and bias in turn, whether its gradient is.
        x_wanted: Whether that with respect to the first layer's input is.

    Returns:
        The latter, then those of each layer's weight and bias in turn; None where not wanted.
    """
    gradients: list[Tensor | None] = [None] * len(wanted)
    for depth in reversed(range(len(weights))):
        if wanted[2 * depth]:
            gradients[2 * depth] = _weight_gradient(grad, inputs[depth])
        if wanted[2 * depth + 1]:
            gradients[2 * depth + 1] = grad.sum(0)
        if not (x_wanted or any(wanted[: 2 * depth])):
            return None, gradients
        grad = _product(grad, weights[depth].T)
        if depth:
            # a unit that ReLU or dropout has zeroed passes nothing on
            torch.ops.aten.threshold_backward.grad_input(grad, inputs[depth], 0, grad_input=grad)
            if dropout:
                grad.mul_(1 / (1 - dropout))
    return grad, gradients


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Compute ``grad.T @ x``, from the side that leaves less to transpose."""
    if x.shape[1] < grad.shape[1]:
        return _product(x.T, grad.T).T.contiguous()
    return _product(grad.T, x.T)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Compute ``x @ weight.T + bias``, and ReLU of it if wanted."""
    if x.numel() * weight.shape[0] < _LEAST_WORK:
        output = functional.linear(x, weight, bias)
        return output.relu_() if relu else output
    activation = "relu" if relu else "none"
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")
    return result
