"""Sinks that hand values to trackers: CSV files, TensorBoard, Weights & Biases, MLflow, Trackio."""
