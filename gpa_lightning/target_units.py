"""The units of the target, where a network learns it standardised."""

from typing import Any

import torch
from torch import Tensor, nn


class TargetUnits(nn.Module):
    """Brings outputs into the target's units: ``mean + scale * output``, or nothing until settled.

    What `GPADataModule` does for any other table than the course's: docs/tables.md says why.

    Attributes:
        mean: Mean of the target's training values, shape ``(1,)``; None for 0.
        scale: Their deviation, shape ``(1,)``; None for 1.

    Example:
        >>> units = TargetUnits()
        >>> units.settle((100.0, 10.0))
        >>> units(torch.tensor([[0.5]]))
        tensor([[105.]])
    """

    mean: Tensor | None
    scale: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)
        self.register_buffer("scale", None)
        self._is_settled = False

    def forward(self, output: Tensor) -> Tensor:
        """Bring outputs, shape ``(batch, 1)``, into the target's units."""
        mean, scale = self.mean, self.scale
        if mean is None or scale is None:
            return output
        return mean + scale * output

    def settle(self, units: tuple[float, float] | None, like: Tensor | None = None) -> None:
        """Take units from now on, unless units have been settled before.

        Args:
            units: Mean and deviation of the target's training values; None for none.
            like: A tensor of the type and the device that they are to have.
        """
        if units is not None and not self._is_settled:
            like = torch.empty(0) if like is None else like
            self.mean, self.scale = (like.new_tensor([each]) for each in units)
        self._is_settled = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take the units of a checkpoint, which may have none; PyTorch's hook for that."""
        for name in ("mean", "scale"):
            saved = state_dict.get(prefix + name)
            setattr(self, name, None if saved is None else torch.empty_like(saved))
        self._is_settled = True
        super()._load_from_state_dict(state_dict, prefix, *args)
