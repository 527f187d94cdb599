"""What computes, for reports of what was measured."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not on Linux
        lines = []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def graphics_processor() -> str:
    """Return the name of the GPU, which there has to be."""
    return torch.cuda.get_device_name()
