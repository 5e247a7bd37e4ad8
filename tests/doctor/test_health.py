"""acutance doctor: what it finds in an installation and in a run directory, and that it changes nothing."""

import hashlib
import json
import re
import sqlite3
import types
import warnings

import pytest
import torch
from third_parties import distribution, plugin, python

from acutance.cli import main
from acutance.doctor import health
from acutance.doctor.run_health import examine
from acutance.errors import UserError
from acutance.io.migrations import SCHEMA_VERSION
from acutance.plugins import load
from acutance.run.harness import run_study
from acutance.study.config import load_config

# Those that are looked for have tests below, in this process; importing all of them takes seconds.
FEW_LIBRARIES = "from acutance.doctor import health; health.LIBRARIES = ('torch',);"


def doctor(*arguments, before=(), **options):
    """The verb in a process that sees other plugins than this one."""
    given = [*before, "doctor", *arguments]
    code = f"{FEW_LIBRARIES} from acutance.cli import main; main({given!r})"
    return python("-c", code, forked=True, **options)


def test_plugins_are_shown_with_the_time_of_each_phase_and_what_they_import(tmp_path):
    """In an interpreter started anew: what is imported already is not noticed. It ends with 0, whatever it finds."""
    plugin(tmp_path, "acme-slow", "import numba\nfrom acutance import hookimpl")
    plugin(tmp_path, "acme-bad", "import no_such_module")
    both = f"{FEW_LIBRARIES} from acutance.cli import cli; [cli(['doctor', *more], standalone_mode=False) for more in (['--json'], [])]"
    about, end = json.JSONDecoder().raw_decode(whole := python("-c", both, path=[tmp_path]).stdout)
    assert about["libraries"]["torch"]
    loading = {row["plugin"]: row for row in about["loading"]}
    slow = loading["acme_slow"]
    assert "numba" in slow["heavy"] and loading["worst_case"]["heavy"] == []
    for row in loading.values():
        assert {"import", "register", "hookspec", "collect"} <= row["phases"].keys()
        assert row["seconds"] == pytest.approx(sum(row["phases"].values())) and min(row["phases"].values()) >= 0
    # What takes the time is the import of numba.
    assert slow["phases"]["import"] > 0.9 * slow["seconds"]
    text, _, problems = whole[end:].partition("problems\n")
    assert re.search(r"imports [\w, ]*numba[\w, ]* at import time", text) and "(import " in text
    assert "acme_bad of acme-bad 1.0 failed at import" in problems and "Traceback" not in problems


def test_phases_of_a_plugin_with_a_faulty_spec(tmp_path, monkeypatch):
    source = """
    from acutance import hookimpl
    from acutance.measure import Measure
    from acutance.spec import Spec
    class Undocumented(Spec):
        p: int = 1
    class Bad(Measure[Undocumented]):
        name = "bad"
        def evaluate(self, surface, spec, rng):
            return 1.0
    @hookimpl
    def register_measures():
        return [Bad]
    """
    points = plugin(tmp_path, "acme-undocumented", source)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = load(points)
    assert found.problems[0].phase == "spec" and "spec" in found.plugins[0].phases


def test_the_traceback_of_a_problem_is_shown_on_demand_and_a_strict_doctor_fails(tmp_path):
    plugin(tmp_path, "acme-bad", "import no_such_module")
    verbose = doctor("--verbose", before=["--strict-plugins"], path=[tmp_path], code=3).stdout
    assert verbose.count("acme_bad of acme-bad 1.0 failed at import") == 1
    assert "Traceback" in verbose and "import no_such_module" in verbose


# -- GPUs ---------------------------------------------------------------------------------------------


class Cuda:
    def __init__(self, devices=(), archs=("sm_80", "sm_90"), error=None, warning=""):
        self.devices, self.archs, self.error, self.warning = devices, archs, error, warning

    def is_available(self):
        if self.error:
            raise self.error
        if self.warning:
            warnings.warn(self.warning, stacklevel=2)
        return bool(self.devices)

    def device_count(self):
        return len(self.devices)

    def get_device_properties(self, i):
        name, major, minor = self.devices[i]
        return types.SimpleNamespace(name=name, major=major, minor=minor, total_memory=80 * 10**9)

    def get_arch_list(self):
        return list(self.archs)


def gpus(monkeypatch, tmp_path, driver, cuda, **options):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n")
    monkeypatch.setattr(health, "DRIVER", tmp_path / ("version" if driver else "none"))
    fake = types.SimpleNamespace(cuda=Cuda(**options), version=types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(health, "import_module", lambda name: fake)
    return health.gpus()


def test_gpus_are_described(monkeypatch, tmp_path):
    found = gpus(monkeypatch, tmp_path, True, "12.6", devices=[("H100", 9, 0), ("A100", 8, 0)])
    assert found["cuda"] == "12.6" and found["driver"] == "550.54.15" and not found["problem"]
    assert found["devices"][0] == {"name": "H100", "memory": 80 * 10**9, "capability": "9.0"}
    from acutance.cli.doctor_ import _gpu_lines

    assert _gpu_lines(found) == [
        "GPUs: 2 (torch is built for CUDA 12.6, driver 550.54.15)",
        "  H100, 80.0 GB, capability 9.0",
        "  A100, 80.0 GB, capability 8.0",
    ]


@pytest.mark.parametrize(
    ("driver", "cuda", "options", "problem"),
    [
        (False, None, {}, ""),
        (False, "12.6", {}, ""),
        (
            True,
            None,
            {},
            "there is an NVIDIA driver (550.54.15), but torch is a build for the CPU: install a CUDA build",
        ),
        (True, "12.6", {}, "but torch sees no GPU"),
        (
            True,
            "12.6",
            {"warning": "The NVIDIA driver on your system is too old"},
            "sees no GPU: The NVIDIA driver on your",
        ),
        (True, "12.6", {"error": RuntimeError("no devices")}, "torch cannot look for GPUs: RuntimeError: no devices"),
        (True, "12.6", {"devices": [("B200", 10, 0)]}, "no kernels for B200 (capability 10.0; it has sm_80, sm_90)"),
        (True, "12.6", {"devices": [("B200", 10, 0)], "archs": ["sm_90", "compute_90"]}, ""),
        (True, "12.6", {"devices": [("L40", 8, 9)]}, ""),
        (True, "12.6", {"devices": [("V100", 7, 0)], "archs": ["sm_90", "compute_90"]}, "no kernels for V100"),
    ],
)
def test_what_is_wrong_with_a_gpu_is_told(monkeypatch, tmp_path, driver, cuda, options, problem):
    found = gpus(monkeypatch, tmp_path, driver, cuda, **options)
    assert problem in found["problem"] and bool(problem) == bool(found["problem"])


def test_a_wrong_choice_of_devices_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(health, "import_module", lambda name: torch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert health.gpus()["problem"] == "CUDA_VISIBLE_DEVICES=7 names no GPU that torch can use: unset it"
    # Hiding every GPU is a choice, not a mistake.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "version").write_text("Module 1\n")
    monkeypatch.setattr(health, "DRIVER", tmp_path / "version")
    assert health.gpus()["problem"] == ""


def test_this_machine_is_looked_at_without_a_computation():
    found = health.gpus()
    assert found["cuda"] == torch.version.cuda and len(found["devices"]) == torch.cuda.device_count()


# -- libraries ----------------------------------------------------------------------------------------


def test_torchvision_of_another_torch_is_told_with_what_to_do(monkeypatch):
    monkeypatch.setattr(health, "_requires", lambda name: ["numpy", "torch==2.5.1", "scipy; extra == 'scipy'"])
    versions = {"torchvision": "0.20.1", "torch": "2.6.0+cu124"}
    monkeypatch.setattr(health, "installed", versions.get)
    problem = health.library("torchvision")["problem"]
    assert problem.startswith("torchvision 0.20.1 needs torch==2.5.1, installed is 2.6.0+cu124: install both")
    versions["torch"] = "2.5.1+cpu"
    assert health.library("torchvision")["problem"] == ""


def test_an_import_that_fails_is_told(monkeypatch):
    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr(health, "import_module", fail)
    monkeypatch.setattr(health, "installed", {"timm": "1.0", "torch": "2.13.0+cpu"}.get)
    assert health.library("timm")["problem"] == (
        "torchvision was built for another torch than the installed one: install both from the same source, e.g. "
        "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
    )
    for version in ("2.14.0", "2.14.0+local.build"):
        monkeypatch.setattr(health, "installed", {"timm": "1.0", "torch": version}.get)
        assert health.library("timm")["problem"].endswith("pip install --force-reinstall torch torchvision")
    monkeypatch.setattr(health, "installed", lambda name: None)
    assert health.library("timm")["problem"] == "not installed: pip install timm"


# -- metadata and path --------------------------------------------------------------------------------

PROJECT = """
[project]
name = "acme-edit"
version = "{version}"
[project.entry-points.acutance]
{points}
"""


@pytest.mark.parametrize(
    ("points", "version", "problem"),
    [
        ("one = 'acme_edit'", "1.0", None),
        (
            "one = 'acme_edit'\ntwo = 'acme_edit.two'",
            "1.0",
            r"has new entry points \(two\) since acme-edit was installed: pip install -e",
        ),
        ("one = 'acme_edit.moved'", "1.0", r"has new entry points \(one\)"),
        ("", "1.0", "has lost one since"),
        ("one = 'acme_edit'", "1.1", "says version 1.1, acme-edit was installed as 1.0: pip install -e"),
    ],
)
def test_metadata_older_than_the_sources_are_told(tmp_path, monkeypatch, points, version, problem):
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT.format(points=points, version=version))
    distribution(site, "acme-edit", {"one": "acme_edit"})
    origin = {"url": source.as_uri(), "dir_info": {"editable": True}}
    (site / "acme_edit-1.0.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(str(site))
    found = [line for line in health.stale_metadata() if "acme-edit" in line]
    if problem is None:
        assert not found
    else:
        (line,) = found
        assert re.search(problem, line) and line.endswith(f"pip install -e {source}")
    # A folder that has gone, or that holds another project now, is nobody's problem.
    (source / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert not [line for line in health.stale_metadata() if "acme-edit" in line]
    (source / "pyproject.toml").unlink()
    assert not [line for line in health.stale_metadata() if "acme-edit" in line]


def test_a_checkout_with_an_entry_point_that_was_not_installed_is_told(tmp_path, monkeypatch):
    import acutance

    package = tmp_path / "registry" / "acutance"
    package.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "acutance"\nversion = "1.0"\n[project.entry-points.acutance]\ncore = "acutance.builtin"\nhessian = "x"\n'
    )
    monkeypatch.setattr(acutance, "__file__", str(package / "__init__.py"))
    own = distribution(tmp_path / "site", "acutance", {"core": "acutance.builtin"})
    monkeypatch.setattr(health, "distributions", lambda: [own])
    assert health.stale_metadata() == [
        f"{tmp_path}/pyproject.toml has new entry points (hessian) since acutance was installed: pip install -e {tmp_path}"
    ]


def test_a_distribution_that_hides_another_is_told(tmp_path):
    for version in ("2.0", "1.0"):
        plugin(tmp_path / version, "acme-foo", "", version=version)
    path = [tmp_path / "1.0", tmp_path / "2.0"]
    (line,) = json.loads(doctor("--json", path=path).stdout)["problems"]
    assert line == f"acme-foo is on the path 2 times: 1.0 in {path[0]} hides 2.0 in {path[1]}; uninstall one"


def test_the_cache_folder_is_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "not" / "yet"))
    found = health.cache()
    assert found["problem"] == "" and found["free"] > 0 and not (tmp_path / "not").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "file" / "cache"))
    assert health.cache()["problem"].endswith("is a file: set ACUTANCE_CACHE to a folder")
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))

    def full(dir):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(health.tempfile, "TemporaryFile", full)
    assert "cannot be written (No space left on device): set ACUTANCE_CACHE" in health.cache()["problem"]


def inside(capsys, *arguments, code=0):
    """The verb in this process, where the libraries are imported already."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *map(str, arguments)])
    assert ended.value.code == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def test_a_sound_installation_has_no_problems(capsys, monkeypatch):
    for name in ("stale_metadata", "shadowed"):  # of the environment that the tests run in
        monkeypatch.setattr(health, name, list)
    assert inside(capsys).endswith("no problems\n")
    monkeypatch.setattr(health, "shadowed", lambda: ["one hides another"])
    assert inside(capsys).endswith("problems\n  one hides another\n")


# -- a run directory ----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, toy_config):
    toy_config["measures"].append({"name": "moody", "mood": "raise"})
    run_study(load_config(toy_config), tmp_path / "run", report=False)
    return tmp_path / "run"


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("acutance.db")}


def edit(folder, statement, *values):
    with sqlite3.connect(folder / "acutance.db") as connection:
        connection.execute(statement, values)
    connection.close()


def test_the_state_of_a_run(run, capsys):
    before = digest(run)
    found = examine(run)
    assert digest(run) == before and examine(run / "acutance.db") == found
    assert found["schema"] == SCHEMA_VERSION and found["integrity"] == "ok" and found["problems"] == []
    # 6 models x (2 worst_case, 2 average_case, weight_norm; moody fails) and 3 targets: errors on test, ood and train.
    assert found["models"] == 6 and found["cells"] == {"done/ok": 6 * 5 + 6 * 3, "failed": 6}
    assert found["run"]["state"] == "failed" and found["writer"] is None
    text = inside(capsys, run)
    assert "6 models, 54 cells (48 done/ok, 6 failed)" in text and "schema 1, integrity ok" in text
    assert json.loads(inside(capsys, run, "--json"))["run"]["cells"]["failed"] == 6


def test_a_run_that_was_cut_off(run, capsys):
    edit(run, "UPDATE run SET state = 'running', finished = NULL")
    (problem,) = examine(run)["problems"]
    assert "the last run was cut off: the same command goes on" in problem
    assert problem in inside(capsys, run)
    # While its driver is alive it is not cut off: here, this process; on another host, by its heartbeat.
    import os
    import socket
    import time

    edit(run, "REPLACE INTO driver VALUES (1, ?, ?, ?)", socket.gethostname(), os.getpid(), time.time())
    assert (
        examine(run)["problems"] == [] and examine(run)["writer"] == f"process {os.getpid()} on {socket.gethostname()}"
    )
    edit(run, "REPLACE INTO driver VALUES (1, 'elsewhere', 1, ?)", time.time() - 5)
    assert examine(run)["writer"] == "process 1 on elsewhere"
    edit(run, "REPLACE INTO driver VALUES (1, 'elsewhere', 1, ?)", time.time() - 5000)
    assert examine(run)["writer"] is None and examine(run)["problems"] == [problem]


@pytest.mark.parametrize(("schema", "advice"), [(99, "use the acutance that wrote it"), (0, "another --out")])
def test_a_store_of_another_version(run, capsys, schema, advice):
    edit(run, "UPDATE meta SET value = ? WHERE name = 'schema'", str(schema))
    found = examine(run)
    (problem,) = found["problems"]
    assert f"has schema {schema}, this acutance reads {SCHEMA_VERSION}" in problem and advice in problem
    assert "cells" not in found and f"schema {schema}" in inside(capsys, run)


def test_a_damaged_store(run, capsys):
    path = run / "acutance.db"
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 8] = b"\xaa" * (4096 * 5)
    path.write_bytes(data)
    problems = examine(run)["problems"]
    assert problems and any("damaged" in problem for problem in problems)
    assert "damaged" in inside(capsys, run)


def test_what_is_no_store(tmp_path, capsys):
    with pytest.raises(UserError, match=r"holds no run.*acutance\.db"):
        examine(tmp_path)
    assert "holds no run" in inside(capsys, tmp_path, code=2)
    path = tmp_path / "acutance.db"
    path.write_text("not a database, though longer than a header of one hundred bytes " * 4)
    assert "not a store of acutance" in examine(tmp_path)["problems"][0]
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    assert "not a store of acutance (no such table: meta)" in examine(tmp_path)["problems"][0]
