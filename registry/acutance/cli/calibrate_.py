"""``acutance calibrate``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.errors import UserError
from acutance.io.written import require_ours
from acutance.io.yaml_files import dump_yaml
from acutance.study.config import load_config
from acutance.workflows.calibrated import sections, with_radii, write_study

if TYPE_CHECKING:
    from rich.console import Console

    from acutance.workflows.calibration import Calibration, Definition
    from acutance.workflows.radii import Window


@click.command("calibrate")
@click.argument("config")
@click.option("--shares", default="2,10,30,100", show_default=True, help="Percent of the rise to chance level.")
@click.option("--write", type=click.Path(path_type=Path), help="Write your study with the proposed radii to this file.")
@click.option("--out", type=click.Path(path_type=Path), help="The same, with every setting and default written out.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value, e.g. surface.m=64.")
@click.option("--models", type=click.IntRange(1), default=3, show_default=True, help="How many models to look at.")
@click.option("--points", type=click.IntRange(1), help="Points, in whole m-batches; one m-batch by default.")
@click.option("--device", help="cpu, cuda, cuda:1 ...; the GPU when there is one.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    config: str, shares: str, write: Path | None, out: Path | None, overrides: tuple[str, ...], models: int,
    points: int | None, device: str | None, json_: bool,
) -> int:  # fmt: skip
    """Propose radii for the measures of CONFIG, at shares of the rise of the loss to chance level."""
    study, wanted = load_config(config, overrides), _shares(shares)
    if write is not None and out is not None and write.resolve() == out.resolve():
        raise UserError(f"{write}: --write and --out are the same file", "name two files, or give one of the options")
    for asked in filter(None, (write, out)):
        require_ours(asked)
    from acutance.cli.screen import console as wide_console
    from acutance.system.progress import Bars, Silent
    from acutance.workflows.calibration import calibrate

    console = wide_console()
    if console.is_terminal and not json_:
        with Bars(console) as bars:
            calibration = calibrate(study, models, points, device, bars, wanted)
    else:
        calibration = calibrate(study, models, points, device, Silent(), wanted)
    name = _namer(calibration)
    if json_:
        as_json(_rows(calibration, name))
    else:
        _print(calibration, name, console)
        click.echo("\nmeasures:\n" + "".join(f"  - {_flow(s)}\n" for s in sections(calibration)), nl=False)
    measured = study.resolved | {"measures": sections(calibration)}
    for path, data in ((write, with_radii(study, calibration)), (out, measured)):
        if path is not None:
            write_study(path, data)
            click.echo(f"study: {path}", err=json_)
    return 0 if all(definition.proposal for definition in calibration.definitions) else 1


def _shares(text: str) -> list[float]:
    """Return ``2,10,30,100`` as shares; what they may be is told by ``calibrate``."""
    try:
        return [float(part.strip().removesuffix("%")) / 100 for part in text.split(",")]
    except ValueError:
        raise UserError(f"--shares: '{text}' is no list of percentages", "for example --shares 2,10,30,100") from None


def _flow(section: Mapping[str, Any]) -> str:
    return dump_yaml(dict(section), default_flow_style=True, width=10_000).strip()


def _namer(calibration: Calibration) -> Callable[[Definition], str]:
    """Return the function that names definitions in tables, as briefly as tells them apart."""
    from acutance.analysis.labels import Namer

    def row(definition: Definition) -> dict[str, Any]:
        fields = definition.spec.full()
        return {"measure": definition.item.name, **{f"spec.{k}": str(v) for k, v in fields.items() if k != "rho"}}

    name = Namer([row(definition) for definition in calibration.definitions])
    return lambda definition: name(row(definition))


def _print(calibration: Calibration, name: Callable[[Definition], str], console: Console) -> None:
    """Print the useful and the proposed radii, notes, and what it took."""
    from acutance.cli.screen import print_grid
    from acutance.workflows.radii import most_looks

    rows = []
    for definition in calibration.definitions:
        window, levels = definition.window, list(definition.levels.values())
        rows.append(
            [
                name(definition),
                _range(window.low, definition.ends("low")),
                _range(window.high, definition.ends("high")),
                _range(None, [level.clean for level in levels]),
                _range(None, [level.chance for level in levels]),
                ", ".join(f"{r:g}" for r in definition.outside) or "-",
            ]
        )
    heads = ["resolved from", "chance level from", "clean loss", "chance", "radii outside"]
    print_grid(console, "Useful radii: median model [smallest, largest]", ["definition"], heads, rows, left=heads[-1:])
    shares = [f"{100 * share:.4g}%" for share in calibration.shares]
    radii = [
        [name(d), *(f"{rho:g}" if (rho := d.proposals.get(share)) is not None else "-" for share in calibration.shares)]
        for d in calibration.definitions
    ]
    print_grid(console, "Proposed radii, by share of the rise to chance level", ["definition"], shares, radii)
    for definition in calibration.definitions:
        for note in definition.notes:
            console.print(f"note: {name(definition)}: {note}", highlight=False, markup=False)
    cost = calibration.cost
    console.print(
        f"{len(calibration.models)} models ({', '.join(calibration.models)}), {calibration.examples} points; "
        f"passes in examples: {cost.forwards:,.0f} forwards, {cost.backwards:,.0f} backwards, "
        f"{cost.hvps:,.0f} Hessian-vector products; {sum(d.looks for d in calibration.definitions)} radii looked at, "
        f"at most {most_looks(len(calibration.shares))} for a definition and model",
        highlight=False, markup=False,
    )  # fmt: skip


def _range(middle: float | None, ends: list[float]) -> str:
    if not ends:
        return "-"
    span = f"[{min(ends):.3g}, {max(ends):.3g}]"
    return span if middle is None else f"{middle:.3g} {span}"


def _rows(calibration: Calibration, name: Callable[[Definition], str]) -> dict[str, Any]:
    """Return everything that was found as JSON values."""
    definitions = [
        {
            "definition": name(d), "measure": d.item.id, "spec": d.section([]), "rho": d.proposal,
            "low": d.window.low, "high": d.window.high, "note": "; ".join(d.notes), "outside": d.outside,
            "shares": [{"share": share, "rho": d.proposals.get(share)} for share in calibration.shares],
            "looks": d.looks, "models": {model: _model(w) | _levels(d, model) for model, w in d.windows.items()},
        }
        for d in calibration.definitions
    ]  # fmt: skip
    cost = calibration.cost
    passes = {"forwards": cost.forwards, "backwards": cost.backwards, "hvps": cost.hvps}
    return {"definitions": definitions, "points": calibration.examples, "cost": passes}


def _model(window: Window) -> dict[str, Any]:
    """Return one model's window as JSON values: a share without a radius has null."""
    radii = [r.radius if 0 < r.radius < math.inf else None for r in window.radii]
    return {"low": window.low, "high": window.high, "note": window.note, "radii": radii}


def _levels(definition: Definition, model: str) -> dict[str, Any]:
    return vars(definition.levels[model]) if model in definition.levels else {}
