"""Definitions of the built-in measures: each setting varied alone, and those that names tell in pairs."""

import itertools
from typing import Literal, get_args, get_origin

from acutance.plugins import catalog

OTHERS = {
    "scaling": ["none", "elementwise_eta", "filter", "layer", "balanced", "mine.py:c"],
    "parameters": ["blocks.*", "!head.*, blocks.{0..3}.*"],
    "ladder": [[0.001], [0.001, 0.002]],
}
TOLD = ("scaling", "norm", "parameters", "logit_norm", "norm_scale", "mode", "part", "level", "ladder", "p")


def varied(field, name):
    """Return values of a field beside its default."""
    if name in OTHERS:
        return OTHERS[name]
    if get_origin(field.annotation) is Literal:
        return [value for value in get_args(field.annotation) if value != field.default]
    if field.annotation is bool:
        return [True]
    return [4 if field.annotation is int else 0.125]


def definitions():
    """Yield (measure, settings, row of a table) for every built-in measure."""
    for item in catalog().items("measures"):
        if item.dist != "acutance" or item.name in ("error", "loss"):
            continue
        spec = item.target.Spec
        required = {name: 0.5 for name, field in spec.model_fields.items() if field.is_required()}
        others = {name: varied(field, name) for name, field in spec.model_fields.items() if name not in required}
        single = [{name: value} for name, values in others.items() for value in values]
        pairs = [
            {one: a, two: b}
            for one, two in itertools.combinations([name for name in TOLD if name in others], 2)
            for a in others[one][:2]
            for b in others[two][:1]
        ]
        for settings in ({}, *single, *pairs):
            try:
                full = spec.model_validate({**required, **settings}).full()
            except ValueError:
                continue  # settings that exclude each other
            cells = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in full.items()}
            yield item.name, settings, {"measure": item.name, **{f"spec.{k}": v for k, v in cells.items()}}
