"""Small models and data shared by the tests."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Weights(nn.Module):
    """A model that is its weights: the loss can be any function of them."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        return self.w.expand(len(x), -1)


class MLP(nn.Module):
    def __init__(self, activation=torch.tanh, dims=(6, 10, 4), dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(a, b, dtype=dtype) for a, b in itertools.pairwise(dims))
        self.activation = activation

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class ConvBN(nn.Module):
    """conv -> BN -> ReLU -> conv -> BN -> ReLU -> pool -> linear, with running statistics that are not trivial."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 3)
        with torch.no_grad():
            for bn in (self.bn1, self.bn2):
                bn.weight.uniform_(0.5, 1.5)
                bn.bias.normal_()
                bn.running_mean.normal_()
                bn.running_var.uniform_(0.5, 2)
                bn.eps = 0.0
        self.double().eval()

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
    """One pre-norm transformer block with separate query, key, value and output maps, and a ReLU MLP."""

    def __init__(self, dim=8, heads=2, classes=3):
        super().__init__()
        torch.manual_seed(2)
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.head = nn.Linear(dim, classes)
        with torch.no_grad():
            for norm in (self.norm1, self.norm2):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(std=0.3)
        self.double()

    def forward(self, x):
        n, t, d = x.shape

        def split(z):
            return z.view(n, t, self.heads, d // self.heads).transpose(1, 2)

        y = self.norm1(x)
        a = F.scaled_dot_product_attention(split(self.q(y)), split(self.k(y)), split(self.v(y)))
        x = x + self.o(a.transpose(1, 2).reshape(n, t, d))
        x = x + self.down(F.relu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def mlp_data(n=24, classes=4, seed=5):
    g = seeded(seed)
    return torch.randn(n, 6, generator=g, dtype=torch.float64), torch.randint(0, classes, (n,), generator=g)


def conv_data(n=12, seed=6):
    g = seeded(seed)
    return torch.randn(n, 2, 5, 5, generator=g, dtype=torch.float64), torch.randint(0, 3, (n,), generator=g)


def token_data(n=10, seed=7):
    g = seeded(seed)
    return torch.randn(n, 4, 8, generator=g, dtype=torch.float64), torch.randint(0, 3, (n,), generator=g)


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
