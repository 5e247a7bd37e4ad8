"""``acutance calibrate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.config import Study, load_config
from acutance.yaml_io import dump_yaml

if TYPE_CHECKING:
    from rich.console import Console

    from acutance.calibration import Calibration, Definition


@click.command("calibrate")
@click.argument("config")
@click.option("--out", type=click.Path(path_type=Path), help="Write the study with the proposed radii to this file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value, e.g. surface.m=64.")
@click.option("--models", type=click.IntRange(1), default=3, show_default=True, help="How many models to look at.")
@click.option("--points", type=click.IntRange(1), help="Points, in whole m-batches; one m-batch by default.")
@click.option("--device", help="cpu, cuda, cuda:1 ...; the GPU when there is one.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    config: str, out: Path | None, overrides: tuple[str, ...], models: int, points: int | None, device: str | None,
    json_: bool,
) -> int:  # fmt: skip
    """Propose radii for the measures of CONFIG: above what the loss resolves, below chance level."""
    study = load_config(config, overrides)
    from acutance.calibration import calibrate
    from acutance.cli.screen import console as wide_console
    from acutance.progress import Bars, Silent

    console = wide_console()
    if console.is_terminal and not json_:
        with Bars(console) as bars:
            found = calibrate(study, models, points, device, bars)
    else:
        found = calibrate(study, models, points, device, Silent())
    name = _namer(found)
    if json_:
        as_json(_rows(found, name))
    else:
        _print(found, name, console)
        click.echo("\nmeasures:\n" + "".join(f"  - {_flow(s)}\n" for s in sections(found)), nl=False)
    if out is not None:
        out.write_text(dump_yaml(_resolved(study, found)))
        click.echo(f"study: {out}", err=json_)
    return 0 if all(definition.proposal for definition in found.definitions) else 1


def sections(found: Calibration) -> list[dict[str, Any]]:
    """Return the entries of ``measures``: proposed radii, or the study's own where none could be proposed."""
    return [d.section(d.proposal or d.radii) for d in found.definitions] + found.others


def _resolved(study: Study, found: Calibration) -> dict[str, Any]:
    return study.resolved | {"measures": sections(found)}


def _flow(section: Mapping[str, Any]) -> str:
    return dump_yaml(dict(section), default_flow_style=True, width=10_000).strip()


def _namer(found: Calibration) -> Callable[[Definition], str]:
    from acutance.analysis.labels import Namer

    def row(definition: Definition) -> dict[str, Any]:
        fields = definition.spec.full()
        return {"measure": definition.item.name, **{f"spec.{k}": str(v) for k, v in fields.items() if k != "rho"}}

    name = Namer([row(definition) for definition in found.definitions])
    return lambda definition: name(row(definition))


def _print(found: Calibration, name: Callable[[Definition], str], console: Console) -> None:
    from acutance.cli.screen import print_grid

    rows = []
    for definition in found.definitions:
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
    for definition in found.definitions:
        if definition.window.note:
            console.print(f"note: {name(definition)}: {definition.window.note}", highlight=False, markup=False)
    cost = found.cost
    console.print(
        f"{len(found.models)} models ({', '.join(found.models)}), {found.examples} points; passes in examples: "
        f"{cost.forwards:,.0f} forwards, {cost.backwards:,.0f} backwards, {cost.hvps:,.0f} Hessian-vector products",
        highlight=False, markup=False,
    )  # fmt: skip


def _range(middle: float | None, ends: list[float]) -> str:
    if not ends:
        return "-"
    span = f"[{min(ends):.3g}, {max(ends):.3g}]"
    return span if middle is None else f"{middle:.3g} {span}"


def _rows(found: Calibration, name: Callable[[Definition], str]) -> dict[str, Any]:
    definitions = [
        {
            "definition": name(d), "measure": d.item.id, "spec": d.section([]), "rho": d.proposal,
            "low": d.window.low, "high": d.window.high, "note": d.window.note, "outside": d.outside,
            "models": {model: vars(w) | vars(d.levels.get(model, w)) for model, w in d.windows.items()},
        }
        for d in found.definitions
    ]  # fmt: skip
    cost = {"forwards": found.cost.forwards, "backwards": found.cost.backwards, "hvps": found.cost.hvps}
    return {"definitions": definitions, "points": found.examples, "cost": cost}
