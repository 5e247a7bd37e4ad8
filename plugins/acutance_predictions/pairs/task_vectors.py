r"""How alike the ways are that two models went from the weights that both started from.

A task vector (Ilharco et al. 2023) is :math:`\tau = w - w_0`: what training, or fine-tuning, has added. Models are
compared that started from the same weights, bitwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from acutance.measure import Estimate, PoolMeasure, Traits
from acutance.spec import Size, Spec, labelled

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.peers import Peer


class TaskVectorSpec(Spec):
    """Which part of the weights."""

    parameters: Annotated[str, labelled(adds=" [{parameters}]")] = "all"
    """Which parameters it is about: "all", or comma-separated patterns of names; a leading "!" takes some out, as a
    head that each model began anew."""


class TaskVectorCosine(PoolMeasure[TaskVectorSpec]):
    r"""The cosine of the task vectors of two models, on average over the other models.

    .. math:: \frac{\langle \tau_i, \tau_j \rangle}{\|\tau_i\| \|\tau_j\|}, \quad \tau = w - w_0

    (Ilharco et al. 2023), over the free parameters. Between -1 and 1. Pairs that started from other weights, and
    those of a model that is where it started, are left out.
    """

    name = "task_vector_cosine"
    traits = Traits(
        level="pool", larger_means="alike", needs={"peers", "weights", "initial_weights"}, symbol="cos τ",
        label="task vector cosine", reference="Ilharco et al. 2023", bibtex=("ilharco2023editing",),
    )  # fmt: skip

    def evaluate_pool(self, peers: Sequence[Peer], spec: TaskVectorSpec, rng: Streams) -> list[Estimate]:
        """Return the mean over the partners of each model.

        Raises:
            Unsupported: where no model's initial weights are known.
        """
        from acutance_predictions.pairs.task_vector_numerics import cosines

        return cosines(peers, spec.parameters)

    def vectors(self, spec: TaskVectorSpec) -> int:
        """The initial weights and two task vectors."""
        return 3


class SubspaceSpec(TaskVectorSpec):
    """Which part of the weights, and of its directions."""

    k: Annotated[Size, labelled(adds=", k = {k}")] = 10
    """Dimension of the subspaces."""


class SubspaceOverlap(PoolMeasure[SubspaceSpec]):
    r"""The overlap of the leading output directions of two task vectors, on average over layers and over other models.

    .. math:: \frac{1}{L} \sum_{l=1}^L \frac{1}{k} \big\|U_{il}^\top U_{jl}\big\|_F^2

    with :math:`U_{il}` (m, k) the left singular vectors of the k largest singular values of what model i has added to
    the weight matrix l. It is the overlap of subspaces of Gur-Ari et al. (2018), there of gradients and Hessians, for
    the layers of task vectors as Zhou et al. (2026) compare them, whose released code divides the norm by k, not its
    square. Between 0 and 1; two random subspaces of m dimensions have k/m.

    The matrices are the parameters called ``weight...`` with two axes or more, laid out as (out, in): convolutions as
    (out, -1), transposed convolutions, transformers' ``Conv1D`` and embeddings with their axes exchanged; groups and
    heads are not taken apart. Those with no more than k rows, or fewer than k columns, say nothing and are left out. So
    is a matrix of a pair where the k-th singular value of one is no farther from the next (zero, where there is none)
    than the rounding of the weights, :math:`\epsilon \sqrt{\|W\|_F^2 + \|W_0\|_F^2}`: its subspace is not determined.
    """

    name = "subspace_overlap"
    tried_on = "acutance_predictions.pairs.tried_on:SURFACES"
    traits = Traits(
        level="pool", larger_means="alike", needs={"peers", "weights", "initial_weights"}, symbol="Sub",
        label="subspace overlap", reference="Gur-Ari et al. 2018; Zhou et al. 2026",
        bibtex=("gurari2018gradient", "zhou2026demystifying"),
    )  # fmt: skip

    def evaluate_pool(self, peers: Sequence[Peer], spec: SubspaceSpec, rng: Streams) -> list[Estimate]:
        """Return the mean over the partners of each model, with the number of its matrices that are determined.

        Raises:
            Unsupported: where no model's initial weights are known.
        """
        from acutance_predictions.pairs.subspaces import overlaps

        return overlaps(peers, spec.parameters, spec.k)

    def vectors(self, spec: SubspaceSpec) -> int:
        """The initial weights and a task vector."""
        return 2
