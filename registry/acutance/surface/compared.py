"""Evaluating measures that compare models, as safely as those of a surface: failures turned into estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from acutance.data.batch import Native
from acutance.errors import Unsupported, UserError, as_errors
from acutance.json_values import json_name, json_value
from acutance.measure import Estimate, PoolMeasure, Status
from acutance.model.conditions import Conditions
from acutance.numerics.draws import Streams
from acutance.peers import Peer
from acutance.surface.evaluation import reason
from acutance.system.kept import preserved_rng


def evaluate_peers(
    measure_id: str,
    measure: PoolMeasure[Any],
    peers: Sequence[Peer],
    spec: Any,
    *,
    seed: int,
    points: str,
    replicate: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Native = torch.float32,
    catch: bool = True,
) -> list[Estimate]:
    """Evaluate one spec of a measure on models that are compared.

    Args:
        measure_id: canonical id; names the noise.
        measure: the instance.
        peers: the models.
        spec: settings.
        seed: study seed.
        points: digest of the points, without targets where the measure sees none; names the noise.
        replicate: index of the repetition; names the noise.
        device: where models are opened.
        dtype: of their weights.
        catch: turn an exception into ``failed`` estimates.

    Returns:
        One estimate for each model, in order. None of them has a value where the measure is not defined, or fails: the
        status says which, the message why.

    Raises:
        Exception: whatever the measure raises, but for a user's mistake, unless ``catch``.
    """
    rng = Streams(seed, points, 0, measure_id, replicate)
    try:
        # What a caller or another measure has switched on or off must not reach this one.
        conditions = Conditions(torch.device(device), torch.float32 if dtype == "native" else dtype, grad=True)
        with preserved_rng(), conditions, as_errors(f"measure '{measure_id}'"):
            given = measure.evaluate_pool(peers, spec, rng)
            if given is None or not hasattr(given, "__iter__"):
                raise UserError(f"measure '{measure_id}' returned no values: evaluate_pool gives one for each model")
            estimates = [_storable(Estimate.of(value)) for value in given]
        if len(estimates) != len(peers):
            raise UserError(f"measure '{measure_id}' returned {len(estimates)} values for {len(peers)} models")
    except Unsupported as error:
        estimates = [Estimate.without_value(Status.UNSUPPORTED, str(error))] * len(peers)
    except Exception as error:
        if not catch and not isinstance(error, UserError):
            raise
        estimates = [Estimate.without_value(Status.FAILED, reason(error))] * len(peers)
    return [replace(estimate, measure=measure_id, spec=spec.full()) for estimate in estimates]


def _storable(estimate: Estimate) -> Estimate:
    """Return an estimate whose extras are as they are stored: what JSON has.

    Raises:
        UserError: naming the extra that cannot.
    """
    extras = {}
    for name, value in estimate.extras.items():
        try:
            extras[json_name(name)] = json_value(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"extras['{name}'] cannot be stored: {error}") from None
    return replace(estimate, extras=extras)
