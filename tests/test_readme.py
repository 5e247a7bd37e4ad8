"""What the README shows does what it says."""

import ast
import itertools
import re
import types
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
import torch
import yaml
from models import MLP, mlp_data

import acutance
from acutance.plugins import load
from acutance.study.config import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_a_number_and_a_study_take_five_lines_each(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    number, study = blocks("python")[:2]
    for source in (number, study):
        torch.manual_seed(0)
        exec(source, {})
        assert len([said for said in ast.parse(source).body if not isinstance(said, ast.Import)]) <= 5
    printed = capsys.readouterr().out
    assert "±" in printed and "worst_case" in printed and "p_adjusted" in printed
    assert list(tmp_path.glob("runs/*/report.html"))


def measures_of(text):
    return [block for block in blocks("python", text) if "def register_measures" in block]


MEASURES = {"readme": measures_of(README), "docs": measures_of((ROOT / "docs" / "plugins.md").read_text())}


@pytest.mark.parametrize("where", MEASURES)
def test_a_measure_is_shown_in_few_lines(where):
    assert min(len([line for line in source.splitlines() if line.strip()]) for source in MEASURES[where]) <= 25


@pytest.mark.parametrize("source", itertools.chain(*MEASURES.values()))
def test_the_third_party_measure_is_a_plugin(source, tmp_path, monkeypatch):
    module = f"acme_readme_{abs(hash(source)):x}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("foo", module, "acutance")
    vars(entry).update(dist=types.SimpleNamespace(name="acme-foo", version="1"))
    found = load([*entry_points(group="acutance"), entry])
    (item,) = [item for item in found.items("measures") if item.dist == "acme-foo"]
    assert not found.problems
    required = {name: 0.05 for name, field in item.target.Spec.model_fields.items() if field.is_required()}
    spec = item.target.Spec(**required)
    value = item.target().evaluate(acutance.LossSurface(MLP(), mlp_data()), spec, acutance.Streams(0))
    assert float(value) > 0


@pytest.mark.parametrize("path", ["README.md", "docs/config.md"])
def test_the_yaml_is_a_study(path):
    for source in blocks("yaml", (ROOT / path).read_text()):
        assert load_config(yaml.safe_load(source)).measures


def test_the_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for place in re.findall(r"`((?:benchmarks|tests|docs)/[^` ]+)`", README):
        assert list(ROOT.glob(place)), place


def test_the_one_call_that_runs_a_study(toy_config, tmp_path):
    run = acutance.run(toy_config, out=tmp_path, overrides={"measures.0.rho": 0.03}, report=False)
    assert run.failed == 0 and 0.03 in set(run.results["spec.rho"]) and run.directory == tmp_path
    assert {"tau", "low", "high"} <= set(run.correlations.columns)


def test_measures_of_a_model_and_its_loader():
    from torch.utils.data import DataLoader, TensorDataset

    x, y = mlp_data(24)
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    found = acutance.measure("average_case", MLP(), loader, rho=0.1, draws=3)
    assert len(found.per_batch) == 3
    assert acutance.measure("average_case", MLP(), loader, m=12, rho=0.1, draws=3).per_batch != found.per_batch
    assert acutance.measure("weight_norm", MLP()).value == pytest.approx(
        float(acutance.LossSurface(MLP(), None).w.norm())
    )
    with pytest.raises(acutance.UserError, match="needs data"):
        acutance.measure("average_case", MLP(), rho=0.1)
    with pytest.raises(acutance.UserError, match="100 examples in a batch, but there are 24 points"):
        acutance.measure("average_case", MLP(), (x, y), m=100, rho=0.1)


def test_the_tables_are_those_of_the_committed_figures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import readme

    for name in readme.PAGES:
        text = (ROOT / name).read_text()
        assert readme.made(text, name) == text, f"{name}: python benchmarks/readme.py makes its tables anew"
        for table in readme.PAGES[name]:
            assert (
                readme.made(re.sub(rf"(readme.py: {table} -->\n).*?(?=<!-- end)", r"\1", text, flags=re.S), name)
                == text
            )
    first = next(iter(readme.cases().values()))
    assert first and readme.made(README.replace("| `average_case` | 0", "| `average_case` | 9")) == README
    assert readme.made(README.replace(" measures | | |", "9 measures | | |")) == README
