"""Small models and data shared by the tests."""

import torch

# What the kit for plugin authors ships is what the tests use.
from acutance.testing.models import MLP, Attention, ConvBN, Weights, conv_data, mlp_data, seeded, token_data

__all__ = ["MLP", "Attention", "ConvBN", "Weights", "conv_data", "mlp_data", "seeded", "token_data"]


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
