"""What is offered beyond one run: models in memory, merging, correlating, calibration, sweeps, timing."""
