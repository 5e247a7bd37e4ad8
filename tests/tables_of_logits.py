"""A model whose logits are its parameters: any outputs one likes, on the points and on validation points."""

import torch
from torch import nn

import acutance


class Table(nn.Module):
    def __init__(self, logits, scale=1.0):
        super().__init__()
        self.scale = scale
        logits = torch.as_tensor(logits, dtype=torch.float64)
        finite = logits.isfinite()
        self.logits = nn.Parameter(logits.masked_fill(~finite, 0.0))
        self.ends = None if finite.all() else logits.masked_fill(finite, 0.0)  # no parameter may be infinite

    def forward(self, x):
        rows = x.long().flatten()
        found = self.scale * self.logits[rows]
        return found if self.ends is None else found + self.ends[rows]


def measured(name, logits, targets=None, validation=None, scale=1.0, **fields):
    """Return a measure's estimate on a table; ``validation``: its logits and labels."""
    logits = torch.as_tensor(logits, dtype=torch.float64)
    n, beside = len(logits), None
    if validation is not None:
        others = torch.as_tensor(validation[0], dtype=torch.float64)
        logits = torch.cat([logits, others])
        beside = (torch.arange(n, n + len(others)).double()[:, None], torch.as_tensor(validation[1]))
    points = (torch.arange(n).double()[:, None], None if targets is None else torch.as_tensor(targets))
    return acutance.measure(name, Table(logits, scale), points, validation=beside, **fields)
