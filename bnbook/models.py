"""The papers' networks. The normalisation layer is passed in, the code is the same without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from bnbook import ensemble
from bnbook.errors import BnbookError


class SigmoidMLP(nn.Module):
    r"""The network of Ioffe & Szegedy's figure 1, for E seeds at once.

    Each hidden layer computes :math:`z = g(\mathrm{BN}(Wu))` with batch normalisation and
    :math:`z = g(Wu + b)` without, :math:`g` the logistic function. A linear layer with bias
    follows; it is not normalised (the paper: "in each hidden layer").

    Source: Ioffe & Szegedy 2015, section 4.1 and, for the place of BN and the missing b,
    section 3.2. The paper's weights are "small random Gaussian values" of unstated size.

    Parameters
    ----------
    norm : callable or None
        ``num_features -> Module``, such as `bnbook.norm.BatchNorm`; None for no normalisation.
    seeds : sequence of int
        One per member, for the initial weights. Equal seeds give equal initial weights, with and
        without `norm`.
    num_inputs : int
        Pixels of an image.
    hidden : sequence of int
        Widths of the hidden layers; the paper has 100, 100, 100.
    num_classes : int
        Outputs, K.
    init_std : float
        Standard deviation of the initial weights. The default is :math:`1/\sqrt{100}`, so that a
        hidden unit's input has a variance of about the mean square of the layer below.
    """

    def __init__(
        self,
        norm: Callable[[int], nn.Module] | None,
        seeds: Sequence[int] = (0,),
        *,
        num_inputs: int = 784,
        hidden: Sequence[int] = (100, 100, 100),
        num_classes: int = 10,
        init_std: float = 0.1,
    ) -> None:
        super().__init__()
        if not seeds or not hidden:
            raise BnbookError(f"seeds and hidden must not be empty, found {seeds} and {hidden}.")
        self.members, self.num_classes = len(seeds), num_classes
        layers: list[nn.Module] = []
        for fan_in, width in pairwise((num_inputs, *hidden)):
            layers.append(ensemble.Linear(self.members, fan_in, width, bias=norm is None))
            if norm is not None:
                layers.append(norm(self.members * width))
            layers.append(nn.Sigmoid())
        self.hidden = nn.Sequential(*layers)
        self.output = ensemble.Linear(self.members, hidden[-1], num_classes)
        ensemble.initialise(self, tuple(seeds), init_std)

    @property
    def sigmoids(self) -> list[nn.Module]:
        """The nonlinearities, first hidden layer first."""
        return [layer for layer in self.hidden if isinstance(layer, nn.Sigmoid)]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Parameters
        ----------
        x : Tensor, (N, C, H, W) or (N, num_inputs)
            Images, shared by the members.

        Returns
        -------
        Tensor, (N, E, K)
        """
        scores: Tensor = self.output(self.hidden(x.flatten(1)))
        return scores.view(len(x), self.members, self.num_classes)
