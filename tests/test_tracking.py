"""Speed tracking: when it fails, what it says, and that every registered measure has a case. Nothing is timed here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from models import MLP, mlp_data

from acutance import LossSurface, Spec
from acutance.measure import Cost
from acutance.plugins import catalog

ROOT = Path(__file__).parents[1]
PERF = ROOT / "benchmarks" / "perf"
sys.path.insert(0, str(PERF))

from tracking import comparison, examples, results  # noqa: E402
from tracking.bare import Bare  # noqa: E402
from tracking.machine import machine_id  # noqa: E402
from tracking.memory import Stretch, peak_bytes, stretches, vectors  # noqa: E402
from tracking.networks import NETWORKS, make  # noqa: E402

OLD = {
    "ratio": {"ratio": 1.0, "bound": 1.1, "forwards": 256, "backwards": 128, "hvps": 0},
    "time": {"seconds": 0.2, "bound": 0.3},
}


def failures(case, **changes):
    return comparison.compare({case: {**OLD[case], **changes}}, OLD).failures


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.0999])
def test_a_ratio_within_ten_percent_passes(ratio):
    assert not failures("ratio", ratio=ratio)


def test_a_ratio_that_is_worse_fails_by_name():
    assert failures("ratio", ratio=1.11) == {"ratio": ["ratio 1.110, was 1.000 (+11%)"]}


@pytest.mark.parametrize("name", comparison.PASSES)
@pytest.mark.parametrize("change", [1, -1])
def test_any_change_of_the_passes_fails(name, change):
    (fault,) = failures("ratio", **{name: OLD["ratio"][name] + change})["ratio"]
    assert fault == f"passes changed: {name} {OLD['ratio'][name] + change}, was {OLD['ratio'][name]}"


def test_both_faults_are_told():
    assert len(failures("ratio", ratio=2.0, forwards=384)["ratio"]) == 2


def test_a_time_is_held_against_its_bound_alone():
    assert not failures("time", seconds=0.29)
    assert failures("time", seconds=0.31) == {"time": ["0.310 s, bound 0.3 s, was 0.200 s"]}
    was_over = {"time": {**OLD["time"], "seconds": 0.4}}
    assert not comparison.compare({"time": {**OLD["time"], "seconds": 0.5}}, was_over).failures


def test_a_new_case_passes_with_a_note_and_a_missing_one_is_noted():
    found = comparison.compare({"time": OLD["time"], "fresh": {"ratio": 9.0}}, OLD)
    assert not found.failures
    assert [note.split(":")[0] for note in found.notes] == ["fresh", "ratio"]
    assert "new" in found.notes[0] and "not measured now" in found.notes[1]
    assert not comparison.compare({"time": OLD["time"]}, OLD, complete=False).notes


@pytest.mark.parametrize(
    "row, met", [({"ratio": 1.1, "bound": 1.1}, True), ({"ratio": 1.2, "bound": 1.1}, False),
                 ({"ratio": 1.2, "bound": None}, None), ({"seconds": 0.2, "bound": 0.3}, True)]
)  # fmt: skip
def test_whether_a_bound_is_met(row, met):
    assert comparison.met(row) is met


def test_the_name_of_a_machine():
    assert machine_id("AMD EPYC", 1) == "amd-epyc-1-core"
    assert machine_id("Intel(R) Xeon(R) @ 2.10GHz", 16, "NVIDIA H100 80GB HBM3") == (
        "intel-r-xeon-r-2-10ghz-16-cores-nvidia-h100-80gb-hbm3"
    )


ABOUT = {"id": "here", "processor": "P", "cores": 2, "gpu": "", "threads": 1, "python": "3", "torch": "2"}


def test_recording_writes_the_json_and_the_table(tmp_path):
    rows = {
        "test_a.py::test_measure[x]": {
            "ratio": 1.2345, "bound": 1.1, "batch": 128, "forwards": 384, "backwards": 256, "hvps": 0,
            "vectors": 6.0, "vectors_bound": 4,
        },
        "test_a.py::test_start": {"seconds": 0.051, "bound": 0.3},
        "test_a.py::test_peers": {"ratio": 0.5, "bound": 0.6, "products_ours": 8.6, "products_theirs": 17},
        "test_a.py::test_error": {"seconds": 0.0, "bound": None, "rms_ours": 0.0371, "rms_theirs": 0.04},
        "test_a.py::test_rows": {"ratio": 2.0, "bound": None, "bytes_per_row": 566.6},
    }  # fmt: skip
    results.write(tmp_path, ABOUT, rows, complete=True)
    assert results.read(tmp_path, "here")["cases"] == rows
    table = (tmp_path / "here" / "README.md").read_text().splitlines()
    assert "| a: measure[x] | 1.23 | 1.1 | **no** | 3F 2B | 6.0 vectors, bound 4 **not met** |" in table
    assert "| a: start | 0.051 s | 0.3 s | yes |  |  |" in table
    assert "| a: peers | 0.50 | 0.6 | yes | products: ours 8.6, theirs 17 |  |" in table
    assert "| a: error |  |  |  | rms error: ours 0.0371, theirs 0.04 |  |" in table
    assert "| a: rows | 2.00 |  |  |  | 567 B/row |" in table
    assert "[here](here/README.md): torch 2, 5 cases, 2 of 3 bounds held" in (tmp_path / "README.md").read_text()
    # A part of the cases replaces its own, all of them replace everything.
    results.write(tmp_path, ABOUT, {"new": {"ratio": 1.0, "bound": None}}, complete=False)
    assert len(results.read(tmp_path, "here")["cases"]) == 6
    said = results.write(tmp_path, {**ABOUT, "torch": "3"}, {"other": {"ratio": 1.0, "bound": None}}, complete=False)
    assert "torch differs" in said and len(results.read(tmp_path, "here")["cases"]) == 6
    results.write(tmp_path, ABOUT, {"new": {"ratio": 1.0, "bound": None}}, complete=True)
    assert list(results.read(tmp_path, "here")["cases"]) == ["new"]
    assert results.read(tmp_path, "elsewhere") is None


def test_the_committed_tables_are_made_from_the_committed_figures():
    for path in results.FOLDER.glob("*/ratios.json"):
        assert (path.parent / "README.md").read_text() == results.table(json.loads(path.read_text()))
    assert (results.FOLDER / "README.md").read_text() == results.index(results.FOLDER)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_every_registered_measure_has_a_case(network):
    found = examples.examples(catalog())
    assert {example.item.id for example in found} == {item.id for item in catalog().items("measures")}
    assert len({example.name for example in found}) == len(found)
    for example in found:
        spec = example.spec(network)
        assert isinstance(spec, example.item.target.Spec)
        assert spec.model_dump().items() >= dict(example.settings).items()


def test_the_fields_that_a_measure_requires_are_filled_in_by_type():
    class Needy(Spec):
        rate: float
        count: int
        flag: bool
        kind: Literal["one", "two"]
        maybe: float | None
        steps: int = 100

    assert examples.filled(Needy, "x") == {"rate": 0.01, "count": 2, "flag": False, "kind": "one", "maybe": 0.01}

    class Text(Spec):
        path: str

    with pytest.raises(ValueError, match=r"x\.path: no value can be guessed"):
        examples.filled(Text, "x")


def test_effort_is_lowered_as_far_as_the_measure_allows():
    by_name = {example.name: example for example in examples.examples(catalog())}
    assert by_name["worst_case-linf"].spec(NETWORKS["resnet18_w64"]).steps == 2
    assert by_name["average_case-linear"].spec(NETWORKS["resnet18_w64"]).draws == 4  # it needs three
    assert by_name["average_case"].spec(NETWORKS["mlp"]).draws == 100


def test_rounds_fit_the_budget():
    assert [examples.rounds(seconds, 8.0) for seconds in (1e-4, 1.0, 3.9, 100.0)] == [150, 4, 2, 1]


class Counted(MLP):
    """Counts the rows of its forwards."""

    seen = 0

    def forward(self, x):
        Counted.seen += len(x)
        return super().forward(x)


@pytest.mark.parametrize(
    "cost, noises, rows",
    [(Cost(72, 48), 0, 72), (Cost(36), 0, 36), (Cost(24, 24, 72), 0, 24), (Cost(48, 24, 24), 0, 48), (Cost(), 0, 24)],
    ids=str,
)
def test_bare_passes_are_those_of_the_ledger(cost, noises, rows):
    x, y = mlp_data(24)
    bare, calls = Bare(Counted(), x, y), {"grad": 0}
    Counted.seen = 0
    grad = torch.autograd.grad

    def counted(*args, **kwargs):
        calls["grad"] += 1
        return grad(*args, **kwargs)

    torch.autograd.grad = counted
    try:
        bare.passes(cost, noises)()
    finally:
        torch.autograd.grad = grad
    assert Counted.seen == rows
    assert calls["grad"] == (cost.backwards + cost.hvps) / 24


def test_bare_passes_of_a_dict_of_inputs():
    bare = Bare(*make(NETWORKS["bert"], "cpu"))
    assert 4.2e6 < bare.p < 4.4e6 and bare.n == 32
    bare.passes(Cost(64, 32), 1)()


def test_memory_is_counted_to_the_byte():
    def work():
        first, second = torch.empty(1000), torch.empty(500)
        del first
        return second, torch.empty(700)

    assert peak_bytes(work, "cpu") == 1500 * 4
    assert peak_bytes(work, "cpu") == 1500 * 4  # and the same again


def test_the_peak_of_average_case_is_two_vectors():
    import acutance

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 1024), torch.nn.Tanh(), torch.nn.Linear(1024, 2))
    inputs, targets = torch.randn(32, 64), torch.randint(0, 2, (32,))
    surface, bare = LossSurface(model, (inputs, targets)), Bare(model, inputs, targets)
    surface.loss()
    extra = peak_bytes(lambda: acutance.measure("average_case", surface, rho=0.1, draws=3), "cpu") - peak_bytes(
        lambda: bare.forward(bare.n), "cpu"
    )
    # Noise, moved weights and |w|, of which one at most is let go before the pass.
    assert 2 <= extra / (4 * bare.p) < 4


def test_one_backward_does_not_hide_the_vectors_of_many_forwards():
    """A pass of many rows: what a backward keeps for its layers outweighs all vectors."""
    import acutance

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 256), torch.nn.Tanh(), torch.nn.Linear(256, 2)
    )
    inputs, targets = torch.randn(5000, 64), torch.randint(0, 2, (5000,))
    surface, bare = LossSurface(model, (inputs, targets)), Bare(model, inputs, targets)
    surface.loss()
    surface.release()
    found = stretches(
        lambda: acutance.measure("average_case", surface, rho=0.1, draws=3, variance_reduction="linear"), "cpu",
        surface.core,
    )  # fmt: skip
    # The first derivative of a model looks at a few rows beforehand: does differentiation see all parameters?
    assert [stretch.kind for stretch in found] == ["forward", "forward", "backward", *["forward"] * 3, "forward"]
    peaks = {kind: peak_bytes(one, "cpu") for kind, one in bare.kinds(Cost(4, 1)).items()}
    hidden = max(stretch.peak for stretch in found) - peaks["backward"]
    assert hidden < 2 * 4 * bare.p
    # Noise, moved weights, |w|, the gradient, |w| times it; and the losses and logits that the batch is made of.
    assert 5 <= vectors(found, peaks, 4 * bare.p) < 5.5
    # Not a call of the ledger is left changed.
    assert "book" not in vars(surface.core)


def test_vectors_are_counted_against_the_pass_they_are_held_in():
    bare = {"forward": 10, "backward": 100, "hvp": 1000}
    found = [Stretch("backward", 108), Stretch("forward", 30), Stretch("forward", 26)]
    assert vectors(found, bare, 4) == 5.0
    # The graph of the products stays: forwards behind it are made beside it.
    assert vectors([*found, Stretch("hvp", 1012), Stretch("forward", 1008)], bare, 4) == 5.0
    assert vectors([Stretch("hvp", 1012), Stretch("forward", 1008)], bare, 4) == 3.0


def run(results_folder, *options):
    # A worker of pytest-xdist names itself in the environment, and benchmarks are off under one.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**inherited, "OMP_NUM_THREADS": "1", "ACUTANCE_PLUGINS": "none"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib", "--benchmark-only",
         f"--results={results_folder}", "--models=mlp", "--seconds=0.01", f"{PERF}/test_measures.py", "-k", "cpu-loss",
         *options],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_record_then_compare(tmp_path):
    """The whole way of `make bench` and `make bench-compare`, with figures that no machine could miss or meet."""
    unknown = run(tmp_path, "--compare")
    assert unknown.returncode == 0, unknown.stdout
    assert "no figures of this machine" in unknown.stdout and "make bench" in unknown.stdout
    assert run(tmp_path, "--record").returncode == 0
    (path,) = tmp_path.glob("*/ratios.json")
    found = json.loads(path.read_text())
    ((case, row),) = found["cases"].items()
    assert case == "test_measures.py::test_measure[mlp-cpu-loss]"
    assert (row["forwards"], row["backwards"], row["hvps"]) == (128, 0, 0)

    def committed(**changes):
        path.write_text(json.dumps({**found, "cases": {case: {**row, **changes}}}))
        return run(tmp_path, "--compare")

    same = committed(ratio=1e6)
    assert same.returncode == 0, same.stdout
    assert "0 of 1 cases are worse" in same.stdout
    slower = committed(ratio=1e-6)
    assert slower.returncode == 1 and f"WORSE: {case}: ratio" in slower.stdout
    passes = committed(ratio=1e6, forwards=256)
    assert passes.returncode == 1 and f"WORSE: {case}: passes changed: forwards 128, was 256" in passes.stdout
    assert run(tmp_path, "--models=resnet").returncode == 4
