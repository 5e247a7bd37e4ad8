r"""Propositions 1 and 2 of the paper, held against the loss itself at a small radius.

Proposition 2: average-case sharpness tends to :math:`\frac{\rho^2}{2} tr(H_c)` for Gaussian noise, and to a third of
that for noise uniform in the box. Proposition 1: worst-case sharpness in the l2 ball tends to
:math:`\rho \|c \odot \nabla L\|_2`, or, where the gradient vanishes, to :math:`\frac{\rho^2}{2} \lambda_{max}(H_c)`.
"""

from __future__ import annotations

from typing import Any

import torch

from acutance.numerics.auto_pgd import auto_pgd
from acutance.numerics.balls import L2
from acutance.numerics.slopes import Slope
from acutance.numerics.traces import mean_and_error
from acutance_hessian.operators import Curvature
from acutance_hessian.spec import CHECK_PAIRS, CHECK_STEPS


def average_case(curvature: Curvature, trace: float, rho: float) -> dict[str, Any]:
    """Return the predicted and the measured average-case sharpness at a radius, for both kinds of noise.

    Draws come in pairs of opposite sign: odd terms of the loss, the gradient above all, cancel.
    """
    view = curvature.view
    checks: dict[str, Any] = {}
    clean, point = float(view.clean().loss), view.moving_point(curvature.c)
    for name, draw, share in (("gaussian", curvature.gaussian, 1.0), ("uniform", curvature.uniform, 1 / 3)):
        rises = []
        for k in range(CHECK_PAIRS):
            noise = draw(k)
            ends = [float(point.move(noise, sign * rho).value().loss) for sign in (1, -1)]
            rises.append(sum(ends) / 2 - clean)
        measured, stderr = mean_and_error(rises)
        checks |= {
            f"{name}_predicted": share * rho**2 / 2 * trace,
            f"{name}_measured": measured,
            f"{name}_stderr": stderr,
        }
    return {"check_rho": rho, **checks}


def worst_case(curvature: Curvature, eigenvalue: float, rho: float) -> dict[str, Any]:
    """Return both predictions of worst-case sharpness in the l2 ball, the measured one, and which term is larger."""
    view, c = curvature.view, curvature.c
    clean, g = view.gradient()
    slope = Slope([g], c)
    first = rho * float(torch.linalg.vector_norm(slope.flat(), dtype=torch.float64))
    second = rho**2 / 2 * max(eigenvalue, 0.0)
    ball, objective = L2(rho), view.perturbed(c)
    starts = [ball.random(curvature.gaussian(0), 0.5)]
    if first > 0:
        starts.append(ball.steepest(slope))
    best = max(float(auto_pgd(objective, start, ball, CHECK_STEPS).value) for start in starts)
    return {
        "check_rho": rho,
        "first_order_predicted": first,
        "second_order_predicted": second,
        "measured": max(best - float(clean), 0.0),
        "first_order_share": first / (first + second) if first + second > 0 else 0.0,
        "branch": "first order" if first >= second else "second order",
    }
