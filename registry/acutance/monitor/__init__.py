"""Measures of a model while it trains: a plain loop, and callbacks for the trainers that people use."""

from acutance.monitor.monitor import Monitor
from acutance.monitor.schedule import Epochs, LogSpaced, Schedule, Steps

__all__ = ["Epochs", "LogSpaced", "Monitor", "Schedule", "Steps"]
