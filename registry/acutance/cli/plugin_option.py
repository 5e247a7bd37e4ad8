"""The option ``--plugin`` of verbs that read no study: plugins of one file each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from acutance import plugin_files

Command = TypeVar("Command", bound=Callable[..., Any])


def _adopt(context: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> None:
    if paths:
        plugin_files.adopted([plugin_files.read(path) for path in paths])


def plugin_option(command: Command) -> Command:
    """Give a verb the option; what the files register is known before the verb begins."""
    option = click.option(
        "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), expose_value=False, is_eager=True,
        callback=_adopt, help="A plugin of one file, NAME.py; may be given again.",
    )  # fmt: skip
    return option(command)
