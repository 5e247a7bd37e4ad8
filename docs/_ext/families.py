"""Under which heading of the index a measure stands: by the module it is written in, the longest beginning first."""

from __future__ import annotations

FAMILIES = {
    "Sharpness: how the loss rises around the weights": (
        "acutance_worst_case",
        "acutance_average_case",
        "acutance_classic.flatness",
        "acutance_hessian.gradient_norm",
    ),
    "Curvature": (
        "acutance_hessian",
        "acutance_classic.flatness.fisher_rao",
        "acutance_classic.flatness.relative_flatness",
        "acutance_classic.flatness.scale_free",
    ),
    "Noise that the accuracy bears": (
        "acutance_classic.pac_bayes",
        "acutance_classic.pac_bayes_bounds",
        "acutance_classic.worst_radius",
        "acutance_classic.basin",
    ),
    "Norms and spectra of the weights": ("acutance_classic.norms", "acutance_classic.weights"),
    "Margins": ("acutance_classic.margin",),
    "Gradients of single examples": (
        "acutance_classic.gradients",
        "acutance_classic.gradient_agreement",
        "acutance_classic.gradient_alignment",
        "acutance_classic.information",
    ),
    "Singular learning theory": ("acutance_classic.learning_coefficient",),
    "Confidence and calibration": ("acutance_predictions.confidence", "acutance_predictions.calibration"),
    "Estimates of the error without labels": (
        "acutance_predictions.error_estimates",
        "acutance_predictions.agreement_line",
        "acutance_predictions.output_norms",
        "acutance_predictions.transport",
    ),
    "Models compared with each other": ("acutance_predictions.pairs", "acutance_predictions.disagreement"),
    "Representations": ("acutance_predictions.representations",),
    "Sensitivity to the inputs": ("acutance_predictions.inputs",),
    "Training and its trajectory": ("acutance_predictions.training",),
    "Diagonal linear networks, where the answer is known": ("acutance_dln",),
    "What targets are measured in": ("acutance.empirical",),
}
OTHER = "Other measures"


def family(module: str) -> str:
    """Return the heading for what is defined in a module."""
    found = [
        (len(start), title)
        for title, starts in FAMILIES.items()
        for start in starts
        if module == start or module.startswith(f"{start}.")
    ]
    return max(found)[1] if found else OTHER
