"""Small language models that are trained on first use, over learning rate, weight decay and SAM."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from published_text import write_ratings
from safetensors.torch import load_file
from torch import nn

from acutance import UserError
from acutance.io.training_log import read_training_log
from acutance.plugins import catalog
from acutance.study.config import load_config
from acutance.testing.core import examine
from acutance.training.recipe import Recipe, learning_rate_at
from acutance_text.finetuning import loss_of, train_on_blocks
from acutance_text.trained_lm import LanguageRecipe, TrainedCausal, TrainedCausalSpec

TINY = {"hidden": 16, "layers": 1, "heads": 2, "positions": 16, "size": 4, "batch_size": 4}


@pytest.fixture
def spec_of(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    write_ratings(tmp_path)

    def made(**settings):
        data = {"root": str(tmp_path), "block": 16, "train_points": 20}
        return TrainedCausalSpec(**{**TINY, "epochs": 2, "settings": data, **settings})

    return made


def test_models_cover_learning_rates_and_every_pair_of_decay_and_sam():
    pool = TrainedCausal()
    small, large = (pool.entries(TrainedCausalSpec(size=n)) for n in (4, 12))
    assert list(large[:4]) == list(small) and large[0].id == "gpt2_000" and large[0].train_set == "sentiment4_tokens"
    pairs = [(e.attributes["weight_decay"], e.attributes["sam_rho"]) for e in large]
    assert all(pairs.count(pair) == 3 for pair in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.05), (0.1, 0.05)))
    rates = sorted(math.log10(e.attributes["learning_rate"]) for e in large)
    gaps = [b - a for a, b in zip([-3, *rates], [*rates, -2], strict=True)]
    assert -3 <= rates[0] and rates[-1] <= -2 and max(gaps) < 0.2  # none is far from the next one
    other = pool.entries(TrainedCausalSpec(size=4, settings={"block": 64, "root": "/anywhere"}))
    assert other[0].train_set == "sentiment4_tokens[block=64]" and other[0].path != small[0].path


def test_listing_needs_no_torch():
    code = (
        "import sys; from acutance.plugins import catalog; p = catalog().get('pools', 'causal_trained')();"
        "s = p.Spec(); e = p.entries(s); assert len(p.missing(e, s)) == len(e) == 12;"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_model_learns_and_is_the_same_every_time(spec_of, architecture):
    pool, spec = TrainedCausal(), spec_of(architecture=architecture, epochs=8, learning_rate_min=1e-2)
    entry = pool.entries(spec)[3]
    assert entry.attributes["sam_rho"] == 0.05
    state = torch.get_rng_state()
    facts = pool.build(entry, spec)
    assert torch.equal(torch.get_rng_state(), state) and not facts["diverged"] and facts["epochs"] == 8
    first = {name: tensor.clone() for name, tensor in load_file(entry.path).items()}
    os.remove(entry.path)
    pool.build(entry, spec)
    assert all(torch.equal(tensor, first[name]) for name, tensor in load_file(entry.path).items())
    ids = pool.data(spec).open("train").targets
    with torch.no_grad():
        before, after = (float(loss_of(m, ids)()) for m in (pool.initial(entry, spec), pool.load(entry, spec)))
    assert after < 3.5 < 5 < before < 6  # ln 257 = 5.55 at random weights


def by_hand(model, ids, recipe):
    """AdamW (Loshchilov and Hutter 2019, Algorithm 2) on SAM's gradient, written out for one epoch."""
    parameters = list(model.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    schedule = Recipe(learning_rate=recipe.learning_rate, epochs=1, warmup=recipe.warmup)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(recipe.seed * 1_000_003))
    batches = order.split(recipe.batch_size)
    for step, rows in enumerate(batches):

        def loss(rows=rows):
            logits = model(input_ids=ids[rows]).logits[:, :-1]
            chosen = logits.gather(2, ids[rows][:, 1:, None])[..., 0]
            return (logits.logsumexp(2) - chosen).mean()

        g = torch.autograd.grad(loss(), parameters)
        norm = torch.cat([x.flatten() for x in g]).norm()
        with torch.no_grad():
            for p, x in zip(parameters, g, strict=True):
                p += recipe.sam_rho * x / norm
        sam = torch.autograd.grad(loss(), parameters)
        with torch.no_grad():
            for p, x in zip(parameters, g, strict=True):
                p -= recipe.sam_rho * x / norm
            clip = min(1.0, 1.0 / (float(torch.cat([x.flatten() for x in sam]).norm()) + 1e-6))
            rate, t = learning_rate_at(schedule, step, len(batches)), step + 1
            for p, x, (m, v) in zip(parameters, sam, moments, strict=True):
                m.mul_(0.9).add_(0.1 * clip * x)
                v.mul_(0.999).add_(0.001 * (clip * x) ** 2)
                if p.dim() > 1:
                    p *= 1 - rate * recipe.weight_decay
                p -= rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


@pytest.mark.parametrize("settings", [{}, {"sam_rho": 0.3, "weight_decay": 2.0}])
def test_steps_are_those_of_adamw_on_the_gradient_of_sam(settings):
    recipe = LanguageRecipe(learning_rate=0.01, epochs=1, batch_size=4, seed=5, **settings)
    ids = torch.randint(30, (10, 6), generator=torch.Generator().manual_seed(0))
    models = []
    for train in (train_on_blocks, by_hand):
        torch.manual_seed(1)
        models.append(TrainedCausal().network(TrainedCausalSpec(**{**TINY, "vocabulary": 30})).double())
        train(models[-1], ids, recipe)
    # The loss of training is taken in float32.
    for ours, theirs in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


def test_training_writes_down_what_it_did(spec_of):
    pool, spec = TrainedCausal(), spec_of()
    entry = pool.entries(spec)[0]
    facts = pool.build(entry, spec)
    log = read_training_log(Path(entry.log))
    assert log.column("step") == (5, 10) and log.column("epoch") == (1, 2)
    assert log.column("train_loss")[-1] == facts["loss"] and min(log.column("gradient_norm")) > 0
    recipe = pool.recipe(spec, 0)
    schedule = Recipe(learning_rate=recipe.learning_rate, epochs=2, warmup=recipe.warmup)
    assert log.column("learning_rate") == tuple(learning_rate_at(schedule, step, 10) for step in (4, 9))


def test_a_training_that_diverges_says_so():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(math.inf))

        def forward(self, input_ids):
            return type("Out", (), {"logits": self.w * torch.ones(*input_ids.shape, 3)})

    found = train_on_blocks(Broken(), torch.zeros(2, 3, dtype=torch.long), LanguageRecipe(learning_rate=1, epochs=3))
    assert found.diverged and found.epochs == 0


def test_what_is_wrong_is_told(spec_of):
    pool = TrainedCausal()
    for settings, message in (({"hidden": 15}, "no multiple of the 2 heads"), ({"learning_rate_min": 1.0}, "above")):
        with pytest.raises(ValueError, match=message):
            spec_of(**settings)
    for settings, message in (
        ({"vocabulary": 100}, r"pools: vocabulary: 100 tokens, but the dataset has 257 \(write 257\)"),
        ({"positions": 8}, r"pools: positions: 8, but blocks have 16 tokens \(write 16\)"),
        ({"dataset": "token"}, "unknown dataset 'token'"),
    ):
        spec = spec_of(**settings)
        with pytest.raises(UserError, match=message):
            pool.build(pool.entries(spec)[0], spec)


def test_the_pool_conforms(spec_of):
    spec = spec_of(size=3, epochs=1)
    outcomes = list(examine(catalog().find("pools", "causal_trained"), spec=spec.model_dump()).run())
    assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert sum(o.state == "passed" for o in outcomes) >= 9


def test_the_preset_trains_on_what_it_measures():
    study = load_config("tiny_lm")
    pool, data = study.pools[0].spec, study.dataset.spec
    assert pool.size == 12 and {name: getattr(data, name) for name in pool.settings} == pool.settings
    assert pool.positions == data.block


def test_texts_of_ones_own_are_trained_on_and_tell_models_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("books.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 40)
    Path("news.txt").write_text("rain is said to fall on the hills. " * 40)
    settings = {"files": {"train": ["books.txt"], "test": "news.txt"}, "block": 16}
    pool, spec = TrainedCausal(), TrainedCausalSpec(**TINY, epochs=2, dataset="tokens", settings=settings)
    entry = pool.entries(spec)[0]
    assert entry.train_set.startswith("tokens[block=16,files=")
    assert not pool.build(entry, spec)["diverged"] and not pool.missing([entry], spec)
    moved = pool.entries(spec.model_copy(update={"settings": {**settings, "files": {"train": "books.txt"}}}))[0]
    assert moved.train_set != entry.train_set
    assert pool.entries(spec)[0] == entry
    Path("books.txt").write_text("the cow sat on the mat and the dog sat on the log. " * 40)
    assert pool.missing(pool.entries(spec), spec) == pool.entries(spec)  # of other texts no model is there
    wrong = TrainedCausalSpec(**TINY, dataset="tokens", settings={"files": {"train": "nowhere.txt"}})
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        pool.entries(wrong)
