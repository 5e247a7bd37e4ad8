"""The weights that a model came with, w*: a flat copy of them, or the model's own tensors where memory is short."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from acutance.data.batch import Native
from acutance.errors import Unsupported, UserError, some
from acutance.model.conditions import trackable
from acutance.model.dispatched import OWN_TYPE, SEVERAL
from acutance.model.parameters import Parameters
from acutance.model.state import version_of
from acutance.system.memory import require_room

EXACT = (torch.float32, torch.float64)
KINDS = (*EXACT, torch.float16, torch.bfloat16)  # types in which weights can be evaluated as they are
LARGE = 1 << 26  # parameters of a model of which vectors are not held where they can be made anew
Wanted = torch.dtype | Native | None  # as the user says it
NO_VECTOR = (
    "it asks for a vector of all weights, and here they stay in their own type ({}), in which such vectors would be "
    "too coarse: write surface.dtype: float32 (in Python dtype='float32'), which takes {:.1f} GB for each vector"
)


class Weights:
    """The weights of a model where it was opened.

    Args:
        owners: the tensor of each slot.
        parameters: the slots.
        device: where passes are made.
        wanted: ``native`` for the types that the weights have; float32 or float64; None for float64 where all weights
            are of that type, and float32 where they are not.
        spread: where they lie in words, if one device does not hold them all: they then keep their types and devices.
        lent: whether the model's own tensors may stand for a copy, since nobody else writes to them. Those of a large
            model do, and native ones, lent or not.
        no_vector: what is said of spread weights where a vector of all of them is asked for; {} stands for ``spread``.

    Attributes:
        dtype: of passes: the coarsest of the weights.
        native: whether they have the types that they are stored in.
        of_inputs: type of floating-point inputs.
        own: whether they are the model's own tensors, no copy.
        spread: as given.

    Raises:
        NoRoom: for weights that the device does not hold.
        UserError: for a type in which nothing is evaluated, or one that spread weights do not have.
    """

    def __init__(
        self,
        owners: Sequence[Tensor],
        parameters: Parameters,
        device: torch.device,
        wanted: Wanted,
        lent: bool = False,
        spread: str = "",
        no_vector: str = SEVERAL,
    ) -> None:
        self._no_vector = no_vector
        self._owners, self._slots, self._device, self.spread = owners, parameters, device, spread
        stored = {p.dtype for p in owners}
        if spread and wanted != "native":
            if stored != {wanted or torch.float32} and not (wanted is None and stored == {torch.float64}):
                kind = names({wanted or torch.float32})
                raise UserError(OWN_TYPE[0].format(spread, names(stored), kind), OWN_TYPE[1])
            wanted = "native"
        self.native = wanted == "native"
        if self.native:
            if other := stored.difference(KINDS):
                raise UserError(f"dtype native: weights of {names(other)} cannot be evaluated", "choose float32")
            self.dtype = max(stored, key=lambda kind: torch.finfo(kind).eps)
        else:
            assert wanted != "native"
            self.dtype = wanted or (torch.float64 if stored == {torch.float64} else torch.float32)
        # Of several types that of the first layers, which inputs meet: rounded to another they would be other inputs.
        self.of_inputs = owners[0].dtype if self.native and owners else self.dtype
        if not self.native and self.dtype not in EXACT:
            raise UserError(f"dtype {self.dtype} is not supported", "choose float32, float64 or native")
        low = stored.difference(EXACT)
        self.note = ""  # what a reader should know of the type
        if low and wanted is None:
            self.note = f"weights stored in {names(low)} are evaluated in {names({self.dtype})}"
        self.own = self.native or (lent and sum(owner.numel() for owner in owners) >= LARGE)
        if not spread:
            self._require_room()
        self._versions = [version_of(owner) for owner in owners]

    def _require_room(self) -> None:
        """Refuse weights that the device does not hold, before they are brought there."""
        count = sum(owner.numel() for owner in self._owners)
        if self.own:
            there = [o for o in self._owners if o.device == self._device and (self.native or o.dtype == self.dtype)]
            need = sum(self._bytes(owner) for owner in self._owners) - sum(map(self._bytes, there))
        else:
            need = count * self.dtype.itemsize
        stored = {owner.dtype for owner in self._owners}
        cures = []
        if not self.native and need > (native := sum(owner.nbytes for owner in self._owners)):
            cures.append(f"write surface.dtype: native (in Python dtype='native'; {native / 1e9:.3g} GB)")
        if self._device.type != "cpu":
            cures.append("measure it on device cpu")
        kind = names(stored if self.native else {self.dtype})
        require_room(f"the {count:.3g} weights of the model in {kind}", need, self._device, cures)

    def _bytes(self, owner: Tensor) -> int:
        return owner.numel() * (owner.itemsize if self.native else self.dtype.itemsize)

    @cached_property
    def pieces(self) -> Sequence[Tensor]:
        """One flat tensor for every slot, never written to: views of ``flat``, or of the model's own tensors."""
        if not self.own:
            return self._slots.split(self.flat)
        return [self._as_wanted(owner).reshape(-1) for owner in self._owners]

    @cached_property
    def flat(self) -> Tensor:
        """All of them, (P,): a copy, made when it is first asked for.

        Raises:
            Unsupported: for weights in their own types, unless those are float32 or float64; for spread ones.
        """
        self.refuse_spread()
        if self.native and {owner.dtype for owner in self._owners} not in ({torch.float32}, {torch.float64}):
            size = 4e-9 * sum(owner.numel() for owner in self._owners)
            raise Unsupported(NO_VECTOR.format(names({owner.dtype for owner in self._owners}), size))
        return torch.cat([self._as_wanted(owner).reshape(-1) for owner in self._owners]).contiguous()

    def refuse_spread(self) -> None:
        """Refuse what needs all weights in one place, where one device does not hold them.

        Raises:
            Unsupported: saying where they lie.
        """
        if self.spread:
            raise Unsupported(self._no_vector.format(self.spread))

    def reread(self) -> None:
        """Put the model's own weights back into the copy, which a pass has written to."""
        if not self.own:
            self.flat.copy_(torch.cat([self._as_wanted(owner).reshape(-1) for owner in self._owners]))

    @property
    def changed(self) -> bool:
        """Whether somebody has written to the model's own tensors since, where these stand for a copy."""
        return self.own and [version_of(owner) for owner in self._owners] != self._versions

    def _as_wanted(self, owner: Tensor) -> Tensor:
        if self.spread:
            return trackable(owner.detach())
        return trackable(owner.detach().to(self._device, owner.dtype if self.native else self.dtype))


def names(kinds: set[torch.dtype]) -> str:
    """Return the names of types."""
    return some(sorted(str(kind).removeprefix("torch.") for kind in kinds))
