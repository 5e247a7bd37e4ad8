"""Weights & Biases, offline unless somebody says otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import Field

from acutance.pool import Attribute
from acutance_trackers.shown import Shown
from acutance_trackers.tracker import ProjectSpec, Tracker, at

FLUSH = "x_transaction_log_flush_interval"
PATIENCE = 10.0  # seconds to wait for a run that is still being closed


class WandbSpec(ProjectSpec):
    """Settings of Weights & Biases."""

    folder: Annotated[str, Field(min_length=1)] = "wandb"
    """Where its files lie: a folder ``wandb``, or one that gets it; in the run directory, or an absolute path."""
    mode: Literal["offline", "online"] = "offline"
    """``offline`` writes files, which ``wandb sync`` sends later; ``online`` sends at once, by its own login."""
    entity: str | None = None
    """User or team that the project belongs to; that of the login by default."""


class WeightsAndBiases(Tracker[WandbSpec]):
    """Runs of Weights & Biases, offline by default: a metric a measure with the training's step as its axis.

    A training that goes on is the run of the same id: ``wandb sync`` puts its offline folders together.
    """

    name = "wandb"
    packages = {"wandb": "wandb>=0.19.10"}
    most_open = 512  # to open one again takes seconds

    def prepare(self) -> None:
        """Keep it from reporting its own errors over the network."""
        if self.spec.mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

    def begin(self, new: Shown, known: str, facts: Mapping[str, Attribute]) -> tuple[str, Any]:
        """Open a run beside whatever runs the user has open."""
        found = known or uuid4().hex[:12]
        above = self.folder.parent if self.folder.name == "wandb" else self.folder
        run = self._opened(new.run, found, above, facts)
        if new.step is not None:
            run.define_metric("step", hidden=True)
            run.define_metric("*", step_metric="step")
        return found, run

    def _opened(self, name: str, id: str, above: Path, facts: Mapping[str, Attribute]) -> Any:
        """Open a run; the process that keeps the files lets go of one that was finished only after a while."""
        import wandb

        settings = {"console": "off", "silent": True, "disable_git": True, "save_code": False}
        if FLUSH in wandb.Settings.model_fields:  # else what it has not written for 15 s is lost when we are killed
            settings[FLUSH] = 0.1
        until = time.monotonic() + PATIENCE
        while True:
            # Its folder is named after the second: another one in the same second would write over it.
            recent = (path.stat().st_mtime for path in (above / "wandb").glob(f"*run-*-{id}"))
            if time.time() - max(recent, default=0.0) > 1.1:
                try:
                    return wandb.init(
                        project=self.project, entity=self.spec.entity, name=name, id=id, resume="allow",
                        mode=self.spec.mode, dir=str(above), config=dict(facts), reinit="create_new",
                        settings=wandb.Settings(**settings),
                    )  # fmt: skip
                except Exception as error:
                    if "in use" not in str(error) or time.monotonic() > until:
                        raise
            time.sleep(0.1)

    def log(self, run: Any, numbers: Mapping[str, float], texts: Mapping[str, str], step: int | None) -> None:
        """Log numbers over the step; texts go to the run's summary."""
        if numbers:
            run.log(dict(numbers) if step is None else {**numbers, "step": step})
        for name, text in texts.items():
            run.summary[name] = at(step, text)

    def end(self, run: Any) -> None:
        """Finish the run."""
        run.finish()
