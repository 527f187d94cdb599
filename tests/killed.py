"""Runs a program of the project and kills it, by SIGKILL, when it is about to touch a file.

    python tests/killed.py MOMENT scripts/train.py ...

A moment is an operation that changes something below lightning_logs, counted from 1: Python tells
of each before it happens. Moment 0 kills nothing, and writes the number of moments to a file.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

OPERATIONS = ("os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

moments: list[str] = []


def count(event: str, args: tuple[object, ...]) -> None:
    writes = event == "open" and isinstance(args[2], int) and args[2] & WRITING
    if (writes or event in OPERATIONS) and "lightning_logs" in str(args[0]):
        moments.append(f"{event} {args[0]}")
        if len(moments) == int(fatal):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    fatal, program, *arguments = sys.argv[1:]
    sys.addaudithook(count)
    sys.argv = [program, *arguments]
    try:
        runpy.run_path(program, run_name="__main__")
    finally:
        Path("moments.txt").write_text("\n".join(moments))
