"""What the processor could do: the matrix products of an epoch, each by the faster library."""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import itemgetter
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gpa_lightning.benchmark.task import Measurement, Meter, Task
from gpa_lightning.losses import CHUNK_ROWS
from gpa_lightning.network import FullyConnectedNetwork
from gpa_lightning.speed import onednn

LIBRARIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"PyTorch's default": linear}
if onednn.AVAILABLE:
    LIBRARIES["oneDNN"] = onednn.product
REPETITIONS = 21


class Product(NamedTuple):
    """The factors of ``x @ weight.T``."""

    x: Tensor
    weight: Tensor

    @property
    def operations(self) -> int:
        """Number of multiplications and additions."""
        return 2 * self.x.shape[0] * self.x.shape[1] * self.weight.shape[0]


def products(rows: int, in_features: int) -> list[Product]:
    """Return the matrix products of a step of training.

    Args:
        rows: Rows a batch.
        in_features: Number of features.

    Returns:
        For each layer: its output, its weight's gradient and, but for the first, its input's.
    """
    found = []
    network = FullyConnectedNetwork(in_features)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        weight = layer.weight.detach()
        x, gradient = torch.randn(rows, layer.in_features), torch.randn(rows, layer.out_features)
        found += [Product(x, weight), Product(gradient.T, x.T)]
        if layer is not layers[0]:
            found.append(Product(gradient, weight.T))
    return found


@torch.no_grad()
def matrix_products(task: Task, meter: Meter) -> Measurement:
    """Multiply as often as a training does, and do nothing else."""
    meter.imported()
    x, *_ = task.split()
    batch = task.batch_size(len(x))
    rows = min(batch, CHUNK_ROWS)
    step = products(rows, x.shape[1])
    seconds = {
        name: [_median_seconds(library, product) for product in step]
        for name, library in LIBRARIES.items()
    }
    operations = sum(product.operations for product in step)
    faster = [
        min(zip(each, LIBRARIES.values(), strict=True), key=itemgetter(0))[1]
        for each in zip(*seconds.values(), strict=True)
    ]
    meter.start()
    for _ in range(task.epochs):
        for _ in range(round(len(x) / rows)):
            for product, library in zip(step, faster, strict=True):
                library(*product)
        meter.epoch_ended()
    rates = {name: operations / sum(each) / 1e9 for name, each in seconds.items()}
    return meter.result(float("nan"), rates=rates)


def _median_seconds(library: Callable[[Tensor, Tensor], Tensor], product: Product) -> float:
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        library(*product)
        times.append(time.perf_counter() - start)
    return median(times)
