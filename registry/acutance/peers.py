"""What a measure of level ``pool`` sees of a model that it compares with others: its outputs, its weights, its name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acutance.errors import Unsupported, UserError
from acutance.measure import Estimate, Status

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.surface.loss_surface import LossSurface

BLIND = (
    "this measure opens no points, since its needs name nothing that reads any: name data (or unlabeled, for points "
    "without targets) in them to read outputs"
)


@dataclass(frozen=True, eq=False)
class Peer:
    """One of the models that are compared.

    Attributes:
        name: of the model in the study, as tables have it.
        outputs: its logits on the points, (n, K), on the CPU; None where no points are opened.
        targets: of the points, (n, ...), on the CPU; None where the measure needs ``unlabeled``, or no points.
        opened: opens the model.
        represented: gives what goes into its last layer.
        run: names the training run that it is a checkpoint of, in the study; empty where that is not known, or the
            measure does not need ``trajectory``.
        step: of training that it was saved at; None likewise.
    """

    name: str
    outputs: Tensor | None
    targets: Tensor | None
    opened: Callable[[], LossSurface]
    represented: Callable[[], Tensor]
    run: str = ""
    step: int | None = None

    @property
    def logits(self) -> Tensor:
        """The model's own logits on the points, (n, K), on the CPU.

        Raises:
            Unsupported: when the measure's needs name nothing that reads points.
        """
        if self.outputs is None:
            raise Unsupported(BLIND)
        return self.outputs

    def features(self) -> Tensor:
        """Return what goes into the last linear layer, (n, d), on the CPU; n forwards where nobody has kept it.

        Raises:
            Unsupported: when the logits are not the output of a linear layer, or no points are opened.
        """
        if self.outputs is None:
            raise Unsupported(BLIND)
        return self.represented()

    def surface(self) -> LossSurface:
        """Return the model on the points, opened anew: for its weights, and for passes at others, which are booked.

        It stays open as long as somebody holds it; without targets where the measure needs ``unlabeled``.
        """
        return self.opened()

    @classmethod
    def of(cls, name: str, surface: LossSurface, run: str = "", step: int | None = None) -> Peer:
        """Return a model that is open already, to try a measure outside of a study."""
        core = surface.core
        if core.n == 0:
            return cls(name, None, None, lambda: surface, lambda: surface.last_layer().features, run, step)
        targets = core.targets.detach().cpu().clone() if core.labelled else None
        return cls(
            name, surface.clean_logits().detach().cpu().clone(), targets, lambda: surface,
            lambda: surface.last_layer().features.detach().cpu().clone(), run, step,
        )  # fmt: skip


def over_partners(matrix: Any, peers: Sequence[Peer]) -> list[Estimate]:
    r"""Return :math:`v_i = \frac{1}{|P_i|} \sum_{j \in P_i} d_{ij}` for every model, the mean over its partners.

    :math:`P_i` are the other models j whose :math:`d_{ij}` is defined. The extras have ``partners``, {name: value}, and
    ``undefined``, the number of partners that were left out, where there are some.

    Args:
        matrix: (M, M), a value for each ordered pair, NaN where it is not defined; the diagonal is not read.
        peers: the M models.

    Returns:
        An estimate for each model: ``unsupported`` where no pair of it is defined.

    Raises:
        UserError: for another shape.
    """
    rows, count = matrix.tolist() if hasattr(matrix, "tolist") else [list(row) for row in matrix], len(peers)
    if len(rows) != count or any(len(row) != count for row in rows):
        raise UserError(f"over_partners takes ({count}, {count}) values for {count} models")
    return [_mean(row, i, peers) for i, row in enumerate(rows)]


def _mean(row: Sequence[float], own: int, peers: Sequence[Peer]) -> Estimate:
    """Return the value of one model from the values of its pairs."""
    defined = {peer.name: float(v) for j, (v, peer) in enumerate(zip(row, peers, strict=True)) if j != own and v == v}
    if not defined:
        return Estimate.without_value(Status.UNSUPPORTED, "no pair of this model and another one has a value")
    finite = all(map(math.isfinite, defined.values()))
    # The exactly rounded sum is the same in every order of the models.
    value = math.fsum(defined.values()) / len(defined) if finite else sum(defined.values())
    extras: dict[str, Any] = {"partners": {name: v for name, v in defined.items() if math.isfinite(v)}}
    if undefined := len(peers) - 1 - len(defined):
        extras["undefined"] = undefined
    return Estimate(value, extras=extras)
