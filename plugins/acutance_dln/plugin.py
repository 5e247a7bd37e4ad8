"""What this plugin registers."""

from __future__ import annotations
