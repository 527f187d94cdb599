"""Predict GPAs from raw exam scores: `python scripts/predict.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing

from gpa_lightning.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
