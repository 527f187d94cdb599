"""The units of the target, where a network learns it standardised."""

from typing import Any

import torch
from torch import Tensor, nn


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

    mean: Tensor | None
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
