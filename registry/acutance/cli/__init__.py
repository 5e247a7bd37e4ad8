"""The command line: one file a verb, imported on use, so that help and lists answer at once."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import Any

import click

from acutance import __version__
from acutance.cli.screen import FAILURES, echo, escape_output
from acutance.errors import UserError, refuse_unfit_torchvision
from acutance.system.ending import in_order, what_is_left
from acutance.system.memory import keep_freed

VERBS = {
    "list": "What is installed, and from which distribution.",
    "show": "One measure, pool, dataset ...: its doc, fields, formula, reference.",
    "check": "Validate a study; print its cells, passes and memory, without running.",
    "calibrate": "Propose radii for the measures of a study.",
    "run": "Run or resume a study.",
    "sweep": "Run a study at several values of a setting.",
    "measure": "One measure on one checkpoint, without a config file.",
    "landscape": "The loss of a model along directions in its weights: table, pictures, page.",
    "rank": "Which of several models will do best on points without labels.",
    "results": "The tables of a run.",
    "report": "Write the HTML page of a run again.",
    "compare": "Two runs, or a run and the paper's correlations, side by side.",
    "correlate": "The statistics on any table, also one made elsewhere.",
    "merge": "Runs of one study, made apart, as one run.",
    "schema": "JSON schema of the study file, for completion in an editor.",
    "new": "Write a package with a measure, pool or dataset of your own.",
    "conform": "Hold a plugin against what the harness expects of it.",
    "doctor": "Health of the installation and of its plugins.",
}


# Error numbers with which a file system or a device refuses to write: no bug of this package.
DENIED = {getattr(errno, name) for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENAMETOOLONG")}


class Verbs(click.Group):
    """Imports the file of a verb when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a study's life."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command of a verb."""
        if name not in VERBS:
            return None
        command: click.Command = import_module(f"acutance.cli.{name}_").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest verb for an unknown one."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from acutance.errors import did_you_mean

            raise click.UsageError(f"unknown verb '{args[0]}'; {did_you_mean(args[0], list(VERBS))}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="acutance")
@click.option("--strict-plugins", is_flag=True, help="Exit with 3 when any plugin has a problem.")
@click.option("--traceback", is_flag=True, help="Show the traceback of a user error.")
@click.pass_context
def cli(ctx: click.Context, strict_plugins: bool, traceback: bool) -> None:
    """Does this measure, on this pool of models, predict which model generalizes?"""
    ctx.obj = {"strict": strict_plugins, "traceback": traceback}
    if ctx.invoked_subcommand != "doctor" and ctx.invoked_subcommand is not None and "--help" not in sys.argv:
        report_problems(strict_plugins)


def report_problems(strict: bool) -> None:
    """Print one line for each plugin problem; under ``--strict-plugins`` end with 3."""
    from acutance.plugins import catalog

    if strict:
        catalog().import_all()
    problems = catalog().problems
    for problem in problems:
        echo(f"plugin problem: {problem}", err=True)
    if problems and strict:
        click.echo("see: acutance doctor", err=True)
        raise SystemExit(3)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; a user's mistake prints its sentence and a hint, without a traceback."""
    arguments = sys.argv[1:] if argv is None else argv
    if os.getcwd() not in sys.path:
        # So that a config can name module:function of a file beside it; last, so that nothing is shadowed.
        sys.path.append(os.getcwd())
    # Verbs draw into files alone; a notebook's backend, handed on to its shell, may not be installed beside us.
    os.environ["MPLBACKEND"] = "agg"
    escape_output()
    keep_freed()
    with in_order():
        _run_verb(arguments)


def _run_verb(arguments: list[str]) -> None:
    """Run a verb and end the process with its exit code; print a user's mistake as one sentence with a hint.

    Raises:
        SystemExit: always, but for an error that is none of the user's, or one to be shown with its traceback.
    """
    try:
        code: Any = _of_verb(arguments)
        sys.stdout.flush()
        if FAILURES:
            raise FAILURES[0]
        raise SystemExit(code if isinstance(code, int) else 0)
    except UserError as error:
        if "--traceback" in arguments:
            raise
        echo(f"error: {error.message}", err=True)
        if error.hint:
            echo(f"hint: {error.hint}", err=True)
        raise SystemExit(2) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(2) from None
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo(f"interrupted{what_is_left(error)}", err=True)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno not in DENIED or "--traceback" in arguments:
            raise
        where = error.filename if isinstance(error.filename, str | os.PathLike) else "the output"
        echo(f"error: {os.fspath(where)}: cannot be written: {error.strerror}", err=True)
        kept = "what was computed is stored; " if hasattr(error, "__notes__") else ""
        echo(f"hint: {kept}free space, or choose a folder you may write to", err=True)
        raise SystemExit(2) from None


def _of_verb(arguments: list[str]) -> Any:
    try:
        return cli.main(arguments, prog_name="acutance", standalone_mode=False)
    except (ImportError, RuntimeError) as error:
        refuse_unfit_torchvision(error)
        raise


def as_json(value: Any) -> None:
    """Print a value as JSON for other programs; NaN is null."""
    import json
    import math

    def plain(x: Any) -> Any:
        if isinstance(x, float) and not math.isfinite(x):
            return None if math.isnan(x) else str(x)
        if isinstance(x, dict):
            return {str(k): plain(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [plain(v) for v in x]
        return x

    click.echo(json.dumps(plain(value), indent=2, default=str))
