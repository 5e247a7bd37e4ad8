"""Studies on Ray: the tables of the serial executor on several nodes, also when workers die and nodes leave."""

import json
import os
import threading
import time

import pytest

from acutance import UserError
from acutance.run.harness import run_study
from acutance.study.config import load_config

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402

from acutance_ray.executor import Ray, RaySpec  # noqa: E402

# A cluster takes half a minute to start.
pytestmark = [
    pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, num_gpus=0) for _ in range(2)]
    yield cluster, nodes
    cluster.shutdown()


def tables(config, out, **options):
    run = run_study(load_config(config), out, report=False, **options)
    key = ["model", "measure", "split", *(c for c in run.results if c.startswith("spec.")), "replicate"]
    return run, run.results.astype(object).fillna("").sort_values(key).reset_index(drop=True)


def on(cluster, **settings):
    return {"name": "ray", "address": cluster.address, **settings}


def test_the_tables_are_those_of_the_serial_executor(toy_config, tmp_path, cluster):
    _, expected = tables(toy_config, tmp_path / "serial")
    run, found = tables({**toy_config, "executor": on(cluster[0])}, tmp_path / "ray")
    assert run.failed == 0 and found.equals(expected)
    _, again = tables({**toy_config, "executor": on(cluster[0])}, tmp_path / "ray")
    assert again.equals(expected)


def test_a_worker_that_dies_costs_its_own_model_only(toy_config, tmp_path, cluster):
    config = {**toy_config, "pools": [{"name": "toy", "size": 4, "fault": "kill"}]}
    lines = []
    run, _ = tables({**config, "executor": on(cluster[0])}, tmp_path / "ray", reporter=Lines(lines))
    broken = run.models[~run.models["admitted"]]
    assert broken["model"].tolist() == ["toy1"] and "a ray actor died" in broken["reason"].item()
    assert sum("its job starts again" in line for line in lines) >= 1
    assert set(run.results["model"]) == {"toy0", "toy2", "toy3"} and (run.results["status"] == "ok").all()


def test_a_measure_that_hangs_is_given_up_and_the_others_go_on(toy_config, tmp_path, cluster):
    pools = [{"name": "toy", "size": 2}]
    _, expected = tables({**toy_config, "pools": pools}, tmp_path / "serial")
    config = {**toy_config, "pools": pools}
    config["measures"] = [*config["measures"], {"name": "moody", "mood": "hang"}]
    lines = []
    run, found = tables({**config, "executor": on(cluster[0], time_limit=2.0)}, tmp_path / "ray", reporter=Lines(lines))
    hung = found[found["status"] == "failed"]
    assert set(hung["measure"]) == {"moody"} and len(hung) == 2 == run.failed
    assert hung["message"].str.contains("took longer than executor.time_limit, 2 s, on one m-batch").all()
    assert sum("moody: took longer" in line and "the other measures go on" in line for line in lines) == 1
    # Whichever was first.
    assert {"as of toy0 (and 1 other model: toy1)", "as of toy1 (and 1 other model: toy0)"} & set(lines)
    others = found[found["measure"] != "moody"].reset_index(drop=True)[expected.columns]
    assert others.equals(expected)


class Lines:
    """A reporter that keeps what is said."""

    def __init__(self, lines):
        self.lines = lines

    def say(self, text):
        self.lines.append(text)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def test_a_node_that_leaves_does_not_stop_the_run(cluster):
    extra = cluster[0].add_node(num_cpus=1, num_gpus=0, resources={"leaving": 1})
    jobs = [json.dumps({"id": str(i), "kind": "evaluate"}) for i in range(400)]
    done = {"count": 0}

    def leave():
        while done["count"] < 20:
            time.sleep(0.01)
        cluster[0].remove_node(extra, allow_graceful=False)

    thread = threading.Thread(target=leave)
    with Ray(RaySpec(address=cluster[0].address)) as executor:
        assert executor.workers == 3
        thread.start()
        outcomes = []
        for text in executor.run(jobs):
            outcomes.append(json.loads(text))
            done["count"] = len(outcomes)
    thread.join()
    assert {o["job"] for o in outcomes} == {str(i) for i in range(400)}
    assert all(o["kind"] in ("failed", "lost") for o in outcomes) and sum(o["kind"] == "lost" for o in outcomes) <= 1


def test_what_the_cluster_has_no_room_for_is_said(cluster):
    executor = Ray(RaySpec(address=cluster[0].address, cpus=64, workers=1, patience=2))
    with executor, pytest.raises(UserError, match="no actor with 64 cores and 0 GPUs came up in 2 s"):
        list(executor.run([json.dumps({"id": "0", "kind": "evaluate"})]))


def test_no_such_cluster():
    with pytest.raises(UserError, match=r"executor.address: cannot join '127.0.0.1:1'"):
        Ray(RaySpec(address="127.0.0.1:1"))._connected()
