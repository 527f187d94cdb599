"""How the processor calculates while a network is fitted, and as it did before thereafter."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from gpa_lightning.speed.denormals import flush_denormals


class Arithmetic(Callback):
    """Flushes denormal numbers and sets the precision of matrix products for the time of a fit.

    The precision is the module's ``matmul_precision``. However the fit ends, both are put back.
    """

    def __init__(self) -> None:
        self._precision_before: str | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the processor."""
        flush_denormals(True)
        self._precision_before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(str(pl_module.matmul_precision))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the processor as it was found."""
        self._put_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the processor as it was found."""
        self._put_back()

    def _put_back(self) -> None:
        if self._precision_before is not None:
            flush_denormals(False)
            torch.set_float32_matmul_precision(self._precision_before)
            self._precision_before = None
