import os
import sys

import pytest
import torch
from processes import PROJECT, run

from gpa_lightning.speed.denormals import flush_denormals, flushes_denormals
from gpa_lightning.speed.openmp import run_in_team

COUNT = """
import torch
from gpa_lightning.speed.denormals import flush_denormals
torch.set_num_threads(4)
tiny = torch.full((1 << 20,), 1e-40)  # the pool of worker threads exists from here on

for enabled in (True, False):
    flush_denormals(enabled)
    halved = tiny * 0.5
    flush_denormals(False)  # reading them would flush them too
    print(int((halved != 0).sum()))
"""


@pytest.mark.slow
def test_every_thread_flushes_and_none_afterwards():
    if not flush_denormals(False):  # unsupported: nothing to see
        return
    result = run("-c", COUNT, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    flushing, afterwards = map(int, result.stdout.split())
    if sys.platform == "linux":
        assert flushing == 0
    assert afterwards == 1 << 20


def test_results_change_by_less_than_rounding():
    torch.manual_seed(0)
    values = torch.randn(10_000) * torch.logspace(-38, 0, 10_000)
    flush_denormals(True)
    flushed = values * 0.9
    flush_denormals(False)
    torch.testing.assert_close(flushed, values * 0.9, rtol=0, atol=1.2e-38)


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])  # the last of Windows
def test_where_there_is_no_gnu_openmp_the_calling_thread_is_reached(error, monkeypatch):
    def no_library(name):
        raise error

    monkeypatch.setattr("ctypes.CDLL", no_library)
    called = []
    assert not run_in_team(lambda: called.append(1), 2)
    assert called == []
    supported = flush_denormals(True)
    assert flushes_denormals() == supported
    flush_denormals(False)
    assert not flushes_denormals()
