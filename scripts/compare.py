"""Train several settings on the same seeds and compare: `python scripts/compare.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing

from gpa_lightning.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
