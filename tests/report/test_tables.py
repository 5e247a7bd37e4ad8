"""Tables in the layout of the paper: what stands where, what is bold, that no name is taken for markup."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from acutance import UserError
from acutance.analysis.published import published
from acutance.cli import cli
from acutance.io.written import MANIFEST, put
from acutance.report.page.markup import save_tables, to_csv, to_latex, to_markdown
from acutance.report.tables import tau_tables


def correlations(**change):
    """Two definitions, one of them with and without logit normalization at two radii, and one without a radius."""
    rows = []
    for logit_norm, rho, tau in ((False, 0.1, -0.61), (False, 0.2, 0.5), (True, 0.1, 0.02), (True, 0.2, np.nan)):
        rows.append({"measure": "worst_case", "spec.norm": "linf", "spec.scaling": "elementwise",
                     "spec.logit_norm": logit_norm, "spec.rho": rho, "target": "test_error", "tau": tau})  # fmt: skip
    rows.append({**rows[0], "target": "ood.error", "tau": 0.3})
    rows.append({"measure": "weight_norm", "target": "test_error", "tau": 0.7})
    table = pd.DataFrame(rows).assign(within="architecture=vit", group="all", n=12, low=-1.0, high=1.0, p_adjusted=0.2)
    table.loc[0, ["p_adjusted", "high"]] = 0.01, -0.2
    return table.assign(**change)


def test_rows_are_definitions_and_radii_and_columns_targets():
    (table,) = tau_tables(correlations())
    assert table.lead == ["sharpness", "logit_norm", "rho"] and table.targets == ["test_error", "ood.error"]
    name = "adaptive worst-case ℓ∞"
    assert [lead for lead, _ in table.rows] == [
        [name, False, 0.1], [name, False, 0.2], [name, True, 0.1], [name, True, 0.2], ["weight_norm", None, None],
    ]  # fmt: skip
    assert table.rows[0][1]["ood.error"].tau == 0.3 and "ood.error" not in table.rows[1][1]
    assert table.caption == "Rank correlation coefficient τ, architecture=vit, n = 12"


def test_bold_as_in_the_paper_and_a_star_for_what_holds_after_adjustment():
    lines = to_markdown(tau_tables(correlations())).splitlines()
    assert lines[2] == r"| Sharpness | LogitNorm | ρ | test\_error | ood.error |"
    assert lines[4] == r"| adaptive worst-case ℓ∞ | No | 0.1 | **-0.61**\* | 0.30 |"
    assert lines[5] == "| adaptive worst-case ℓ∞ | No | 0.2 | 0.50 |  |"
    assert lines[7].endswith("| Yes | 0.2 | – |  |") and lines[8] == r"| weight\_norm |  |  | **0.70** |  |"
    latex = to_latex(tau_tables(correlations())).splitlines()
    assert r"adaptive worst-case $\ell_\infty$ & No & 0.1 & \textbf{$-$0.61}* & 0.30 \\" in latex
    assert r"adaptive worst-case $\ell_\infty$ & Yes & 0.2 & -- &  \\" in latex
    assert r"weight\_norm &  &  & \textbf{0.70} &  \\" in latex and latex.count(r"\addlinespace") == 2
    assert [r"\toprule" in latex, r"\midrule" in latex, r"\bottomrule" in latex] == [True] * 3


def test_a_star_needs_adjusted_p_and_an_interval_that_leaves_out_0():
    for change, star in (({}, True), ({"high": 0.04}, False), ({"p_adjusted": 0.05}, False)):
        table = correlations()
        for name, value in change.items():
            table.loc[0, name] = value
        assert (r"**-0.61**\*" in to_markdown(tau_tables(table))) == star


def test_every_row_of_the_latex_table_has_as_many_cells_as_the_table_has_columns():
    latex = to_latex(tau_tables(correlations(target="a & b_%$#{}~^\\")))
    columns = re.search(r"begin\{tabular\}\{(\w+)\}", latex)[1]
    rows = [line for line in latex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert rows and all(len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1 for line in rows)
    assert r"a \& b\_\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in rows[0]
    assert latex.count("{") == latex.count("}")


def test_names_are_not_markup_of_markdown():
    text = to_markdown(tau_tables(correlations(target="<b>|x|\n_y_")))
    assert r"&lt;b&gt;\|x\| \_y\_" in text and "<b>" not in text
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")} == {5}


def test_csv_has_the_numbers_as_they_are():
    table = pd.read_csv(io.StringIO(to_csv(tau_tables(correlations(low=-1 / 3)))))
    assert table["test_error"][0] == -0.61 and table["test_error low"][0] == -1 / 3 and len(table) == 5
    assert np.isnan(table["ood.error"][1]) and table["n"].tolist() == [12] * 5


def test_the_last_row_is_what_a_perfect_measure_would_show():
    table = correlations(ceiling=0.91)
    table.loc[table["target"] == "ood.error", "ceiling"] = np.nan
    assert "| Perfect measure, expected |" in to_markdown(tau_tables(table)) and "0.91 |" in to_markdown(
        tau_tables(table)
    )
    assert r"\midrule" in to_latex(tau_tables(table)) and "Perfect measure" in to_latex(tau_tables(table))
    table.loc[table.index[0], "ceiling"] = 0.85
    assert "0.85 to 0.91" in to_markdown(tau_tables(table))
    assert "Perfect measure" not in to_markdown(tau_tables(correlations()))


def test_columns_that_no_definition_has_are_left_out():
    plain = correlations()[["measure", "target", "within", "group", "n", "tau", "low", "high", "p_adjusted"]].tail(1)
    (table,) = tau_tables(plain)
    assert table.lead == ["sharpness"] and "LogitNorm" not in to_latex([table])


def test_the_papers_own_table_comes_out_as_printed():
    """Table 4, from the reference table: its rows in order, bold where the paper's rule says."""
    source = published("cifar10_vit").assign(within="all", group="all", n=1, low=np.nan, high=np.nan, p_adjusted=np.nan)
    lines = to_markdown(tau_tables(source)).splitlines()[4:-2]
    assert len(lines) == 48 and lines[0] == "| standard avg-case ℓ2 | No | 0.005 | -0.45 | **-0.54** |"
    assert "| adaptive worst-case ℓ∞ | No | 0.0005 | **-0.68** | **-0.63** |" in lines
    assert "| adaptive worst-case ℓ2 | Yes | 0.25 | -0.21 | -0.12 |" in lines


def test_definitions_that_differ_in_effort_are_told_apart():
    two = pd.concat([correlations().assign(**{"spec.steps": steps}) for steps in (5, 20)])
    names = [lead[0] for lead, _ in tau_tables(two)[0].rows]
    assert "adaptive worst-case ℓ∞, steps = 5" in names and len(names) == 10


def test_the_files_of_a_run_and_those_of_an_earlier_one(tmp_path):
    put(tmp_path, {"tau-old.md": "x"})
    (tmp_path / "tau-mine.md").write_text("x")
    (tmp_path / "mine.md").write_text("x")
    two = pd.concat([correlations(), correlations(within="architecture=resnet")])
    written = save_tables(two, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {MANIFEST, "mine.md", "tau-mine.md", *(p.name for p in written)}
    assert {p.name for p in written} == {f"tau-{m}.{e}" for m in ("vit", "resnet") for e in ("csv", "md", "tex")}
    assert "architecture=vit" in (tmp_path / "tau-vit.md").read_text()


@pytest.fixture
def run(tmp_path):
    correlations().to_csv(tmp_path / "correlations.csv", index=False)
    pd.DataFrame({"model": ["a"], "attr.note": ["=1"]}).to_csv(tmp_path / "models.csv", index=False)
    return str(tmp_path)


def invoke(*arguments):
    result = CliRunner().invoke(cli, ["results", *arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result.output


def test_the_verb_prints_each_format(run):
    tables = tau_tables(correlations())
    assert invoke(run, "--format", "latex") == to_latex(tables)
    assert invoke(run, "--format", "markdown") == to_markdown(tables)
    assert invoke(run, "--format", "csv") == to_csv(tables)
    assert invoke(run, "--format", "csv", "--table", "models") == "model,attr.note\na,'=1\n"
    assert "Kendall's tau-a" in invoke(run)


def test_the_verb_says_what_it_cannot_print(run):
    with pytest.raises(UserError, match="--format latex: is for the correlations"):
        invoke(run, "--format", "latex", "--table", "models")
    with pytest.raises(UserError, match="there is no group 'x'"):
        invoke(run, "--format", "csv", "--group", "x")
