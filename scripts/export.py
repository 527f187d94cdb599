"""Export a checkpoint to ONNX or PyTorch's pt2: `python scripts/export.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing

from gpa_lightning.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
