"""The callback that makes training fast, swapped or left out like any of Lightning's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from gpa_lightning.speed import fused_adam, training_loop
from gpa_lightning.speed.denormals import flush_denormals, flushes_denormals
from gpa_lightning.speed.stack import FastForward, is_stack
from gpa_lightning.speed.waiting import WaitingThreads


class FastTraining(Callback):
    """Trains a small network on a CPU in a fraction of the time, whatever it is taught.

    Lightning spends about as much time around each batch as a small network takes to learn from it.
    This callback goes on, after a batch of Lightning's, with the ones that follow (Keras calls it
    ``steps_per_execution``), and keeps Lightning's counters, so that ``global_step``, schedules,
    validation and limits come out as if each had had a turn of the loop. Every batch goes
    through the module's own ``training_step``, autograd and the optimiser. For the time of a fit:

    - a stack of ``Linear``, ``ReLU`` and ``Dropout`` in an `nn.Sequential` is computed as one
      operation (`stack.py`), its larger matrix products by oneDNN (`onednn.py`);
    - the kernel of a fused Adam or AdamW is called directly (`fused_adam.py`);
    - denormal numbers are flushed to zero (`denormals.py`);
    - threads that wait for each other sleep while another program needs the cores (`waiting.py`).

    The weights are those of a plain fit, to the last bit where no layer is large enough for oneDNN
    (half a million multiplications a batch), to float32's rounding where one is. Whatever has to
    see single batches (a hook of the module, the data or another callback, a value that is logged
    at each step, gradient accumulation, manual optimisation, a profiler) gets plain Lightning.

    Works with any `LightningModule`. However the fit ends, module and processor are left as they
    were found. It belongs before the progress bar in the list of callbacks.

    Args:
        steps_per_execution: Optimiser steps at most in one turn of Lightning's loop. 1 leaves the
            loop alone.
        matmul_precision: Precision of float32 matrix products for the time of a fit, as
            `torch.set_float32_matmul_precision` has it: ``highest`` is the lecture's arithmetic,
            ``high`` lets an NVIDIA GPU use TF32, which is faster and rounds to ten bits.
        compile_mode: Has `torch.compile` translate the module's parts that have weights, for the
            time of a fit and in this mode: ``reduce-overhead`` makes CUDA graphs of them on an
            NVIDIA GPU. Results round differently, and dropout draws other numbers. None translates
            nothing.

    Raises:
        ValueError: If ``steps_per_execution`` is not positive.

    Example:
        >>> trainer = Trainer(callbacks=[FastTraining()], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        steps_per_execution: int = 256,
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
        compile_mode: Literal["default", "reduce-overhead", "max-autotune"] | None = None,
    ) -> None:
        if steps_per_execution < 1:
            raise ValueError(f"steps_per_execution must be at least 1, got {steps_per_execution}")
        self.steps_per_execution = steps_per_execution
        self.matmul_precision = matmul_precision
        self.compile_mode = compile_mode
        self._precision_before: str | None = None
        self._flushed_before = False
        # modules whose forward pass is another for the time of a fit, and one of the user's own
        self._replaced: list[tuple[nn.Module, Callable[..., Any] | None]] = []
        self._direct_step: training_loop.DirectStep | None = None
        self._waiting: WaitingThreads | None = None
        self._epoch = -1
        self._further_steps = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch = -1
        if self.compile_mode:
            for module in pl_module.children():
                if list(module.parameters()):
                    forward = torch.compile(module.forward, mode=self.compile_mode)
                    self._replace_forward(module, forward)
        else:
            for module in filter(is_stack, pl_module.modules()):
                assert isinstance(module, nn.Sequential)
                self._replace_forward(module, FastForward(module))
        self._flushed_before = flushes_denormals()
        flush_denormals(True)
        self._precision_before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.matmul_precision)
        self._waiting = WaitingThreads()

    def _replace_forward(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._replaced.append((module, vars(module).get("forward")))
        module.forward = forward

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module and the processor as they were found."""
        for module, own in self._replaced:
            del module.forward
            if own:
                module.forward = own
        self._replaced = []
        self._direct_step = None
        if self._precision_before is not None:
            flush_denormals(self._flushed_before)
            torch.set_float32_matmul_precision(self._precision_before)
            self._precision_before = None
        if self._waiting:
            self._waiting.close()
            self._waiting = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.on_fit_end(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the steps that follow Lightning's own."""
        waiting = self._waiting
        assert waiting
        waiting.look()
        if trainer.current_epoch != self._epoch:  # at whose start callbacks may change settings
            self._epoch = trainer.current_epoch
            alone = training_loop.acts_between_batches(trainer, self)
            self._further_steps = 0 if alone else self.steps_per_execution - 1
        if not self._further_steps or training_loop.logs_batches(trainer):
            return
        optimizer = trainer.optimizers[0]
        direct_step = None
        if training_loop.steps_plainly(trainer):
            take: Callable[[], object] = optimizer.step
            if fused_adam.supports(optimizer):
                take = fused_adam.FusedAdam(optimizer).step
            direct_step = training_loop.DirectStep(trainer, take, self, self._direct_step)
            self._direct_step = direct_step
        logged = training_loop.count_logged(trainer)
        for following, index in training_loop.further_batches(trainer, self._further_steps):
            if direct_step:
                direct_step(following, index)
            else:
                training_loop.lightning_step(trainer, following, index)
            waiting.look()
            if training_loop.count_logged(trainer) != logged:
                return  # Lightning is to end the batch that has logged something
