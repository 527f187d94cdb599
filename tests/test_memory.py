"""Memory, files and threads of a process that trains for long, or often."""

import json
import sys
from pathlib import Path

import pytest
from processes import PROJECT, run
from runs import long

WATCH = """
import json
from pathlib import Path

import psutil
from lightning.pytorch import Callback


def state():
    process = psutil.Process()
    return process.memory_info().rss, process.num_fds(), process.num_threads()


class Watch(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        if (trainer.current_epoch + 1) % 100 == 0:
            with Path("states.jsonl").open("a") as file:
                print(json.dumps(state()), file=file)
"""
PROGRAM = """
import gc
import json
import sys

from watch import state

from gpa_lightning.commands.train import train

fits, epochs, *flags = sys.argv[1:]
after = []
for _ in range(int(fits)):
    assert train([*flags, "--max_epochs", "2"]) == 0
    gc.collect()  # a Trainer refers to itself in circles
    after.append(state())
assert train([*flags, "--max_epochs", epochs, "--trainer.callbacks+=watch.Watch"]) == 0
print("after each fit:", json.dumps(after))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="counts file descriptors")
def test_nothing_piles_up(table, workplace, monkeypatch):
    fits, epochs = max(4, long(50)), max(300, long(20) * 100)
    (workplace / "watch.py").write_text(WATCH)
    monkeypatch.setenv("PYTHONPATH", f"{workplace}:{PROJECT}")
    flags = ("--data.path", table, "--accelerator", "cpu", "--model.hidden_sizes", "[16,8]")
    flags += ("--early_stopping", "null", "--progress_bar", "null", "--data.batch_size", "100")
    result = run("-c", PROGRAM, fits, epochs, *flags)
    assert result.returncode == 0, result.stderr
    each = json.loads(result.stdout.splitlines()[-1].removeprefix("after each fit: "))
    memory, files, threads = zip(*each, strict=True)
    assert files[-1] == files[1]
    assert threads[-1] == threads[1]
    assert memory[-1] <= 1.05 * memory[1]
    print(f"{fits} fits: {files[1]} files, {threads[1]} threads; {memory[1]:,} to {memory[-1]:,} B")
    states = [json.loads(line) for line in Path("states.jsonl").read_text().splitlines()]
    assert len(states) == epochs // 100
    memory, files, threads = zip(*states, strict=True)
    assert max(memory) <= 1.05 * memory[0]
    assert set(files) == {files[0]}
    assert set(threads) == {threads[0]}
    print(f"{epochs} epochs: {memory[0]:,} B after 100, {max(memory):,} B at most")
