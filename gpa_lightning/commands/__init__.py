"""The command lines: what `scripts/` and the installed commands call."""
