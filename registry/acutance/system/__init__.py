"""The process and its machine: children, devices, threads, signals, progress, versions."""
