"""The loss surface ``w -> L_S(w)`` of one model on one fixed batch of points, and what it stands on."""

from __future__ import annotations

from acutance.surface.loss_surface import LossSurface

__all__ = ["LossSurface"]
