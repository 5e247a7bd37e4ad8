"""What can be wrong with an installation, each told in one sentence that says what to do; for ``doctor``."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import Distribution, distributions, requires
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import acutance
from acutance.errors import unfit_torchvision
from acutance.io.folders import cache_folder
from acutance.plugins import GROUP, OWN
from acutance.system.environment import installed

LIBRARIES = ("torch", "torchvision", "timm", "transformers", "numba")
DRIVER = Path("/proc/driver/nvidia/version")


def library(name: str) -> dict[str, str]:
    """Return whether a library imports, and what to do when it does not."""
    version = installed(name)
    if version is None:
        return {"name": name, "version": "-", "problem": f"not installed: pip install {name}"}
    problem = ""
    try:
        import_module(name)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        if unfit := unfit_torchvision(error):
            problem = f"{unfit}: {_both_anew()}"
    if name == "torchvision":
        problem = _unfit_torchvision(version) or problem
    return {"name": name, "version": version, "problem": problem}


def _unfit_torchvision(version: str) -> str:
    """Compare torchvision's own requirement with the installed torch; pip checks it only when it installs."""
    from packaging.requirements import Requirement

    torch = installed("torch")
    wanted = [need for need in map(Requirement, _requires("torchvision")) if need.name == "torch"]
    if torch is None or all(need.specifier.contains(torch, prereleases=True) for need in wanted):
        return ""
    return f"torchvision {version} needs torch{wanted[0].specifier}, installed is {torch}: {_both_anew()}"


def _both_anew() -> str:
    """Return how torch and torchvision are installed from one source: that of a torch which names its build."""
    build = (installed("torch") or "").partition("+")[2]
    source = (
        f" --index-url https://download.pytorch.org/whl/{build}"
        if re.fullmatch(r"cpu|cu\d+|rocm[\d.]+|xpu", build)
        else ""
    )
    return f"install both from the same source, e.g. pip install --force-reinstall torch torchvision{source}"


def _requires(name: str) -> list[str]:
    return requires(name) or []


def gpus() -> dict[str, Any]:
    """Return the CUDA devices as torch sees them, without starting a computation on any.

    Returns:
        ``cuda``, the version torch was built for, None for a build without; ``driver``; ``devices`` with name,
        memory in bytes and compute capability; ``problem``, empty when there is none.
    """
    driver = DRIVER.read_text().partition("Module")[2].split()[:1] if DRIVER.is_file() else []
    state: dict[str, Any] = {"cuda": None, "driver": driver[0] if driver else None, "devices": [], "problem": ""}
    try:
        torch = import_module("torch")
        state["cuda"] = torch.version.cuda
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
            for i in devices:
                properties = torch.cuda.get_device_properties(i)
                capability = f"{properties.major}.{properties.minor}"
                state["devices"].append(
                    {"name": properties.name, "memory": properties.total_memory, "capability": capability}
                )
    except Exception as error:
        return state | {"problem": f"torch cannot look for GPUs: {type(error).__name__}: {error}".splitlines()[0]}
    return state | {"problem": _gpu_problem(torch, state, warned)}


def _gpu_problem(torch: Any, state: dict[str, Any], warned: list[warnings.WarningMessage]) -> str:
    """Return what keeps torch from computing on GPUs that are there, with what to do; empty when nothing does."""
    if state["devices"]:
        built = torch.cuda.get_arch_list()
        for device in state["devices"]:
            if built and not any(_runs(name, device["capability"]) for name in built):
                return (
                    f"this build of torch has no kernels for {device['name']} (capability {device['capability']}; "
                    f"it has {', '.join(built)}): install a build for it, or use --device cpu"
                )
    elif os.environ.get("CUDA_VISIBLE_DEVICES") not in (None, ""):
        return f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} names no GPU that torch can use: unset it"
    elif state["driver"] and state["cuda"] is None:
        return f"there is an NVIDIA driver ({state['driver']}), but torch is a build for the CPU: install a CUDA build"
    elif state["driver"] and os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        why = f": {str(warned[0].message).splitlines()[0]}" if warned else ""
        return f"there is an NVIDIA driver ({state['driver']}), but torch sees no GPU{why}"
    return ""


def _runs(built: str, capability: str) -> bool:
    """Whether what was built for one capability runs on another: kernels within their generation, PTX on all later."""
    kind, _, digits = built.partition("_")
    number = int("".join(filter(str.isdigit, digits)))
    target, device = divmod(number, 10), tuple(map(int, capability.split(".")))
    return target <= device and (kind == "compute" or target[0] == device[0])


def stale_metadata() -> list[str]:
    """Name distributions installed from a source folder whose ``pyproject.toml`` has changed since then.

    Python reads entry points from the metadata written at installation: a new one is not seen before the next.
    """
    from packaging.utils import canonicalize_name

    problems = []
    for dist, folder in _source_folders():
        try:
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            if canonicalize_name(project["name"]) != canonicalize_name(dist.name):
                continue
        except (OSError, ValueError, KeyError):
            # The folder has gone or is no project any more: there is nothing to compare the metadata with.
            continue
        installed = {(point.name, point.value) for point in dist.entry_points if point.group == GROUP}
        written = set(project.get("entry-points", {}).get(GROUP, {}).items())
        lacking, gone = sorted(name for name, _ in written - installed), sorted(name for name, _ in installed - written)
        if lacking or gone:
            change = f"has new entry points ({', '.join(lacking)})" if lacking else f"has lost {', '.join(gone)}"
            problems.append(
                f"{folder / 'pyproject.toml'} {change} since {dist.name} was installed: pip install -e {folder}"
            )
        elif "version" in project and project["version"] != dist.version:
            problems.append(
                f"{folder / 'pyproject.toml'} says version {project['version']}, {dist.name} was installed as "
                f"{dist.version}: pip install -e {folder}"
            )
    return problems


def _source_folders() -> Iterator[tuple[Distribution, Path]]:
    """Yield editable installations with their folders, and this package's when it runs from a checkout."""
    checkout = Path(acutance.__file__).resolve().parents[2]
    names: set[str] = set()
    for dist in distributions():
        if dist.name in names:
            continue
        names.add(dist.name)
        if dist.name == OWN and (checkout / "pyproject.toml").is_file():
            yield dist, checkout
            continue
        try:
            origin = json.loads(dist.read_text("direct_url.json") or "{}")
        except ValueError:
            continue
        if origin.get("dir_info", {}).get("editable"):
            yield dist, Path(url2pathname(urlparse(origin["url"]).path))


def shadowed() -> list[str]:
    """Name plugin distributions that are on the path more than once; Python takes the first."""
    folders: dict[str, list[str]] = {}
    for dist in distributions():
        if any(point.group == GROUP for point in dist.entry_points):
            place = f"{dist.version} in {Path(str(dist.locate_file(''))).resolve()}"
            others = folders.setdefault(dist.name, [])
            if place not in others:
                others.append(place)
    return [
        f"{name} is on the path {len(places)} times: {places[0]} hides {', '.join(places[1:])}; uninstall one"
        for name, places in folders.items()
        if len(places) > 1
    ]


def cache() -> dict[str, Any]:
    """Return where trained models are kept, how much room is left there, and what is wrong with it."""
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    problem = ""
    if not existing.is_dir():
        problem = f"{folder}: {existing} is a file: set ACUTANCE_CACHE to a folder"
    else:
        try:
            # Permissions alone do not tell of read-only and full disks.
            with tempfile.TemporaryFile(dir=existing) as file:
                file.write(b"0")
        except OSError as error:
            problem = f"{folder}: cannot be written ({error.strerror}): set ACUTANCE_CACHE to a folder that can"
    return {"folder": str(folder), "free": shutil.disk_usage(existing).free, "problem": problem}
