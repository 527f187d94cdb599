"""Fully connected layers as one operation, with the gradient written out.

A stack of `Linear`, `ReLU` and `Dropout` is known by its structure, whoever has built it. As one
operation its matrix products can go to the faster of PyTorch's CPU libraries (`onednn.py`), and
autograd has one node to visit in the place of one for each layer. Where anybody could see or want
a difference (a hook, another type of layer, another precision, a transform of `torch.func`), the
modules are called one by one, as PyTorch does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook

from gpa_lightning.speed import onednn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Stack(NamedTuple):
    """The layers of an `nn.Sequential`.

    Attributes:
        linears: The fully connected layers, the last of which is the output layer.
        dropouts: Probability with which each hidden layer's units are zeroed now; 0 in evaluation.
    """

    linears: list[nn.Linear]
    dropouts: list[float]


def read_stack(sequential: nn.Sequential) -> Stack | None:
    """Read a stack of ``Linear, ReLU(, Dropout), ..., Linear``.

    Args:
        sequential: The modules, in any mode.

    Returns:
        Its layers, or None if it has other modules, modules of a subclass, weights that are more
        than float32 parameters of the module itself, or anything that is hooked in.
    """
    linears: list[nn.Linear] = []
    dropouts: list[float] = []
    expected: tuple[type, ...] = (nn.Linear,)
    for module in sequential._modules.values():
        kind = type(module)
        if kind not in expected or any(getattr(module, hooks) for hooks in _HOOKS):
            return None
        if "forward" in vars(module):
            return None
        if isinstance(module, nn.Linear):
            if not (_is_plain(module.weight) and _is_plain(module.bias)):
                return None
            linears.append(module)
            expected = (nn.ReLU,)
        elif isinstance(module, nn.Dropout):
            if not module.p < 1:
                return None
            dropouts[-1] = module.p if module.training else 0.0
            expected = (nn.Linear,)
        else:
            dropouts.append(0.0)
            expected = (nn.Linear, nn.Dropout)
    if not linears or len(dropouts) != len(linears) - 1:
        return None
    return Stack(linears, dropouts)


def _is_plain(parameter: Tensor | None) -> bool:
    return (
        type(parameter) is nn.Parameter
        and parameter.dtype == torch.float32
        and parameter.device.type == "cpu"
    )


def is_stack(module: nn.Module) -> bool:
    """Tell whether a module is an `nn.Sequential` that `FastForward` can stand in for."""
    return (
        isinstance(module, nn.Sequential)
        and type(module).forward is nn.Sequential.forward
        and "forward" not in vars(module)
        and read_stack(module) is not None
    )


class FastForward:
    """The forward pass of an `nn.Sequential`, as one operation where that makes no difference.

    Args:
        sequential: The modules. They are looked at anew at every call.

    Example:
        >>> layers = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> x = torch.randn(5, 9)
        >>> torch.equal(FastForward(layers)(x), layers(x))
        True
    """

    def __init__(self, sequential: nn.Sequential) -> None:
        self.sequential = sequential

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the output, shape ``(batch, out_features)``, from ``(batch, in_features)``."""
        dtype = _product_dtype()
        stack = read_stack(self.sequential) if dtype and _computes_plainly(x) else None
        if stack is None:
            return nn.Sequential.forward(self.sequential, x)  # type: ignore[no-any-return, no-untyped-call]
        parameters = [p for layer in stack.linears for p in (layer.weight, layer.bias)]
        output: Tensor = _FullyConnected.apply(  # type: ignore[no-untyped-call]
            x, dtype, stack.dropouts, *parameters
        )
        return output


def _product_dtype() -> torch.dtype | None:
    """Return the type in which matrices are multiplied, or None if it is another than the two."""
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    dtype = torch.get_autocast_dtype("cpu")
    return dtype if dtype == torch.bfloat16 and onednn.multiplies_bfloat16() else None


def _computes_plainly(x: Tensor) -> bool:
    """Tell whether a batch is of float32 on a CPU, and nobody transforms the operations.

    There is no public name for the last three: hooks on all modules, the transforms of
    `torch.func` (which PyTorch's own `autograd.Function` looks for in the same way), and dispatch
    modes such as the counter behind Lightning's `measure_flops`.
    """
    return (
        type(x) is Tensor
        and x.dim() == 2
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not _has_any_global_hook()  # type: ignore[no-untyped-call]
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
    )


class _FullyConnected(torch.autograd.Function):
    """Linear layers with ReLU (and dropout) between them, in float32 or as autocast rounds them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dtype: torch.dtype, dropouts: Sequence[float], *parameters: Tensor
    ) -> Tensor:
        # as autocast has it: products in `dtype`; the weights, and their gradients, in float32
        rounded = [parameter.to(dtype) for parameter in parameters]
        weights, biases = rounded[::2], rounded[1::2]
        hiddens: list[Tensor] = []
        inputs = x.to(dtype)  # of the next layer
        for weight, bias, dropout in zip(weights, biases, dropouts, strict=False):
            inputs = onednn.linear(inputs, weight, bias, relu=True)
            if dropout:
                functional.dropout(inputs, dropout, inplace=True)  # the numbers `nn.Dropout` draws
            hiddens.append(inputs)
        output = onednn.linear(inputs, weights[-1], biases[-1])
        ctx.dropouts, ctx.weights = dropouts, weights
        ctx.save_for_backward(x, *hiddens, *parameters)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_needed, _, _, *needed = ctx.needs_input_grad
        layers = len(ctx.weights)
        x, *rest = ctx.saved_tensors
        hiddens, parameters = rest[: layers - 1], rest[layers - 1 :]
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            return _differentiable(x, hiddens, ctx.dropouts, parameters, grad, ctx.needs_input_grad)
        inputs = [x.to(grad.dtype), *hiddens]
        gradients: list[Tensor | None] = [None] * len(needed)
        for depth in reversed(range(layers)):
            if needed[2 * depth]:
                gradients[2 * depth] = onednn.weight_gradient(grad, inputs[depth]).to(x.dtype)
            if needed[2 * depth + 1]:
                gradients[2 * depth + 1] = grad.sum(0).to(x.dtype)
            if not (x_needed or any(needed[: 2 * depth])):
                return None, None, None, *gradients
            grad = onednn.linear(grad, ctx.weights[depth].T)
            if depth:
                # a unit that ReLU or dropout has zeroed passes nothing on
                hidden, dropout = inputs[depth], ctx.dropouts[depth - 1]
                if dropout:
                    grad.mul_(_scale(dropout, grad.dtype))
                torch.ops.aten.threshold_backward.grad_input(grad, hidden, 0, grad_input=grad)
        return grad.to(x.dtype), None, None, *gradients


def _scale(dropout: float, dtype: torch.dtype) -> float:
    """Return what `nn.Dropout` multiplies the units by that it keeps, rounded as it rounds."""
    return torch.ones((), dtype=dtype).div_(1 - dropout).item()


def _differentiable(
    x: Tensor,
    hiddens: Sequence[Tensor],
    dropouts: Sequence[float],
    parameters: Sequence[Tensor],
    grad: Tensor,
    needs_grad: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Compute the gradients by autograd, with a graph of their own."""
    layers = [parameter.to(grad.dtype) for parameter in parameters]
    output = functional.linear(x.to(grad.dtype), layers[0], layers[1])
    for depth, (hidden, dropout) in enumerate(zip(hiddens, dropouts, strict=True), start=1):
        passed_on = (hidden > 0).to(grad.dtype) * _scale(dropout, grad.dtype)  # by ReLU and dropout
        output = functional.linear(output * passed_on, *layers[2 * depth : 2 * depth + 2])
    everything = [x, None, None, *parameters]
    needed = [t for t, needs in zip(everything, needs_grad, strict=True) if needs and t is not None]
    found = iter(torch.autograd.grad(output, needed, grad, create_graph=True))
    return tuple(next(found) if needs else None for needs in needs_grad)
