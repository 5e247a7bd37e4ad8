"""Dense symmetric matrices with known spectra."""

import torch


def seeded(k=0):
    return torch.Generator().manual_seed(k)


SPECTRA = {
    "flat": lambda p: torch.randn(p, generator=seeded(9), dtype=torch.float64),
    "power": lambda p: (1 + torch.arange(p, dtype=torch.float64)) ** -1.5,
    "exponential": lambda p: 0.7 ** torch.arange(p, dtype=torch.float64),
    "low_rank": lambda p: (torch.arange(p) < 5) * (1.0 + torch.arange(p, dtype=torch.float64)),
    "more_negative": lambda p: torch.cat([-10 * 0.8 ** torch.arange(p // 2), 3 * 0.8 ** torch.arange(p - p // 2)]).double(),
    "negative": lambda p: -1 - torch.arange(p, dtype=torch.float64),
}  # fmt: skip


def matrix(spectrum, p=80):
    q, _ = torch.linalg.qr(torch.randn(p, p, generator=seeded(1), dtype=torch.float64))
    return (q * SPECTRA[spectrum](p)) @ q.T
