"""The 100 BERTs of McCoy et al. (2020)."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from published_text import tensorflow_arrays

from acutance import UserError
from acutance_text.feather import BertFeather, FeatherSpec, from_tensorflow, published

TABLE = Path(__file__).parents[3] / "shared" / "data" / "hans" / "berts_of_a_feather_accuracies_by_run.csv"


def test_weights_of_tensorflow_become_the_classifier(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config)
    arrays = tensorflow_arrays(model)
    arrays |= {f"{n}/adam_m": a for n, a in list(arrays.items())}
    (tmp_path / "bert_config.json").write_text(json.dumps(config.to_dict()))
    found = from_tensorflow(tmp_path, arrays, "x").state_dict()
    assert all(torch.equal(t, found[n]) for n, t in model.state_dict().items())
    del arrays["output_bias"]
    with pytest.raises(UserError, match=r"missing: classifier\.bias"):
        from_tensorflow(tmp_path, arrays, "x")


def test_a_subset_is_drawn_by_its_seed(tmp_path):
    for i in range(10):
        folder = tmp_path / f"bert_{i}"
        folder.mkdir()
        (folder / "model.ckpt.data-00000-of-00001").touch()
    ids = lambda **k: [e.id for e in BertFeather().entries(FeatherSpec(path=str(tmp_path), **k))]  # noqa: E731
    assert len(ids()) == 10 and len(ids(subset=5)) == 5
    assert ids(subset=5) == ids(subset=5) != ids(subset=5, seed=1)
    assert all(ids(subset=5, seed=i) == sorted(ids(subset=5, seed=i)) for i in range(3))  # in the order of the runs
    with pytest.raises(UserError, match="subset"):
        ids(subset=11)


def test_published_accuracies_are_errors_of_their_splits(tmp_path):
    names = ["MNLI dev acc.", "Lexical (nonent)", "Subseq (nonent)", "Constituent (nonent)"]
    (tmp_path / "t.csv").write_text(f"Run,{','.join(names)}\nRun 3,0.75,0.5,0.25,0\nAverage,1,1,1,1\n")
    targets = ["published_mnli", *(f"published_hans_{name}" for name in ("lexical", "subsequence", "constituent"))]
    assert published(tmp_path / "t.csv") == {3: dict(zip(targets, (0.25, 0.5, 0.75, 1.0), strict=True))}


@pytest.mark.skipif(not TABLE.is_file(), reason="the published table is absent")
def test_published_errors_have_the_spread_that_the_paper_states():
    table = published(TABLE)
    assert sorted(table) == list(range(100))
    lexical = [1 - row["published_hans_lexical"] for row in table.values()]
    assert 0.04 < min(lexical) < 0.07 and 0.5 < max(lexical) < 0.57  # "from 5% to 55%"
