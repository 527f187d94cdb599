"""An optimiser step on an NVIDIA GPU, recorded once as a CUDA graph and replayed.

A GPU is done with a small network's operation before Python has named it the next. A CUDA graph
names them all at once. It knows addresses, not tensors: it reads every batch from the same place
and writes every gradient to the same place, and holds for as long as weights and Adam's state stay
where they are. Anything else (a short last batch, another device) is taken step by step.

See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

if TYPE_CHECKING:
    from gpa_lightning.speed.direct_step import DirectStep

_DIFFERENCE = 1e-3  # between a replayed step and an ordinary one, relative to the largest number


class StepGraph:
    """The recording of a `DirectStep`, and what it stands on.

    A copy of it is empty, since a recording cannot be copied with the module that has it.
    """

    def __init__(self) -> None:
        self._graph: torch.cuda.CUDAGraph | None = None
        self._addresses: object = None
        self._stands_on: object = None
        self._rows = 0
        self._replayed = self._gave_up = False
        self._step: DirectStep | None = None

    def __reduce__(self) -> tuple[type[StepGraph], tuple[()]]:
        return StepGraph, ()

    def replay(self, step: DirectStep, x: Tensor, y: Tensor) -> Tensor | None:
        """Take a step as it was recorded; record it first, if this is the first of its kind.

        Args:
            step: What to do.
            x: Features, shape ``(batch, in_features)``, on the GPU.
            y: Target, shape ``(batch, 1)``.

        Returns:
            The MSE of the batch, or None if there is no recording of such a step.
        """
        if self._gave_up:
            return None
        # addresses do not change while one `DirectStep` is used, which saves looking at them
        addresses = self._addresses if step is self._step else _addresses(step)
        stands_on = addresses, [_settings(group.group) for group in step.adam]
        if stands_on != self._stands_on or x.shape[0] > self._rows:
            if stands_on != self._stands_on and self._graph is not None and not self._replayed:
                self._gave_up = True  # what changes at every step (Adam's betas) is in no recording
                return None
            self._step, self._addresses, self._stands_on = step, addresses, stands_on
            self._record(step, x, y)
            return self._mse.clone()
        self._step = step
        if self._graph is None or x.shape[0] != self._rows:
            return None
        self._x.copy_(x)
        self._y.copy_(y)
        for rate, group in zip(self._rates, step.adam, strict=True):
            rate.fill_(group.group["lr"])
        self._graph.replay()
        self._replayed = True
        for parameter, gradient in zip(step.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._mse.clone()

    def _record(self, step: DirectStep, x: Tensor, y: Tensor) -> None:
        """Take a step, and keep its recording if a replay comes to the same."""
        self._graph, self._replayed, self._rows = None, False, x.shape[0]
        self._x, self._y = x.clone(), y.clone()
        self._rates = [torch.tensor(group.group["lr"], device=x.device) for group in step.adam]
        random_state = torch.cuda.get_rng_state(x.device)
        before = [tensor.clone() for tensor in _state(step)]
        self._mse = step.take(self._x, self._y)  # libraries set themselves up outside a recording
        expected = [tensor.clone() for tensor in (self._mse, *_state(step))]

        _restore(step, before)
        torch.cuda.set_rng_state(random_state, x.device)
        graph = torch.cuda.CUDAGraph()
        try:
            for rate, group in zip(self._rates, step.adam, strict=True):
                group.rate = rate
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                mse = step.take(self._x, self._y)
            graph.replay()
            for ours, theirs in zip((mse, *_state(step)), expected, strict=True):
                if (ours - theirs).abs().max() > _DIFFERENCE * theirs.abs().max():
                    raise RuntimeError("its first replay differs from the step itself")
        except RuntimeError as error:
            _restore(step, expected[1:])
            rank_zero_warn(f"training goes on without a CUDA graph, which is slower: {error}")
            return
        finally:
            for group in step.adam:
                group.rate = None
        self._graph, self._mse = graph, mse
        self._recorded = step  # its constants are among what the recording reads
        self._gradients = [parameter.grad for parameter in step.parameters]


def _state(step: DirectStep) -> list[Tensor]:
    """Return all tensors that a step changes."""
    adam = [t for group in step.adam for t in (*group.steps, *group.means, *group.squares)]
    return [parameter.detach() for parameter in step.parameters] + adam


def _restore(step: DirectStep, tensors: list[Tensor]) -> None:
    for tensor, before in zip(_state(step), tensors, strict=True):
        tensor.copy_(before)


def _addresses(step: DirectStep) -> Any:
    where = [(tensor.data_ptr(), tensor.shape) for tensor in _state(step)]
    return where, step.dropout, torch.get_float32_matmul_precision()


def _settings(group: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("betas", "eps", "weight_decay", "maximize", "decoupled_weight_decay")
    return tuple(group[name] for name in names)
