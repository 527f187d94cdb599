"""Progress in a notebook, where rich asks for ipywidgets: an output that IPython updates."""

from __future__ import annotations

import time
from typing import Any

from rich.progress import Progress


class NotebookProgress(Progress):
    """rich's Progress, which a notebook shows without ipywidgets; elsewhere it is rich's own.

    In a notebook, it is drawn when `refresh` is called, five times a second at most, and what
    stays is its last state, as text.
    """

    _output: Any = None
    _drawn = 0.0

    @property
    def is_due(self) -> bool:
        """Whether a notebook's output is old enough to be drawn anew."""
        return time.monotonic() - self._drawn >= 0.2

    def start(self) -> None:
        if not self.console.is_jupyter or self.disable:
            super().start()
            return
        from IPython.display import display  # there is no notebook without it

        self._output = display(self, display_id=True)

    def refresh(self) -> None:
        if self._output is None:
            super().refresh()
        elif self.is_due:
            self._drawn = time.monotonic()
            self._output.update(self)

    def stop(self) -> None:
        if self._output is None:
            super().stop()
        else:
            self._output.update(self)
