"""What a result was computed with: versions, machine, plugins."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from acutance import __version__
from acutance.plugin_files import PluginFile
from acutance.plugins import Catalog

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "numba", "timm", "transformers", "safetensors", "pydantic")


def environment(plugins: Catalog, files: Sequence[PluginFile] = ()) -> dict[str, Any]:
    """Return versions of what computes, the machine in words, and the plugins; opens none of the libraries.

    Args:
        plugins: what is installed.
        files: plugins of one file each, beside the study.
    """
    own: dict[str, Any] = {}
    if files:
        own["plugin_files"] = {file.path: f"sha256:{file.digest}" for file in files}
        paths = {file.dist: file.path for file in files}
        # 'acutance report' runs no file that a folder names, but says where a figure is from.
        own["plugin_figures"] = {i.name: paths[i.dist] for i in plugins.items("figures") if i.dist in paths}
    return {
        "acutance": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "libraries": {name: number for name in LIBRARIES if (number := installed(name))},
        "gpus": gpus(),
        "plugins": {f"{p.dist}:{p.plugin}": p.version for p in plugins.plugins},
        "problems": [str(problem) for problem in plugins.problems],
        **own,
    }


def changed_files(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence on each plugin beside a study that is not what it was in the run before."""
    known = before.get("plugin_files", {})
    return [
        f"{path} has changed since the run before: what it registers is computed anew, and its old values stay apart"
        for path, digest in now.get("plugin_files", {}).items()
        if known.get(path, digest) != digest
    ]


def commit() -> str | None:
    """Return the commit of the sources in a git checkout, with ``+`` where files differ from it; None elsewhere."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        outputs = [
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return outputs[0].strip() + ("+" if outputs[1].strip() else "")


def installed(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor()
    return platform.processor()


def gpus() -> list[str]:
    """Return the names of the CUDA devices, when torch has been imported already."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
