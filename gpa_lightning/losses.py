"""The training loss: the MSE of a batch of any size, its units, and the lecture's penalties."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

Norm = Literal["l1", "l2"]

CHUNK_ROWS = 1024
"""Rows of a large batch that are computed at a time: about 7 MB of the lecture's activations."""


def weight_norm(parameters: Iterable[Tensor], norm: Norm) -> Tensor:
    r"""Compute the L1 or L2 norm of all weights together, as the lecture defines them.

    :math:`\|w\|_1 = \sum_j |w_j|` or :math:`\|w\|_2 = \sqrt{\sum_j w_j^2}`: the L2 norm is not
    squared, unlike the usual weight decay ("Avoiding Over-Fitting", strategy 2). Biases count, as
    in the lecture, where a bias is the weight of a feature that is always 1.

    Args:
        parameters: The weights, of any shapes.
        norm: ``l1`` or ``l2``.

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
        rows: Number of rows that are evaluated at a time.

    Returns:
        The mean of the squared errors.
    """
    weight = next(network.parameters())
    was_training = network.training
    network.eval()
    total = torch.zeros((), dtype=torch.float64)
    for x_part, y_part in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
        prediction = network(x_part.to(weight))
        total += mse_loss(prediction, y_part.to(weight.device), reduction="sum").cpu()
    network.train(was_training)
    return total.item() / len(x)


class TargetUnits(nn.Module):
    """Converts outputs into the target's units: ``mean + scale * output``.

    Without units it returns them as they are. `GPADataModule` sets those of any other table than
    the course's: docs/tables.md says why.

    Attributes:
        mean: Mean of the target's training values, shape ``(1,)``; None for 0.
        scale: Standard deviation of these values, shape ``(1,)``; None for 1.

    Example:
        >>> units = TargetUnits()
        >>> units.set_once((100.0, 10.0))
        >>> units(torch.tensor([[0.5]]))
        tensor([[105.]])
    """

    mean: Tensor | None  # TorchScript reads these types, so this file postpones no annotations
    scale: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)
        self.register_buffer("scale", None)
        self._is_set = False
        self.register_load_state_dict_pre_hook(_allocate)  # type: ignore[no-untyped-call]

    def forward(self, output: Tensor) -> Tensor:
        """Convert outputs, shape ``(batch, 1)``, into the target's units."""
        mean, scale = self.mean, self.scale
        if mean is None or scale is None:
            return output
        return mean + scale * output

    def set_once(self, units: tuple[float, float] | None, like: Tensor | None = None) -> None:
        """Set the units, unless they have been set, or loaded from a checkpoint.

        Args:
            units: Mean and standard deviation of the target's training values; None for 0 and 1.
            like: Tensor whose type and device they take.
        """
        if units is not None and not self._is_set:
            like = torch.empty(0) if like is None else like
            self.mean, self.scale = (like.new_tensor([each]) for each in units)
        self._is_set = True


def _allocate(units: TargetUnits, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Make room for the units of a checkpoint, which may have none."""
    for name in ("mean", "scale"):
        saved = state_dict.get(prefix + name)
        setattr(units, name, None if saved is None else torch.empty_like(saved))
    units._is_set = True


_ROW_BY_ROW = (
    *(nn.Linear, nn.Dropout, nn.Identity, nn.LayerNorm, TargetUnits),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus),
)


def batch_mse(network: nn.Module, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute the MSE of a batch of any size, a large one with the memory of a small one.

    More than `CHUNK_ROWS` rows are taken in chunks if every module computes each row by itself (so
    not with BatchNorm, for example): the forward pass runs forward *and* backward over one chunk
    after the other, so that only one chunk's activations exist at a time, and the backward pass
    hands out the sum of the gradients. Autograd, mixed precision and gradient hooks see an
    ordinary loss; its second derivative is refused.

    Args:
        network: Maps ``(batch, in_features)`` to ``(batch, 1)``.
        x: Features, shape ``(batch, in_features)``.
        y: Targets, shape ``(batch, 1)``.
        weight: Weights of the rows, shape ``(batch, 1)``; None for equal ones.

    Returns:
        The (weighted) mean of the squared errors, a scalar; 0 for a batch of no rows.
    """
    if len(x) > CHUNK_ROWS and _treats_rows_alone(network):
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        chunked: Tensor = _ChunkedMSE.apply(  # type: ignore[no-untyped-call]
            network, x, y, weight, *parameters
        )
        return chunked
    prediction: Tensor = network(x)
    if not len(x):  # whose mean would be no number
        return prediction.sum()
    return mse_loss(prediction, y, weight=weight)  # type: ignore[call-arg]  # its stub is older


def _treats_rows_alone(network: nn.Module) -> bool:
    from torchmetrics import Metric  # slow to import, and predicting does without

    layers = (module for module in network.modules() if not any(module.children()))
    return all(type(module) in _ROW_BY_ROW or isinstance(module, Metric) for module in layers)


class _ChunkedMSE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        weight: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        gradients: tuple[Tensor, ...] = ()
        total = torch.zeros((), device=x.device)
        needs_gradient = any(ctx.needs_input_grad)
        count = len(x) if weight is None else weight.sum()
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            each = None if weight is None else weight[rows]
            with torch.set_grad_enabled(needs_gradient):
                error = mse_loss(  # type: ignore[call-arg]
                    network(x[rows]), y[rows], reduction="sum", weight=each
                )
                loss = error / count
            total += loss.detach()
            if needs_gradient:
                of_chunk = torch.autograd.grad(loss, parameters)
                for gradient, part in zip(gradients, of_chunk, strict=False):
                    gradient.add_(part)
                gradients = gradients or of_chunk
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"batch_mse takes more than {CHUNK_ROWS} rows in chunks, and the gradient of those "
                "cannot be differentiated again; use mse_loss, or smaller batches"
            )
        gradients, ctx.gradients = ctx.gradients, ()
        return None, None, None, None, *(gradient.mul_(grad_output) for gradient in gradients)
