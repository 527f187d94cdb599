"""`torch.nn.Linear` on the faster of PyTorch's two CPU libraries for matrix products.

PyTorch multiplies single-precision matrices with Intel's MKL, which on other makers' processors
seems to leave their widest instructions unused. oneDNN, which PyTorch also carries, is twice as
fast on an AMD EPYC: the lecture's second layer takes 0.9 ms forward and backward instead of 2.7.
PyTorch offers that path as an operator without a gradient, under a private name (its compiler
calls it); the gradient stands below, and this file is the only one that knows the name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_FEWEST_OUTPUTS = 16  # below, the call costs more than the product


def onednn_is_available() -> bool:
    """Tell whether this build of PyTorch has the operator for this processor."""
    compiled: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return compiled and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``x @ weight.T + bias`` by oneDNN."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.T, None) if for_x else None,
            _product(grad.T, x.T, None) if for_weight else None,
            grad.sum(0) if for_bias else None,
        )


linear: Callable[[Tensor, Tensor, Tensor], Tensor] = _OneDNNLinear.apply
"""``x @ weight.T + bias`` by oneDNN, with a gradient."""


class Linear(nn.Linear):
    """A `torch.nn.Linear` that is computed by oneDNN where that is possible and worth it.

    That is: in single precision on a CPU, for a batch of rows, uncompiled. Anything else, and
    other devices, take PyTorch's usual path. The two agree to rounding.

    Example:
        >>> Linear(2, 32)
        Linear(in_features=2, out_features=32, bias=True)
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Linear
        """Compute ``input @ weight.T + bias``, shapes ``(batch, in)`` to ``(batch, out)``."""
        if (
            self.out_features >= _FEWEST_OUTPUTS
            and input.dim() == 2
            and input.dtype == self.weight.dtype == torch.float32
            and input.device.type == self.weight.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and onednn_is_available()
        ):
            return linear(input, self.weight, self.bias)
        return super().forward(input)
