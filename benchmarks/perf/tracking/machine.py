"""Which machine a figure belongs to."""

from __future__ import annotations

import platform
import re
from typing import Any

import torch

from acutance.run.executors import cores
from acutance.system.environment import processor


def machine() -> dict[str, Any]:
    """Return what decides how fast things are: processor, cores, GPU, versions."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return {
        "id": machine_id(processor(), cores(), gpu),
        "processor": processor(),
        "cores": cores(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def machine_id(processor: str, cores: int, gpu: str = "") -> str:
    """Return the name of a machine's folder, e.g. ``amd-epyc-2-cores`` or ``amd-epyc-16-cores-nvidia-h100``."""
    words = f"{processor or 'unknown'} {cores} core{'s' if cores > 1 else ''} {gpu}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
