"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_sinks() -> dict[str, str]:
    """Return the trackers; each imports its library when a run opens it."""
    return {
        "csv": "acutance_trackers.csv:Csv",
        "tensorboard": "acutance_trackers.tensorboard:TensorBoard",
        "wandb": "acutance_trackers.wandb:WeightsAndBiases",
        "mlflow": "acutance_trackers.mlflow:MLflow",
        "trackio": "acutance_trackers.trackio:Trackio",
    }
