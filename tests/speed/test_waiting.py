"""How PyTorch's threads wait for each other, which has to be set before PyTorch is loaded."""

import os

import pytest
from runs import PROJECT, run

SHOWS = "import os, gpa_lightning; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "set_to"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_spin_shortly_unless_the_user_has_said_otherwise(given, set_to):
    named = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    others = {name: value for name, value in os.environ.items() if name not in named}
    result = run("-c", SHOWS, cwd=PROJECT, env={**others, **given})
    assert result.stdout.split() == [set_to], result.stderr
