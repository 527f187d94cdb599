"""Denormal floating-point numbers, flushed to zero in every thread that computes.

As units of an overfitting network die, Adam's first moments of their weights decay as 0.9^k into
denormal numbers, below 1.2e-38, which CPUs handle many times slower than others. Flushing them to
zero keeps an epoch as fast at the end of training as at its start. The setting belongs to a
thread, and `torch.set_flush_denormal` reaches only the calling one: the worker threads of OpenMP,
which run half of the work or more, keep what they were created with.
"""

from __future__ import annotations

import torch

from gpa_lightning.speed.openmp import run_in_team


def flushes_denormals() -> bool:
    """Tell whether this thread flushes denormal numbers to zero, which PyTorch has no name for."""
    return not bool(torch.full((1,), 1e-40).mul(0.5))


def flush_denormals(enabled: bool) -> bool:
    """Flush denormal numbers to zero, or stop doing so, in this thread and its OpenMP workers.

    Where PyTorch does not use GNU's OpenMP (macOS, Windows), only the calling thread is reached,
    and those workers that it creates afterwards.

    Args:
        enabled: Whether to flush.

    Returns:
        Whether the processor supports it.
    """
    supported = bool(torch.set_flush_denormal(enabled))
    run_in_team(lambda: torch.set_flush_denormal(enabled), torch.get_num_threads())
    return supported
