"""The network of the lecture: fully connected layers with ReLU between them, and no more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class FullyConnectedNetwork(nn.Module):
    """A regressor of fully connected layers: ReLU after each hidden layer, none after the output.

    The defaults are the lecture's network ("Defining a Neural Network Architecture"): nine exam
    scores, hidden layers of 1024, 512 and 128 units, one output; 600,833 parameters. It is bigger
    than the problem needs, on purpose: that is what makes it overfit.

    Args:
        in_features: Number of input features.
        hidden_sizes: Units of each hidden layer. ``()`` leaves linear regression.
        dropout: Probability with which each hidden unit is zeroed in training (Srivastava et
            al., 2014), after every ReLU. 0 leaves dropout out.

    Raises:
        ValueError: If a size is not positive or ``dropout`` is outside [0, 1).

    Shape:
        - Input: ``(batch, in_features)``, standardised.
        - Output: ``(batch, 1)``.

    Example:
        >>> network = FullyConnectedNetwork()
        >>> sum(parameter.numel() for parameter in network.parameters())
        600833
        >>> FullyConnectedNetwork(in_features=2, hidden_sizes=())
        FullyConnectedNetwork(
          (layers): Sequential(
            (fc1): Linear(in_features=2, out_features=1, bias=True)
          )
        )
    """

    def __init__(
        self,
        in_features: int = 9,
        hidden_sizes: Sequence[int] = (1024, 512, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [in_features, *hidden_sizes, 1]
        if min(sizes) < 1:
            raise ValueError(f"every layer needs at least one unit, got sizes {sizes}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for depth, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            layers[f"fc{depth}"] = nn.Linear(inputs, outputs)
            if depth <= len(hidden_sizes):
                layers[f"relu{depth}"] = nn.ReLU()
                if dropout > 0:
                    layers[f"dropout{depth}"] = nn.Dropout(dropout)
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Predict one value a row.

        Args:
            x: Standardised features, shape ``(batch, in_features)``.

        Returns:
            Predictions, shape ``(batch, 1)``.
        """
        prediction: Tensor = self.layers(x)
        return prediction
