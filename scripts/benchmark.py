"""Compare this project's speed and memory with its peers': `python scripts/benchmark.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing

from gpa_lightning.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
