"""Evaluating measures safely: noise named, costs booked, failures turned into estimates, RNG untouched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from acutance.errors import NotInParts, Unsupported, UserError, as_errors
from acutance.json_values import json_name, json_value
from acutance.measure import WITHOUT_POINTS, Cost, Estimate, Measure, Status
from acutance.model.conditions import Conditions
from acutance.numerics.draws import Streams
from acutance.surface.loss_surface import LossSurface
from acutance.system.kept import preserved_rng


def evaluate_family(
    measure_id: str,
    measure: Measure[Any],
    surface: LossSurface,
    specs: Sequence[Any],
    *,
    seed: int,
    batch: int,
    replicate: int = 0,
    catch: bool = False,
) -> list[Estimate]:
    """Evaluate several specs of one measure on one surface.

    Args:
        measure_id: canonical id; names the noise.
        measure: the instance.
        surface: one model on one batch.
        specs: settings; passes are shared between them where the measure knows how.
        seed: study seed.
        batch: index of the m-batch; names the noise.
        replicate: index of the repetition; names the noise.
        catch: turn an exception into a ``failed`` estimate, after trying the specs one by one.

    Returns:
        One estimate for each spec, in order; ``unsupported`` where the measure says so.

    Raises:
        Exception: whatever a measure raises, unless ``catch``.
    """
    hidden = ["unlabeled" in measure.needs(spec) for spec in specs]
    if any(hidden) and not all(hidden):
        # Settings that look at targets and settings that must not see any: each kind by itself.
        options: dict[str, Any] = {"seed": seed, "batch": batch, "replicate": replicate, "catch": catch}
        found: dict[int, Estimate] = {}
        for kind in (True, False):
            places = [i for i, without in enumerate(hidden) if without is kind]
            values = evaluate_family(measure_id, measure, surface, [specs[i] for i in places], **options)
            found |= dict(zip(places, values, strict=True))
        return [found[i] for i in range(len(specs))]
    if all(hidden):
        surface = surface.unlabelled()
    rng = Streams(seed, surface.digest, batch, measure_id, replicate)

    def attempt(subset: Sequence[Any]) -> list[Estimate]:
        """Return the estimates of some specs, each with its cost: an equal share where the measure books none."""
        before = surface.cost
        functional = surface.core.functional
        # What a caller or another measure has switched on or off must not reach this one.
        with preserved_rng(), Conditions(functional.device, functional.dtype, grad=True):
            with as_errors(f"measure '{measure_id}'"):
                estimates = [_plain(Estimate.of(e), measure_id) for e in measure.evaluate_many(surface, subset, rng)]
        if len(estimates) != len(subset):
            raise UserError(f"measure '{measure_id}' returned {len(estimates)} estimates for {len(subset)} specs")
        spent = surface.cost - before
        if sum((e.cost for e in estimates), Cost()).units == 0 and spent.units:
            estimates = [replace(e, cost=spent * (1 / len(subset))) for e in estimates]
        return estimates

    def labelled(estimates: Sequence[Estimate]) -> list[Estimate]:
        pairs = zip(estimates, specs, strict=True)
        return [replace(_explained(e, surface, measure, s), measure=measure_id, spec=s.full()) for e, s in pairs]

    try:
        return labelled(attempt(specs))
    except Unsupported as error:
        if len(specs) == 1:
            return labelled([Estimate.without_value(Status.UNSUPPORTED, str(error))])
    except NotInParts as error:
        return labelled([Estimate.without_value(Status.FAILED, str(error))] * len(specs))
    except Exception as error:
        if not catch:
            raise
        if len(specs) == 1:
            return labelled([Estimate.without_value(Status.FAILED, reason(error))])
    return [
        evaluate_family(measure_id, measure, surface, [spec], seed=seed, batch=batch, replicate=replicate, catch=catch)[
            0
        ]
        for spec in specs
    ]


def _plain(estimate: Estimate, measure_id: str) -> Estimate:
    """Return an estimate of plain values, as they are sent and stored; a failed one where something is none."""
    e, what = estimate, "extras"
    try:
        if not isinstance(e.extras, Mapping):
            raise TypeError(f"is a {type(e.extras).__name__}, and no mapping of names to values")
        extras = {}
        for name, value in e.extras.items():
            what = f"extra '{name}'"
            extras[json_name(name)] = json_value(value)
        what = "stderr"
        stderr = None if e.stderr is None else float(e.stderr)
    except (TypeError, ValueError, RecursionError) as error:
        return Estimate.without_value(Status.FAILED, f"measure '{measure_id}': {what} {error}")
    return replace(
        e, value=float(e.value), stderr=stderr, status=Status(e.status), message=str(e.message or ""), extras=extras
    )


def _explained(estimate: Estimate, surface: LossSurface, measure: Measure[Any], spec: Any) -> Estimate:
    """Return an estimate whose message says so where there are no numbers at w* already, whatever the radius."""
    if estimate.status is not Status.NONFINITE or measure.needs(spec) <= WITHOUT_POINTS:
        return estimate
    if surface.core.known.clean_logits is None and not surface.core.keeps_logits:
        loss = float(surface.clean().loss)
        return (
            estimate
            if math.isfinite(loss)
            else replace(estimate, message=f"the loss is {loss} at the model's own weights")
        )
    raw = _clean_logits(surface)
    loss = float(surface.loss_of(raw)) if surface.core.labelled else 0.0
    # Minus infinity is an output too, of a class that is ruled out: it is to blame where it makes the loss infinite.
    rows = raw.reshape(len(raw), -1)
    gone = [] if math.isfinite(loss) else _ruled_out(raw, surface.targets)
    numbers = rows < math.inf if math.isfinite(loss) or gone else rows.isfinite()
    lost = (~numbers.all(1)).nonzero().flatten().tolist()
    if math.isfinite(loss) and not lost:
        return estimate
    why = "your loss gives no number for them"
    if gone:
        why = (
            f"the labels of {len(gone)} of {surface.n} points (the first in row {gone[0]}) have a logit of minus "
            "infinity: their classes are ruled out"
        )
    if lost:
        why = (
            f"the outputs of {len(lost)} of {surface.n} points are not finite (the first in row {lost[0]}): they are "
            "no predictions; look for examples or weights that overflow"
        )
    said = why if math.isfinite(loss) else f"the loss is {loss} at the model's own weights: {why}"
    return replace(estimate, message=said)


def _ruled_out(raw: Tensor, targets: Tensor) -> list[int]:
    """Return the points with a class left whose label is not among those, as its logit of minus infinity says."""
    if raw.dim() != 2 or targets.dim() != 1 or targets.is_floating_point():
        return []
    own = raw.gather(1, targets.clamp(0, raw.shape[1] - 1)[:, None])[:, 0]
    return ((own == -math.inf) & (raw.amax(1) > -math.inf)).nonzero().flatten().tolist()


def _clean_logits(surface: LossSurface) -> Tensor:
    """Return the logits at w*; a pass for them is a check of the model, no part of the measure's work."""
    ledger = surface.core.known.ledger
    before = ledger.forwards
    raw = surface.clean_logits()
    ledger.checks, ledger.forwards = ledger.checks + ledger.forwards - before, before
    return raw


def reason(error: BaseException) -> str:
    """Return one line that says what went wrong; a user's mistake already is one."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
