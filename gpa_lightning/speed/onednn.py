"""Matrix products on the faster of PyTorch's two CPU libraries.

PyTorch multiplies float32 matrices by MKL. oneDNN, which PyTorch carries too, was 1.03 to 1.24
times as fast on an AMD processor with AVX2, and applies ReLU on the way out. PyTorch offers it as
an operator under a private name, which its compiler calls; this file is the only one that knows
the name.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_WORK = 1 << 19  # multiplications; for fewer, the call of oneDNN costs more than it saves


def is_available() -> bool:
    """Tell whether this build of PyTorch has the operator for this processor."""
    compiled: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return compiled and hasattr(torch.ops.mkldnn, "_linear_pointwise")


AVAILABLE = is_available()


@functools.cache
def multiplies_bfloat16() -> bool:
    """Tell whether this processor has instructions for products of bfloat16 numbers."""
    return AVAILABLE and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Compute by oneDNN, whatever the size, what `linear` computes; it has to be available."""
    activation = "relu" if relu else "none"
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")
    return result


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Compute ``x @ weight.T + bias``, and ReLU of it if wanted.

    Small products are computed as `torch.nn.functional.linear` does, to the same bits.

    Args:
        x: Shape ``(rows, in_features)``.
        weight: Shape ``(out_features, in_features)``.
        bias: Shape ``(out_features,)``.
        relu: Whether to apply ReLU.

    Returns:
        Shape ``(rows, out_features)``.
    """
    if AVAILABLE and x.numel() * weight.shape[0] >= _LEAST_WORK:
        return product(x, weight, bias, relu)
    output = functional.linear(x, weight, bias)
    return output.relu_() if relu else output


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Compute ``grad.T @ x``, a linear layer's gradient with respect to its weight.

    Args:
        grad: Gradient with respect to the output, shape ``(rows, out_features)``.
        x: The layer's input, shape ``(rows, in_features)``.

    Returns:
        Shape ``(out_features, in_features)``.
    """
    if grad.dtype != torch.float32:
        return grad.T @ x
    if AVAILABLE and x.shape[1] < grad.shape[1] and x.numel() * grad.shape[1] >= _LEAST_WORK:
        return linear(x.T, grad.T).T.contiguous()  # this side leaves less to transpose
    return linear(grad.T, x.T)
