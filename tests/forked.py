"""Runs scripts/train.py and scripts/predict.py in a new process each, without starting Python anew.

Reads one JSON list a line: the program's name, its arguments. Forks, and answers with a JSON list:
exit code, standard error, largest resident memory in bytes. A process forked from one that has
only imported the project is as new as any.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from gpa_lightning.commands import predict, train
from gpa_lightning.data import sources  # noqa: F401 - what takes long to import

PROGRAMS = {"train": train.train, "predict": predict.main}

if __name__ == "__main__":
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        with tempfile.TemporaryFile("w+") as errors:
            child = os.fork()
            if not child:
                os.dup2(errors.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                code = 1
                try:
                    code = PROGRAMS[name](arguments)
                except SystemExit as stop:
                    code = int(stop.code or 0)
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            _, status, usage = os.wait4(child, 0)
            errors.seek(0)
            answer = os.waitstatus_to_exitcode(status), errors.read(), 1024 * usage.ru_maxrss
        print(json.dumps(answer), flush=True)
