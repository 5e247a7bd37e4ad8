r"""The path norm: how much all paths from the inputs to the logits carry together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from acutance.measure import Cost, Measure, Need, Traits
from acutance.spec import Spec, labelled
from acutance_classic.weights.matrix_spec import log_margin

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class PathNormSpec(Spec):
    """Settings of the path norm."""

    margin: Annotated[bool, labelled(adds=" over margin")] = False
    """Divide by the squared margin, the 10th percentile over all points of f_y - max f_k."""


class PathNorm(Measure[PathNormSpec]):
    r"""Path norm, squared.

    .. math:: \sum_k f_{w^2}(\mathbf 1)_k \quad [\, / \gamma^2 \,] \;=\;
       \sum_{\text{paths from an input or a bias to a logit}} \;\prod_{\text{weights on it}} w_e^2

    the sum of the logits that the network gives to ones when all weights and biases are squared, without a root
    (Neyshabur et al. 2015, as Jiang et al. 2020 and Dziugaite et al. 2020 measured it). Batch normalization, in
    evaluation mode, is first folded into the linear layer before it, so the value does not change where weights are
    rescaled and the function is not. Edges without weights (residual sums, pooling) count as they are; max pooling
    takes the largest.

    It is defined for networks of linear layers and convolutions with ReLU or leaky ReLU, pooling, sums and
    concatenations. Anything else is refused by name, in one sentence: layer normalization, attention, products of
    activations, activations such as tanh or GELU, parameters outside of such layers, batch normalization that follows
    none. The network is traced, not run: how its parts hang together is checked against the logits of the first points,
    which is what the pass is for; no targets are looked at unless the margin is asked for. The value is about the whole
    network, whatever parameters are free.
    """

    name = "path_norm"
    traits = Traits(
        level="dataset", larger_means="more capacity", needs={"weights", "unlabeled"},
        invariant_to={"rescaling", "permutation"}, symbol="path", label="path norm",
        reference="Neyshabur et al. 2015; Jiang et al. 2020, path-norm",
        bibtex=("neyshabur2015path", "jiang2020fantastic", "dziugaite2020search"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: PathNormSpec, rng: Streams) -> float:
        """Return the sum of the logits of ones at squared weights."""
        import torch

        from acutance_classic.weights.homogeneous import first_points
        from acutance_classic.weights.traced import Network

        network, x = Network(surface.model), first_points(surface)
        total = float(network(torch.ones_like(x[:1]), squared=True).sum())
        network.compare(x, surface.clean_logits()[: len(x)])
        return total * math.exp(-log_margin(surface, spec.margin))

    def needs(self, spec: PathNormSpec) -> frozenset[Need]:
        """Return what is read: points for their shape and their logits, and targets for the margin alone."""
        return frozenset({"weights", "data" if spec.margin else "unlabeled"})

    def passes(self, spec: PathNormSpec) -> Cost:
        """Return the pass that gives the logits."""
        return Cost(forwards=1)

    def shares(self, spec: PathNormSpec) -> Literal["", "logits", "gradient"]:
        """Return the logits, which any measure may have made."""
        return "logits"

    def vectors(self, spec: PathNormSpec) -> int:
        """Return the folded weights in double precision, and one layer's squares."""
        return 3
