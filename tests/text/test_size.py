"""A model of BERT-base's shape fits: 110 million weights, a batch of 32 texts of 128 tokens."""

import subprocess
import sys

import pytest

CODE = """
import resource, torch, transformers
torch.set_num_threads(2)
import acutance
from acutance import LossSurface
torch.manual_seed(0)
model = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=3)).eval()
ids = torch.randint(5, 30522, (32, 128))
surface = LossSurface(model, ({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.arange(32) % 3))
found = acutance.measure("worst_case", surface, rho=1e-3, norm="linf", scaling="elementwise", steps=2)
assert found.status.value in ("ok", "not_converged") and found.value > 0, found
print(sum(p.numel() for p in model.parameters()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, found.value)
"""


@pytest.mark.slow
def test_worst_case_of_bert_base_within_12_gib():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    parameters, gib, _ = map(float, found.stdout.split())
    assert 109e6 < parameters < 110e6 and gib < 12, found.stdout
    print(f"peak {gib:.1f} GiB")
