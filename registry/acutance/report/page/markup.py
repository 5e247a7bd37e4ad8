"""Tables of tau as CSV, Markdown and LaTeX, and the files that a run has of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from acutance.analysis.labels import target_label
from acutance.io.spreadsheet import csv_text
from acutance.io.written import put
from acutance.report.keys import FigureKey
from acutance.report.tables import Entry, TauTable, tau_tables

NOTE = (
    "Bold: |τ| > 0.5. *: p < 0.05, adjusted for all comparisons with errors, losses and gaps (other columns: among "
    "themselves), and the interval leaves out 0."
)


def to_csv(tables: list[TauTable]) -> str:
    """Return tables below each other as CSV."""
    return csv_text(pd.concat([table.frame() for table in tables], ignore_index=True))


def to_markdown(tables: list[TauTable]) -> str:
    """Return tables as Markdown."""
    return "\n\n".join([*map(_markdown, tables), f"{_md(NOTE)}\n"])


def to_latex(tables: list[TauTable]) -> str:
    r"""Return tables as LaTeX for the package ``booktabs``, each in a ``table`` environment."""
    return "\n\n".join(map(_latex, tables)) + "\n"


FORMATS = {"csv": to_csv, "markdown": to_markdown, "latex": to_latex}
ENDINGS = {"csv": ".csv", "markdown": ".md", "latex": ".tex"}
CEILING = "Perfect measure, expected"  # the last row: test sets are finite, and so measures are noisy
HEADS = {"sharpness": "Sharpness", "logit_norm": "LogitNorm", "rho": "ρ"}


def save_tables(correlations: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the table of every level as ``tau-*.csv``, ``.md`` and ``.tex``; those of earlier runs go.

    Args:
        correlations: of a run.
        folder: made when it is not there.
    """
    from acutance.report.page.figures import file_stems

    tables = {
        FigureKey("tau", "" if table.level == "all" else table.level): table for table in tau_tables(correlations)
    }
    stems = file_stems(list(tables))
    files = {f"{stems[key]}{ENDINGS[f]}": FORMATS[f]([table]) for key, table in tables.items() for f in FORMATS}
    put(folder, files, "tau-*")
    return [folder / name for name in files]


def _markdown(table: TauTable) -> str:
    head = [*(HEADS[name] for name in table.lead), *map(target_label, table.targets)]
    lines = [[_md(text) for text in head], [":--" if i == 0 else "--:" for i in range(len(head))]]
    for lead, entries in table.rows:
        cells = [
            _bold(_number(e), e.strong, "**{}**") + r"\*" * e.significant if e else ""
            for e in _in_order(table, entries)
        ]
        lines.append([*(_md(_lead(value)) for value in lead), *cells])
    if ceilings := _ceilings(table):
        lines.append([CEILING, *[""] * (len(table.lead) - 1), *ceilings])
    return "\n".join([f"{_md(table.caption)}", "", *(f"| {' | '.join(line)} |" for line in lines)])


def _latex(table: TauTable) -> str:
    head = [*(HEADS[name] for name in table.lead), *map(target_label, table.targets)]
    columns = "l" + "c" * (len(table.lead) - 1) + "r" * len(table.targets)
    first, last = len(table.lead) + 1, len(head)
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{_tex(table.caption)}. {_tex(NOTE)}}}",
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
        "& " * (first - 1) + rf"\multicolumn{{{len(table.targets)}}}{{c}}{{Rank correlation coefficient $\tau$}} \\",
        rf"\cmidrule(l){{{first}-{last}}}", " & ".join(map(_tex, head)) + r" \\", r"\midrule",
    ]  # fmt: skip
    before = None
    for lead, entries in table.rows:
        name = lead[: 2 if "logit_norm" in table.lead else 1]
        if before not in (None, name):
            lines.append(r"\addlinespace")
        before = name
        cells = [
            _bold(_math(e), e.strong, r"\textbf{{{}}}") + "*" * e.significant if e else ""
            for e in _in_order(table, entries)
        ]
        lines.append(" & ".join([*(_tex(_lead(value)) for value in lead), *cells]) + r" \\")
    if ceilings := _ceilings(table):
        lines += [r"\midrule", " & ".join([CEILING, *[""] * (len(table.lead) - 1), *ceilings]) + r" \\"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _ceilings(table: TauTable) -> list[str]:
    """Return the ceiling of each target, empty where it is not known; nothing when none is."""
    ceilings = [table.ceiling(target) for target in table.targets]
    texts = ["" if c is None else " to ".join(dict.fromkeys(f"{value:.2f}" for value in c)) for c in ceilings]
    return texts if any(texts) else []


def _in_order(table: TauTable, entries: dict[str, Entry]) -> list[Entry | None]:
    return [entries.get(target) for target in table.targets]


def _lead(value: Any) -> str:
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _number(entry: Entry) -> str:
    return f"{entry.tau:.2f}" if math.isfinite(entry.tau) else "–"


def _math(entry: Entry) -> str:
    # A number in math mode would not be bold: only its sign is.
    return _number(entry).replace("-", "$-$").replace("–", "--")


def _bold(text: str, strong: bool, form: str) -> str:
    return form.format(text) if strong else text


def _md(text: str) -> str:
    """Escape what Markdown or HTML would take for markup; a line break would end the row."""
    escaped = "".join(rf"\{letter}" if letter in "\\|*_`[]#~$" else letter for letter in text)
    return " ".join(escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


# Characters that LaTeX reads otherwise, or that its text fonts do not have.
SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u2212": "$-$", "ℓ": r"$\ell$", "∞": r"$\infty$",
    "‖": r"$\|$", "∇": r"$\nabla$", "∂": r"$\partial$", "√": r"$\surd$", "∑": r"$\sum$", "∈": r"$\in$",
    "⊙": r"$\odot$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$",
    "≈": r"$\approx$", "→": r"$\to$", "ε": r"$\varepsilon$", "φ": r"$\varphi$",
    **{letter: rf"$\{name}$" for letter, name in zip("αβγδζηθικλμνξπρστχψωΓΔΘΛΞΠΣΦΨΩ", (
        "alpha beta gamma delta zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau chi psi omega "
        "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
    ).split(), strict=True)},
    **{letter: f"$^{digit}$" for digit, letter in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{letter: f"$_{digit}$" for digit, letter in enumerate("₀₁₂₃₄₅₆₇₈₉")},
}  # fmt: skip
_TEX = SIGNS | {"<": "$<$", ">": "$>$", "|": "$|$"}


def _tex(text: str) -> str:
    """Escape what LaTeX would take for a command; signs of mathematics become its own."""
    parts = []
    words = {"ℓ∞": r"$\ell_\infty$", "ℓ1": r"$\ell_1$", "ℓ2": r"$\ell_2$", "λmax": r"$\lambda_{\max}$"}
    while text:
        word = next((w for w in words if text.startswith(w)), "")
        parts.append(words[word] if word else _TEX.get(text[0], text[0]))
        text = text[len(word) or 1 :]
    return " ".join("".join(parts).split())
