"""Values and surfaces in words: one line for a prompt, a few for a reader, HTML for a notebook."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError
from acutance.plugins import catalog

if TYPE_CHECKING:
    from acutance.measure import Cost, Estimate
    from acutance.surface.loss_surface import LossSurface

CONVERGED, NEARLY = 0.99, 0.9  # share of the value that half of the steps had reached


# -- estimates ------------------------------------------------------------------------------------------------


def estimate_line(e: Estimate) -> str:
    """Return ``worst_case = 0.0123 ± 0.0004``, and how it ended when that was not well."""
    value = f"{e.value:.6g}" if not math.isnan(e.value) else "no value"
    error = f" ± {e.stderr:.2g}" if e.stderr is not None else ""
    end = "" if e.status == "ok" else f" ({e.status}: {e.message or e.status.advice})"
    return f"{e.measure.rpartition('/')[2] or 'value'} = {value}{error}{end}"


def explain(e: Estimate) -> str:
    """Return what an estimate says, how far to trust it, and what it cost, one sentence a line."""
    measure = _measure(e.measure)
    lines = [estimate_line(e) + _settings(e)]
    if measure is not None:
        lines += _meaning(e, measure)
    lines += [*_losses(e.extras), *_chance(e), *_uncertainty(e), *_search(e), *_common(e.extras)]
    if e.status != "ok" and e.status.advice and e.status.advice not in e.message:
        lines.append(f"What to try: {e.status.advice}.")
    lines += [_cost(e.cost), *(f"Note: {note}." for note in e.notes)]
    return "\n".join(line for line in lines if line)


def estimate_html(e: Estimate) -> str:
    """Return an estimate for a notebook: the line in bold, the explanation below, everything escaped."""
    head, *rest = explain(e).splitlines()
    items = "".join(f"<li>{escape(line)}</li>" for line in rest)
    return f"<div><strong>{escape(head)}</strong><ul>{items}</ul></div>"


def _measure(name: str) -> Any:
    """Return the class of a measure, or None for one that is not installed."""
    try:
        return catalog().find("measures", name).target if name else None
    except UserError:
        return None


def _settings(e: Estimate) -> str:
    """Name every setting that has a value: another norm, scaling or loss is another number, defaults or not."""
    fields: Mapping[str, Any] = e.spec or {}
    parts = [f"{k} = {_plain(v)}" for k, v in fields.items() if v is not None and v != [] and v != ()]
    return f"  [{', '.join(parts)}]" if parts else ""


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _meaning(e: Estimate, measure: Any) -> list[str]:
    summary = " ".join((measure.__doc__ or "").strip().split("\n\n")[0].split())
    return [summary] + (
        [f"A larger value means: {measure.traits.larger_means}."] if measure.traits.larger_means else []
    )


def _losses(extras: Mapping[str, Any]) -> list[str]:
    """Return how mean loss and error change from the clean to the perturbed network, where both are known."""
    lines = []
    for name, noun, form in (("loss", "mean loss", "{:.4g}"), ("error", "classification error", "{:.2%}")):
        clean, perturbed = extras.get(f"clean_{name}"), extras.get(f"perturbed_{name}")
        if isinstance(clean, int | float) and isinstance(perturbed, int | float):
            lines.append(
                f"The {noun} goes from {form.format(clean)} to {form.format(perturbed)} in the perturbed network."
            )
    return lines


def _past_chance(e: Estimate) -> bool:
    """Whether the perturbed network is worse than an answer that does not look at the input."""
    perturbed = e.extras.get("perturbed_loss")
    return e.chance is not None and isinstance(perturbed, int | float) and not perturbed < e.chance


def _chance(e: Estimate) -> list[str]:
    """Return a sentence where the clean or the perturbed network is at chance level; nothing elsewhere."""
    if e.chance is None or not _past_chance(e):
        return []
    clean = e.extras.get("clean_loss", math.nan)
    same = f"the same answer for every input has a loss of {e.chance:.4g}"
    if not clean < e.chance:
        return [f"The network is at chance level before anything is moved: its loss is {clean:.4g}, {same}."]
    return [
        f"The radius is past chance level: {same}. The value says how fast outputs grow far from the minimum, not how "
        "flat it is: take a smaller radius (acutance calibrate proposes some)."
    ]


def _uncertainty(e: Estimate) -> list[str]:
    """Return what the errors say: the Monte-Carlo error, whether the sign is certain, the spread over m-batches."""
    lines = []
    if e.stderr is not None and math.isfinite(e.value):
        share = f", {e.stderr / abs(e.value):.1%} of the value" if e.value else ""
        lines.append(f"Monte-Carlo standard error {e.stderr:.2g}{share}.")
        if abs(e.value) < 2 * e.stderr:
            lines[-1] += " Its sign is not certain: take more draws, or a larger radius."
    elif math.isfinite(e.value):
        lines.append("It has no Monte-Carlo error: the same seed and batches give the same value.")
    spread = e.extras.get("batch_stderr")
    if len(e.per_batch) > 1 and isinstance(spread, int | float):
        low, high = min(e.per_batch), max(e.per_batch)
        lines.append(
            f"Mean over {len(e.per_batch)} m-batches, from {low:.4g} to {high:.4g}; standard error over batches "
            f"{spread:.2g}."
        )
    return lines


def _search(e: Estimate) -> list[str]:
    """Say whether a search had converged, and where it ended."""
    lines = []
    half, reached = e.extras.get("value_half"), e.extras.get("radius_reached")
    if isinstance(half, int | float) and math.isfinite(e.value) and e.value > 0:
        share = half / e.value
        verdict = (
            "past chance level this does not say that the search has ended at the highest point" if _past_chance(e)
            else "the search has converged" if share >= CONVERGED
            else "the search had nearly converged" if share >= NEARLY
            else "the search had not converged: raise its steps, or take the value as a lower bound"
        )  # fmt: skip
        lines.append(f"Half of the steps reached {share:.1%} of the value ({half:.4g} of {e.value:.4g}): {verdict}.")
    if isinstance(reached, int | float):
        where = "on the boundary of the ball" if reached >= CONVERGED else "inside the ball"
        lines.append(f"The point found lies {where}, at {reached:.1%} of its radius.")
    return lines


def _common(extras: Mapping[str, Any]) -> list[str]:
    """Say how many points are also among the validation points, whose labels the measure has seen."""
    count = extras.get("shared_with_validation")
    return [f"{count:g} of the points are also among the validation points."] if isinstance(count, int | float) else []


def _cost(cost: Cost) -> str:
    counts = [
        (cost.forwards, "forward"), (cost.backwards, "backward"), (cost.hvps, "Hessian-vector product"),
    ]  # fmt: skip
    parts = [f"{count:,.0f} {name}" for count, name in counts if count]
    return f"Cost in passes over one example: {', '.join(parts)}." if parts else ""


def surface_line(surface: LossSurface, loss: Any, clean: Any) -> str:
    """Return a surface in one line: free parameters, points, loss, dtype, device; makes no pass.

    Args:
        surface: the surface.
        loss: name or function of its loss.
        clean: its loss at w*, where that is known already.
    """
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    kind = ", logit-normalized" if surface.logit_norm else ""
    value = "" if clean is None else f" = {float(clean):.6g}"
    dtype = str(surface.dtype).removeprefix("torch.")
    return (
        f"LossSurface({surface.size:,} free parameters, n = {surface.n}, {name}{kind}{value}, {dtype}, "
        f"{surface.core.functional.device})"
    )
