"""What a run says of the parameters of its models: tied ones, and those that have no effect on the loss."""

import torch
from acme_toy.plugin import ToyPool
from torch import nn

from acutance import LossSurface
from acutance.plugins import Item, extended
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.system.progress import Silent


class TwoHeads(nn.Module):
    """Reads a matrix twice, and has a pooler that nobody asks."""

    def __init__(self, inputs, classes):
        super().__init__()
        self.first = nn.Linear(inputs, inputs, bias=False)
        self.second = nn.Linear(inputs, inputs, bias=False)
        self.second.weight = self.first.weight
        self.pooler = nn.Linear(inputs, 3)
        self.out = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.out(self.second(torch.relu(self.first(x))))


def test_parameters_without_effect_are_found_without_a_pass():
    torch.manual_seed(0)
    surface = LossSurface(TwoHeads(4, 3), (torch.randn(8, 4), torch.arange(8) % 3))
    assert surface.silent() == []  # nobody has asked for the gradient
    surface.loss()
    assert surface.silent() == []
    surface.gradient()
    before = surface.cost
    assert surface.silent() == ["pooler.weight", "pooler.bias"] and surface.cost == before
    assert surface.restricted("out.*").silent() == []


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_a_run_says_it_once_for_all_models_of_an_architecture(toy_config, tmp_path):
    class Headed(ToyPool):
        name = "headed"

        def load(self, entry, spec):
            first = next(p for p in super().load(entry, spec).parameters() if p.dim() == 2)
            torch.manual_seed(len(entry.id))
            return TwoHeads(first.shape[1], 3)

    reporter = Lines()
    config = toy_config | {"pools": [{"name": "headed", "size": 4}]}
    with extended([Item("pools", "headed", "acme-toy", "1.2", Headed)]):
        run = run_study(load_config(config), tmp_path, report=False, reporter=reporter)
    assert not run.failed
    notes = [line for line in reporter.lines if line.startswith("note: ")]
    architectures = run.models["architecture"].nunique()
    for text in ("one parameter by the names first.weight and second.weight", "no effect on the loss of the first m-batch: pooler.bias, pooler.weight"):  # fmt: skip
        assert sum(text in note for note in notes) == architectures


def test_the_versions_of_a_split_are_in_the_results(toy_config, tmp_path, monkeypatch):
    from dataclasses import replace

    from acme_toy.plugin import ToyData

    opened = ToyData.open
    monkeypatch.setattr(
        ToyData, "open", lambda self, split: replace(opened(self, split), versions=2 if split == "ood" else 1)
    )
    run = run_study(load_config(toy_config), tmp_path, report=False)
    errors = run.results[run.results["measure"] == "error"].set_index("split")["extra.versions"]
    assert (errors["ood"].astype(float) == 2).all() and errors["test"].isna().all()
