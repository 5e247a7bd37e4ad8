"""One repository at many revisions: folders, and the layout of the hub's cache; the network is never asked."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from acutance import UserError
from acutance.plugins import catalog
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.testing.core import examine
from acutance_text.causal import Causal
from acutance_text.revisions import Revisions, RevisionsSpec, placed
from acutance_text.transformers_pool import FolderSpec


def gpt2(seed):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=257, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=256, eos_token_id=256
    )
    return transformers.GPT2LMHeadModel(config).eval()


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ACUTANCE_ALLOW_DOWNLOAD", raising=False)

    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    return tmp_path / "hub"


@pytest.fixture
def root(tmp_path):
    for step in (1000, 512, 2000):
        gpt2(step).save_pretrained(tmp_path / "pythia" / f"step{step}")
    return tmp_path / "pythia"


def kept(hub, revisions, name="org/OLMo-1B"):
    """Put revisions, {branch: seed}, into the hub's cache in its own layout."""
    place = hub / f"models--{name.replace('/', '--')}"
    for revision, seed in revisions.items():
        commit = f"{seed:040x}"
        gpt2(seed).save_pretrained(place / f"blobs{seed}")
        (place / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        for file in (place / f"blobs{seed}").iterdir():
            link = place / "snapshots" / commit / file.name
            if not link.exists():
                link.symlink_to(os.path.relpath(file, link.parent))
        ref = place / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
    return place


@pytest.mark.parametrize(
    ("revision", "expected"),
    [
        ("step1000", ("", 1000, None)),
        ("step1000-tokens4B", ("", 1000, 4 * 10**9)),
        ("stage2-ingredient1-step2000-tokens9B", ("stage2-ingredient1", 2000, 9 * 10**9)),
        ("step_30-tokens1.5T", ("", 30, 1_500_000_000_000)),
        ("tokens20M-step5", ("tokens20M", 5, 20_000_000)),
        ("checkpoint-500", ("", 500, None)),
        ("seed3/global_step77", ("seed3", 77, None)),
        ("iter_0001000", ("", 1000, None)),
        ("143000", ("", 143000, None)),
        ("main", ("", None, None)),
        ("v1.0", ("", None, None)),
        ("overstep9", ("", None, None)),
        ("1" * 40, ("", None, None)),  # a commit
    ],
)
def test_steps_and_tokens_are_read_from_names(revision, expected):
    assert placed(revision) == expected


def test_folders_are_a_trajectory_in_the_order_of_its_steps(root):
    pool, spec = Revisions(), RevisionsSpec(path=str(root), train_set="pile")
    entries = pool.entries(spec)
    assert [e.id for e in entries] == ["pythia@step512", "pythia@step1000", "pythia@step2000"]
    assert [e.step for e in entries] == [512, 1000, 2000] and {e.run for e in entries} == {"pythia"}
    assert entries[0].attributes == {"run": "pythia", "step": 512} and entries[0].train_set == "pile"
    for entry in entries:
        expected = gpt2(entry.step).state_dict()
        assert all(torch.equal(t, expected[n]) for n, t in pool.load(entry, spec).state_dict().items())
        assert pool.data_settings(entry, spec) == {"tokenizer": str(root / f"step{entry.step}")}
    some = pool.entries(RevisionsSpec(path=str(root), revisions=("step2000", "step512"), run="seed 7"))
    assert [e.id for e in some] == ["seed 7@step512", "seed 7@step2000"] and some[0].run == "seed 7"


def test_a_table_adds_attributes(root):
    table = root.parent / "a.csv"
    table.write_text("model,tokens\npythia@step1000,7\npythia@step512,3\n")
    spec = RevisionsSpec(path=str(root), attributes=str(table), revisions=("step512", "step1000"))
    assert [e.attributes["tokens"] for e in Revisions().entries(spec)] == [3, 7]


def test_what_the_hubs_cache_holds_is_read_by_branch_and_commit(hub):
    kept(hub, {"step1000-tokens4B": 1, "step2000-tokens8B": 2, "main": 2, "pr/1": 3})
    pool, spec = Revisions(), RevisionsSpec(path="org/OLMo-1B")
    entries = pool.entries(spec)
    # main is the commit of step2000, which is taken once; a ref in a folder of its own is a name with a slash.
    assert [e.id for e in entries] == [f"OLMo-1B@{r}" for r in ("step1000-tokens4B", "step2000-tokens8B", "pr/1")]
    assert [e.attributes.get("tokens") for e in entries] == [4 * 10**9, 8 * 10**9, None]
    assert [e.step for e in entries] == [1000, 2000, None]
    for entry, seed in zip(entries, (1, 2, 3), strict=True):
        expected = gpt2(seed).state_dict()
        assert all(torch.equal(t, expected[n]) for n, t in pool.load(entry, spec).state_dict().items())
    named = pool.entries(RevisionsSpec(path="org/OLMo-1B", revisions=("main", f"{1:040x}")))
    assert {e.id for e in named} == {"OLMo-1B@main", f"OLMo-1B@{1:040x}"}


def test_the_cache_is_read_without_torch(hub):
    kept(hub, {"step1": 1})
    code = (
        "import sys; from acutance_text.revisions import Revisions, RevisionsSpec;"
        "(entry,) = Revisions().entries(RevisionsSpec(path='org/OLMo-1B')); assert entry.step == 1;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"HF_HUB_CACHE": str(hub)}, check=True, timeout=120)


def refused(match, **settings):
    with pytest.raises(UserError, match=match):
        Revisions().entries(RevisionsSpec(**settings))


def test_a_revision_that_is_not_there_is_told_with_the_nearest(root, hub):
    refused(
        r"has no 'step1900' on disk \(nearest: step2000, step1000, step512\)", path=str(root), revisions=("step1900",)
    )
    refused(r"has no 'stpe512' on disk \(nearest: step512, ", path=str(root), revisions=("stpe512",))
    kept(hub, {"step10-tokens1B": 1, "step20-tokens2B": 2, "main": 4})
    refused(
        r"has no 'step18-tokens2B' on disk \(nearest: step20-tokens2B, step10-tokens1B\) \('hf download org/OLMo-1B "
        r"--revision step18-tokens2B' gets it, and so does --allow-download\)",
        path="org/OLMo-1B", revisions=("main", "step18-tokens2B"),
    )  # fmt: skip
    refused("has no 'x' on disk, nor any other revision", path="org/none", revisions=("x",))
    refused("org/none has no revisions", path="org/none")
    (root / "empty").mkdir()
    refused("has no revisions", path=str(root / "empty"))
    refused("nor any other revision.*give a folder with one for each", path=str(root / "empty"), revisions=("step1",))


def test_downloads_are_made_only_where_they_are_allowed(hub, monkeypatch):
    kept(hub, {"step1": 1})
    asked = []

    def fetch(name, revision, allow_patterns):
        asked.append((name, revision, tuple(allow_patterns)))
        place = kept(hub, {revision: 2}) / "snapshots" / f"{2:040x}"
        if not any("pytorch" in pattern for pattern in allow_patterns):
            (place / "model.safetensors").unlink()
        return str(place)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    spec = RevisionsSpec(path="org/OLMo-1B", revisions=("step1", "step2"))
    with pytest.raises(UserError, match="has no 'step2' on disk"):
        Revisions().entries(spec)
    assert not asked
    monkeypatch.setenv("ACUTANCE_ALLOW_DOWNLOAD", "1")
    assert [e.step for e in Revisions().entries(spec)] == [1, 2]
    # Pickled weights only where there are no others.
    assert [(a[0], a[1], "pytorch_model*.bin" in a[2]) for a in asked] == [
        ("org/OLMo-1B", "step2", False), ("org/OLMo-1B", "step2", True),
    ]  # fmt: skip
    assert [e.step for e in Revisions().entries(spec)] == [1, 2] and len(asked) == 2  # now it is in the cache


def test_what_the_hub_answers_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setenv("ACUTANCE_ALLOW_DOWNLOAD", "1")
    answer = SimpleNamespace(headers={}, request=None, status_code=404, url="")
    for error, match in (
        (RevisionNotFoundError("x", response=answer), r"org/a has no 'step7' \(nearest: step8, step1\)"),
        (RepositoryNotFoundError("x", response=answer), "the hub has no repository 'org/a'"),
        (ConnectionError("no route\nto host"), "'step7' cannot be downloaded: no route"),
    ):

        def fails(*_, error=error, **__):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
        refs = SimpleNamespace(branches=[SimpleNamespace(name="step1")], tags=[SimpleNamespace(name="step8")])
        monkeypatch.setattr(huggingface_hub, "list_repo_refs", lambda _, refs=refs: refs)
        refused(match, path="org/a", revisions=("step7",))


def test_a_trajectory_is_measured(root, tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox " * 20)
    settings = {
        "format": 1, "within": ["run"], "pools": [{"name": "hub_revisions", "path": str(root)}],
        "dataset": {"name": "tokens", "files": {"train": str(tmp_path / "text.txt")}, "block": 16},
        "surface": {"points": 8, "m": 8, "select": "first", "loss": "acutance_text.causal:next_token"},
        "measures": [{"name": "parameter_norm"}], "targets": ["train.loss", "attr:step"],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(settings))
    run = run_study(load_config(tmp_path / "study.yaml"), tmp_path / "run", report=False)
    assert list(run.models["attr.step"]) == [512, 1000, 2000] and set(run.models["attr.run"]) == {"pythia"}
    assert run.models["target.train.loss"].notna().all()


def test_the_pool_conforms(root):
    outcomes = list(examine(catalog().find("pools", "hub_revisions"), spec={"path": str(root)}).run())
    assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert sum(o.state == "passed" for o in outcomes) >= 8


# -- quantized checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq, 4 bits"),
        ({"quant_method": "awq", "w_bit": 4}, "awq, 4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, "bitsandbytes, 8 bits"),
        ({"load_in_4bit": True}, "bitsandbytes, 4 bits"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({}, "by a method that its config does not name"),
    ],
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_quantized_weights_are_refused_by_name(section, said, key, tmp_path):
    gpt2(0).save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), key: section}))
    spec = FolderSpec(path=str(tmp_path / "model"))
    with pytest.raises(UserError, match=rf"model: its weights are quantized \({said}\).*dequantize"):
        Causal().load(Causal().entries(spec)[0], spec)


def test_an_empty_section_is_no_quantization(tmp_path):
    gpt2(0).save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": None}))
    spec = FolderSpec(path=str(tmp_path / "model"))
    assert Causal().load(Causal().entries(spec)[0], spec)
