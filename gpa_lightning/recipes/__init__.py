"""Named sets of flags, as YAML files: `--config lecture-mini-batch`."""
