"""TensorBoard: event files in the run directory."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from acutance.pool import Attribute
from acutance.spec import digest
from acutance_trackers.shown import Shown
from acutance_trackers.tracker import FolderSpec, Tracker


class TensorBoardSpec(FolderSpec):
    """Settings of TensorBoard."""

    folder: Annotated[str, Field(min_length=1)] = "tensorboard"
    """What ``tensorboard --logdir`` reads, a folder a run: in the run directory, or an absolute path."""


class TensorBoard(Tracker[TensorBoardSpec]):
    """Event files of TensorBoard: a scalar a metric; what has no number is a text.

    A training that goes on takes back the points from its first step on: TensorBoard shows what comes after.
    """

    name = "tensorboard"
    packages = {"torch.utils.tensorboard": "tensorboard>=2.14"}
    remembers = False
    most_open = 32

    def begin(self, new: Shown, known: str, facts: Mapping[str, Attribute]) -> tuple[str, Any]:
        """Open an event file in the folder of a run."""
        from torch.utils.tensorboard import SummaryWriter

        name = re.sub(r"[^\w.+=@ -]", "_", new.run)
        folder = self.folder / (name if name == new.run and name.strip(".") else f"{name}-{digest(new.run)[:8]}")
        before = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
        goes_on = bool(before)
        # Files are read in the order of their names, which begin with the second: ours has to be the last.
        while goes_on and f"{int(time.time()):010d}" == max(before):
            time.sleep(0.05)
        writer = SummaryWriter(str(folder), purge_step=new.step if goes_on else None)
        if not goes_on:
            writer.add_text("facts", "\n".join(f"* {name}: {value}" for name, value in facts.items()), new.step or 0)
        return str(folder), writer

    def log(self, run: Any, numbers: Mapping[str, float], texts: Mapping[str, str], step: int | None) -> None:
        """Write scalars and texts, and hand them to the system."""
        for name, value in numbers.items():
            run.add_scalar(name, value, step or 0)
        for name, text in texts.items():
            run.add_text(name, text, step or 0)
        run.flush()

    def end(self, run: Any) -> None:
        """Close the file."""
        run.close()
