"""Checkpoints by URL: listed, fetched by the worker, known again while they stay what they were."""

import http.server
import os
import threading

import fsspec
import pytest
import torch
from models import MLP, mlp_data
from safetensors.torch import save_file

from acutance import UserError
from acutance.data.fingerprint import model_key
from acutance.data.prefetch import Prefetch
from acutance.io.remote import beside, fetched, listed, stamp
from acutance.plugins import catalog
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance_vision.pools import checkpoints as checkpoints_pool


def network():
    return MLP().float()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(os.path.dirname(os.path.dirname(__file__)))


@pytest.fixture
def folder(tmp_path):
    """A folder with two checkpoints and a table of them."""
    runs = tmp_path / "runs"
    runs.mkdir()
    for seed in (0, 1):
        save_file({name: t + seed for name, t in network().state_dict().items()}, runs / f"{seed}.safetensors")
    (runs / "list.csv").write_text("path,seed\n0.safetensors,0\n1.safetensors,1\n")
    return runs


@pytest.fixture
def memory(folder):
    """The same files in fsspec's memory."""
    system = fsspec.filesystem("memory")
    for file in folder.iterdir():
        system.pipe_file(f"/runs/{file.name}", file.read_bytes())
    yield "memory://runs"
    system.rm("/runs", recursive=True)


@pytest.fixture
def served(folder):
    """The same files from a server on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def pool(files, **settings):
    made = catalog().get("pools", "checkpoints")()
    spec = made.Spec(files=files, architecture="test_remote:network", **settings)
    return made, spec


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))


@pytest.mark.parametrize("files", ["*.safetensors", "list.csv"])
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_model_by_url_is_the_model_of_the_file(kind, files, folder, memory):
    root = memory if kind == "memory" else f"file://{folder}"
    local, here = pool(f"{folder}/{files}")
    remote, there = pool(f"{root}/{files}")
    pairs = list(zip(local.entries(here), remote.entries(there), strict=True))
    assert [a.id for a, _ in pairs] == [b.id for _, b in pairs] and len(pairs) == 2
    for a, b in pairs:
        assert "://" in b.path
        assert model_key("x", local.load(a, here)) == model_key("x", remote.load(b, there))


def test_over_http(served, folder):
    made, spec = pool(f"{served}/list.csv")
    entry = made.entries(spec)[1]
    here, there = pool(f"{folder}/list.csv")
    assert model_key("x", made.load(entry, spec)) == model_key("x", here.load(here.entries(there)[1], there))
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1.*: no such file"):
        fetched(f"{served}/none.safetensors")
    # Its date tells one state from another, and a signature is no part of its name.
    url = f"{served}/0.safetensors?signature=a.b"
    path = fetched(url)
    assert stamp(url) and path.name == "0.safetensors"
    os.utime(path, (1, 1))
    assert fetched(url).stat().st_mtime == 1
    signed, here = pool(url)
    assert [entry.id for entry in signed.entries(here)] == ["0"]


def test_a_place_that_cannot_be_reached_is_not_called_missing():
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/a\.pt: cannot be read: "):
        fetched("http://127.0.0.1:9/a.pt")
    with pytest.raises(UserError, match="chain of addresses"):
        fetched("zip://a.pt::file:///b.zip")


def test_a_table_by_url_names_files_beside_it_above_it_and_elsewhere():
    table = "s3://bucket/runs/list.csv"
    assert beside(table, "a.pt") == "s3://bucket/runs/a.pt"
    assert beside(table, "../other/a.pt") == "s3://bucket/other/a.pt"
    assert beside("file:///data/list.csv", "/abs/a.pt") == "file:///abs/a.pt"
    assert beside("https://host/list.csv?sig=x", "a.pt") == "https://host/a.pt"


def test_a_folder_is_no_checkpoint(folder):
    with pytest.raises(UserError, match="is a folder"):
        fetched(f"file://{folder}")


def test_it_is_fetched_once_and_again_when_it_changed(folder):
    url = f"file://{folder}/0.safetensors"
    first, path = stamp(url), fetched(url)
    os.utime(path, (1, 1))
    assert fetched(url) == path and path.stat().st_mtime == 1
    save_file({"a": torch.ones(3)}, folder / "0.safetensors")
    os.utime(folder / "0.safetensors", (5, 5))
    assert stamp(url) != first and fetched(url) != path
    assert not list(path.parents[1].rglob("*.partial"))


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_a_study_fetches_where_it_measures_and_knows_a_file_again(executor, folder, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])
    )
    x, y = mlp_data()
    save_file({"inputs": x.float(), "targets": y}, tmp_path / "points.safetensors")
    study = {
        "format": 1, "targets": ["train_error"], "within": [],
        "dataset": {"name": "arrays", "files": {"train": str(tmp_path / "points.safetensors")}},
        "pools": [{"name": "checkpoints", "files": f"file://{folder}/*.safetensors", "architecture": "test_remote:network"}],
        "surface": {"points": 16, "m": 16, "select": "first"}, "measures": [{"name": "gradient_norm"}],
        "executor": {"name": "processes", "workers": 1} if executor == "processes" else {"name": "serial"},
    }  # fmt: skip

    def values():
        run = run_study(load_config(study), tmp_path / "run", report=False)
        assert not run.failed
        return run.computed, dict(zip(run.results["model"].astype(str), run.results["value"], strict=True))

    ahead = []
    begin = Prefetch.begin
    monkeypatch.setattr(Prefetch, "begin", lambda self, *which: ahead.append(which[2].id) or begin(self, *which))
    computed, first = values()
    # In this process it can be seen: the second model is loaded while the first one is measured.
    assert ahead == ([] if executor == "processes" else ["1"] * len(ahead)) and (ahead or executor == "processes")
    assert computed == 4 and len(first) == 2
    assert values() == (0, first)
    save_file({name: t - 1 for name, t in network().state_dict().items()}, folder / "0.safetensors")
    computed, then = values()
    assert computed == 2 and then["1"] == first["1"] and then["0"] != first["0"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere/a.safetensors", "memory://nowhere/a.safetensors: no such file"),
        ("nosuch://a/b.pt", "nosuch://a/b.pt: cannot be read: Protocol not known"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(url, message):
    with pytest.raises(UserError, match=message):
        fetched(url)
    assert stamp(url) == ""


def test_a_pattern_without_files_and_a_table_that_is_not_there(memory):
    for name, message in (("*.pt", "no such file"), ("none.csv", "no such file")):
        made, spec = pool(f"{memory}/{name}")
        with pytest.raises(UserError, match=message):
            made.entries(spec)
    assert listed(f"{memory}/*.safetensors") == [f"memory:///runs/{i}.safetensors" for i in (0, 1)]


def test_the_place_is_listed_once_for_all_models_and_anew_for_the_next_plan(memory, monkeypatch):
    asked = []
    monkeypatch.setattr(checkpoints_pool, "listed", lambda files: asked.append(files) or listed(files))
    made, spec = pool(f"{memory}/*.safetensors")
    entries = made.entries(spec)
    for entry in entries:
        pool(spec.files)[0].load(entry, spec)  # a worker makes a pool of its own for every model
    assert len(entries) == 2 and len(asked) == 1
    fsspec.filesystem("memory").pipe_file("/runs/2.safetensors", fsspec.filesystem("memory").cat("/runs/1.safetensors"))
    assert [entry.id for entry in made.entries(spec)] == ["0", "1", "2"] and len(asked) == 2


def test_a_listing_that_the_file_system_remembers_is_not_believed(memory, monkeypatch):
    system, forgotten = fsspec.filesystem("memory"), []
    monkeypatch.setattr(type(system), "invalidate_cache", lambda self, path=None: forgotten.append(path))
    listed(f"{memory}/*.safetensors")
    assert forgotten == [None]


def test_a_damaged_file_and_one_that_would_run_code_are_named_by_their_address(memory, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    system = fsspec.filesystem("memory")
    with system.open("/runs/evil.pt", "wb") as file:
        torch.save({"a": Evil()}, file)
    system.pipe_file("/runs/cut.safetensors", b"\x10\x00")
    for name, message in (("evil.pt", "holds more than tensors"), ("cut.safetensors", "cannot be read")):
        made, spec = pool(f"{memory}/{name}")
        with pytest.raises(UserError, match=f"^memory://runs/{name}: {message}"):
            made.load(made.entries(spec)[0], spec)
    assert not (tmp_path / "ran").exists()
