"""The process that does one task: `python -m gpa_lightning.benchmark.process TASK`, as JSON."""

import json
import os
import sys
from dataclasses import asdict

import torch

from gpa_lightning.benchmark.contest import EVERYONE
from gpa_lightning.benchmark.task import Meter, Task

if __name__ == "__main__":
    task = Task(**json.loads(sys.argv[1]))
    torch.set_num_threads(task.threads)
    measurement = EVERYONE[task.contender].run(task, Meter())
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the first of several processes, or the only one
        sys.stdout.write("\n" + json.dumps(asdict(measurement)))  # below whatever libraries printed
