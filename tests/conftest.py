import gc
import os
import signal
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Packages of third parties have tests of their own, which run where the package is installed.
collect_ignore = ["dists"]
# The helpers beside the tests are plain modules; importlib mode does not put this folder on the path.
sys.path.insert(0, str(HERE))
# A distribution that is merely on the path counts as installed: the third party of the tests.
sys.path.insert(0, str(HERE / "dists" / "toy"))
from forked import python_that_forks  # noqa: E402 - found only now

os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE / "dists" / "toy"), os.environ.get("PYTHONPATH", "")]).rstrip(":")

# A shell starts what runs in its background deaf to Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take longest, by few tests that wait for processes: begun last, one worker would end with them alone.
FIRST = ("test_conformance", "test_ray", "test_run", "test_faults_of_measures", "test_faults_of_others", "test_faults")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


def pytest_collection_finish():
    # What was imported by now stays: the garbage collector need not look at it again and again.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def figures_are_drawn_here():
    """Drawing processes have tests of their own; each takes seconds to start. So does embedding whole fonts.

    It gives the settings as they are shipped.
    """
    from acutance.report.page import figures
    from acutance.run import outputs

    shipped = dict(figures.SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "cores", lambda: 1)
        patch.setitem(figures.SETTINGS, "pdf.fonttype", 3)
        yield shipped


@pytest.fixture(autouse=True)
def workers_are_forks(request, monkeypatch):
    """Worker processes are forks of one that has imported torch; tests of how they start and end have real ones."""
    if not request.node.get_closest_marker("real_workers"):
        from acutance.system import child

        monkeypatch.setattr(child, "_interpreter", python_that_forks)


@pytest.fixture
def toy_config():
    return toy_study()


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory):
    """A finished run of ``toy_config`` for all tests: copy its directory, never write into it."""
    from acutance.run.harness import run_study
    from acutance.study.config import load_config

    return run_study(load_config(toy_study()), tmp_path_factory.mktemp("finished") / "run", report=False)


@pytest.fixture
def three_models(toy_config):
    """A study that is computed in a moment: 3 models, 4 batches, one target; what it measures is the test's own."""
    return toy_config | {"pools": [{"name": "toy", "size": 3}], "targets": ["test_error"], "groups": []}


def toy_study():
    return {
        "format": 1,
        "title": "toy",
        "pools": [{"name": "toy", "size": 6}],
        "dataset": {"name": "toy"},
        "surface": {"points": 32, "m": 8},
        "targets": ["test_error", "ood.error", "generalization_gap", "attr:learning_rate"],
        "groups": ["wide"],
        "within": ["architecture"],
        "measures": [
            {"name": "worst_case", "rho": [0.01, 0.02], "steps": 3},
            {"name": "average_case", "rho": 0.1, "draws": 4, "logit_norm": [False, True]},
            {"name": "weight_norm"},
        ],
        # Far fewer than usual: what is tested of them here is where they go; tests/analysis holds them to exact answers.
        "analysis": {"resamples": 199},
        "figures": {"colour": "learning_rate", "marker": ["wide"]},
    }
