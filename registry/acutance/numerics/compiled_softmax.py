"""Softmax cross-entropy and its gradient, compiled: one walk over logits, in double precision."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np


def _cross_entropy(logits: Any, targets: Any, gradient: Any) -> Any:
    """Return the mean loss of n rows of logits, (n, K), and write its gradient in them, (n, K)."""
    n, classes = logits.shape
    terms, total = np.empty(classes), 0.0
    for i in range(n):
        top = -math.inf
        for k in range(classes):
            top = max(top, float(logits[i, k]))
        partition = 0.0
        for k in range(classes):
            terms[k] = math.exp(float(logits[i, k]) - top)
            partition += terms[k]
        for k in range(classes):
            gradient[i, k] = terms[k] / partition / n
        label = targets[i]
        gradient[i, label] = (terms[label] / partition - 1.0) / n
        total += math.log(partition) - (float(logits[i, label]) - top)
    return total / n


try:
    cross_entropy: Any = numba.njit(cache=True, nogil=True)(_cross_entropy)
except RuntimeError:  # there is no place to keep compiled code in
    cross_entropy = numba.njit(nogil=True)(_cross_entropy)
