"""Train the network, test it, and print a summary: `python scripts/train.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing

from gpa_lightning.commands.train import train

if __name__ == "__main__":
    sys.exit(train())
