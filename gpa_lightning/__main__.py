"""`python -m gpa_lightning`: the same as the `gpa-lightning` command."""

import sys

from gpa_lightning.commands.program import main

if __name__ == "__main__":
    sys.exit(main())
