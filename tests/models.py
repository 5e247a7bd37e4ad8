"""Small models and data shared by the tests."""

import torch
from torch import nn

# What the kit for plugin authors ships is what the tests use.
from acutance.testing.models import MLP, Attention, ConvBN, Weights, conv_data, mlp_data, seeded, token_data

__all__ = ["MLP", "Attention", "ConvBN", "Weights", "conv_data", "mlp_data", "seeded", "token_data"]


class Tied(nn.Module):
    """Dict inputs, a tied embedding, a frozen layer, an unused parameter, exact zeros, a buffer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(7, 4)
        self.frozen = nn.Linear(4, 4)
        self.unused = nn.Parameter(torch.randn(3))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.frozen.requires_grad_(False)
        self.register_buffer("shift", torch.randn(4))
        with torch.no_grad():
            self.embed.weight[0] = 0
        self.double()

    def forward(self, tokens, mask):
        return self.head(torch.tanh(self.frozen((self.embed(tokens) * mask[..., None]).sum(1))) + self.shift)


def tied_data():
    tokens = torch.randint(0, 7, (9, 5), generator=seeded(0))
    return {"tokens": tokens, "mask": torch.ones(9, 5)}, torch.randint(0, 7, (9,), generator=seeded(1))


def dense_hessian(surface):
    """(p, p) Hessian, column by column."""
    return torch.stack([surface.hvp(e) for e in torch.eye(surface.w.numel(), dtype=surface.w.dtype)])


def snapshot(model):
    """Everything a measure must leave alone."""
    return {
        "state": {k: v.clone() for k, v in model.state_dict(keep_vars=False).items()},
        "pointers": [p.data_ptr() for p in model.parameters()],
        "identities": [id(p) for p in model.parameters()],
        "buffers": [id(b) for b in model.buffers()],
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "rng": torch.get_rng_state(),
    }


def assert_untouched(model, before):
    after = snapshot(model)
    for name in ("pointers", "identities", "buffers", "training", "requires_grad"):
        assert after[name] == before[name], name
    assert torch.equal(after["rng"], before["rng"])
    assert after["state"].keys() == before["state"].keys()
    for key, value in before["state"].items():
        assert torch.equal(after["state"][key], value), key
    for a, b in zip(after["grad"], before["grad"], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def positive_eps():
    """Return ConvBN as cuDNN takes it: it has no batch normalization with eps = 0."""
    model = ConvBN()
    model.bn1.eps = model.bn2.eps = 1e-5
    return model
