import io
import random

import numpy as np
import torch

from gpa_lightning.resuming import random_states


def test_the_generators_go_on_from_a_saved_file():
    np.random.normal()  # noqa: NPY002  leaves NumPy's generator with a second value in hand
    random.gauss(0, 1)
    file = io.BytesIO()
    torch.save(random_states.collect(), file)

    def draw():
        numpy = np.random.normal()  # noqa: NPY002
        return numpy, random.gauss(0, 1), torch.randn(3).tolist()

    drawn = draw()
    file.seek(0)
    random_states.restore(torch.load(file, weights_only=True))
    assert draw() == drawn
