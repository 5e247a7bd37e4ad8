"""MLflow, in a database in the run directory unless somebody names a server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field

from acutance.pool import Attribute
from acutance_trackers.shown import Shown, plain
from acutance_trackers.tracker import ProjectSpec, Tracker, at

PACKAGE = "mlflow>=3"
LONGEST = 4000  # characters of a tag that every store takes


class MLflowSpec(ProjectSpec):
    """Settings of MLflow."""

    folder: Annotated[str, Field(min_length=1)] = "mlflow"
    """Where its database ``mlflow.db`` lies: a folder in the run directory, or an absolute path."""
    uri: str | None = None
    """Tracking server or database in place of the folder's, as ``http://localhost:5000``."""


class MLflow(Tracker[MLflowSpec]):
    """Runs of MLflow in an experiment, by default in a database in the run directory.

    Names have no brackets there: ``average_case(rho=0.1)/value`` is ``average_case rho:0.1/value``.
    """

    name = "mlflow"
    packages = {"mlflow": PACKAGE}

    @property
    def is_local(self) -> bool:
        """Whether no server is named."""
        return self.spec.uri is None

    def prepare(self) -> None:
        """Keep it from telling its makers how it is used."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

    def start(self) -> None:
        """Find or make the experiment."""
        from mlflow import MlflowClient

        if self.is_local:
            self.require("sqlalchemy", PACKAGE)  # which mlflow-skinny lacks
        uri = self.spec.uri or f"sqlite:///{self.folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(self.project)
        artifacts = (self.folder / "artifacts").as_uri() if self.is_local else None
        self._experiment = (
            known.experiment_id if known else self._client.create_experiment(self.project, artifact_location=artifacts)
        )

    def begin(self, new: Shown, known: str, facts: Mapping[str, Attribute]) -> tuple[str, Any]:
        """Make a run, or go on with one."""
        if known:
            with suppress(Exception):  # one that was deleted is made anew
                self._client.update_run(known, status="RUNNING")
                return known, known
        run = self._client.create_run(self._experiment, run_name=new.run)
        for name, value in facts.items():
            self._client.log_param(run.info.run_id, named(name), plain(value)[:500])
        return run.info.run_id, run.info.run_id

    def log(self, run: Any, numbers: Mapping[str, float], texts: Mapping[str, str], step: int | None) -> None:
        """Log metrics; texts are tags."""
        for name, value in numbers.items():
            self._client.log_metric(run, named(name), value, step=step or 0)
        for name, text in texts.items():
            self._client.set_tag(run, named(name), at(step, text)[:LONGEST])

    def end(self, run: Any) -> None:
        """Say that the run has ended."""
        self._client.set_terminated(run)


def named(name: str) -> str:
    """Return a name that MLflow takes: letters, digits, and ``_ - . / :`` with spaces."""
    return re.sub(r"[^\w\-. :/]", "_", re.sub(r"[(,]", " ", name).replace(")", "").replace("=", ":"))
