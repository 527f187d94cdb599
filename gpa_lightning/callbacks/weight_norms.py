"""The norms of the weights, which a penalty pushes on."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from gpa_lightning.losses import Norm, weight_norm


class WeightNorms(Callback):
    r"""Logs the norms of each layer's weights after every epoch: what a penalty pushes on.

    The lecture's "Avoiding Over-Fitting", strategy 2: :math:`\|w\|_1 = \sum_j |w_j|` and
    :math:`\|w\|_2 = \sqrt{\sum_j w_j^2}`, biases included. Logged as ``l1_norm/<layer>`` and
    ``l2_norm/<layer>``, and for all layers together, which is what ``--model.penalty`` weighs, as
    ``l1_norm/all`` and ``l2_norm/all``.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        layers = {"all": list(pl_module.parameters())}
        for name, module in pl_module.named_modules():
            if own := list(module.parameters(recurse=False)):
                layers[name] = own
        norms: tuple[Norm, ...] = ("l1", "l2")
        with torch.no_grad():
            pl_module.log_dict(
                {
                    f"{norm}_norm/{layer}": weight_norm(weights, norm)
                    for norm in norms
                    for layer, weights in layers.items()
                }
            )
