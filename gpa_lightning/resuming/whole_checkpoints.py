"""Checkpoint files that are whole at every moment.

Lightning builds a checkpoint in the system's folder for temporary files: where that is on another
disk, it is copied into its place, and a process that is killed meanwhile leaves half of it.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from gpa_lightning.resuming.whole_file import whole_file


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints that are whole at every moment, on local disks.

    One that is replaced by a better one stays until the next has been written, so that the best
    one that ``last.ckpt`` speaks of is always there.
    """

    def __init__(self) -> None:
        self._superseded: list[str | Path] = []
        self._folders: set[Path] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint to a temporary name on the same disk, and rename it.

        Raises:
            OutputError: If it cannot be written; one that was there is left as it was.
        """
        if "://" in str(path):  # not a disk
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            content = BytesIO()
            torch.save(checkpoint, content)
            folder = Path(path).parent
            if folder not in self._folders:  # one that was made and has gone is missed, not remade
                folder.mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
            with whole_file(path, overwrite=True) as temporary:
                temporary.write_bytes(content.getbuffer())
        self.teardown()

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint once the next one is written."""
        self._superseded.append(path)

    def teardown(self) -> None:
        while self._superseded:
            super().remove_checkpoint(self._superseded.pop())
