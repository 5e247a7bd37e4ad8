"""The statistics on tables made elsewhere: wide, long, a run's; mistakes in one sentence; published numbers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from acutance import UserError, kendall_tau
from acutance.analysis.ceiling import noise_ceiling
from acutance.analysis.definitions import definition
from acutance.analysis.external import Columns, as_run
from acutance.cli import cli
from acutance.io.delimited import parse_delimited
from acutance.io.tables import read_table
from acutance.run.directory import RunDirectory, read_csv
from acutance.run.harness import run_study
from acutance.run.statistics import table_names
from acutance.study.config import load_config
from acutance.workflows.correlating import of_table

SOUPS = Path(__file__).parents[2].parent / "shared" / "data" / "model_soups"


@pytest.fixture
def table():
    g = np.random.default_rng(0)
    n = 24
    frame = pd.DataFrame({"net": [f"net {i}" for i in range(n)], "aug": np.arange(n) % 2, "arch": np.arange(n) // 12})
    frame["err"], frame["flat"] = g.normal(size=n), g.normal(size=n)
    frame["sharp"] = frame["err"] + 0.5 * g.normal(size=n)
    return frame


def correlate(*arguments):
    result = CliRunner().invoke(cli, ["correlate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def records(*arguments):
    return pd.DataFrame(json.loads(correlate(*arguments, "--json")))


def test_a_wide_table(table, tmp_path):
    path = tmp_path / "t.csv"
    table.to_csv(path, index=False)
    found = records(
        path, "--model", "net", "--targets", "err", "--measures", "sharp,flat", "--groups", "aug", "--within", "arch",
        "--out", tmp_path / "out.csv",
    )  # fmt: skip
    assert len(found) == 2 * 2 * 3 and set(found["group"]) == {"all", "aug=0", "aug=1"}
    row = found[(found["measure"] == "sharp") & (found["within"] == "arch=1") & (found["group"] == "aug=0")].iloc[0]
    part = table[(table["arch"] == 1) & (table["aug"] == 0)]
    exact = kendall_tau(part["err"], part["sharp"])
    assert (row["tau"], row["low"], row["high"], row["p"], row["n"]) == (exact.tau, exact.low, exact.high, exact.p, 6)
    written = read_csv(tmp_path / "out.csv")
    assert written["tau"].tolist() == found["tau"].tolist()
    text = correlate(path, "--targets", "err", "--measures", "sharp", "--variant", "b")
    assert "Kendall's tau-b" in text and "sharp" in text and "n = 24" in text


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl"])
def test_long_and_wide_are_the_same(table, tmp_path, ending):
    long = table.melt(["net", "aug", "arch", "err"], ["sharp", "flat"], "what", "how much")
    write = {
        "csv": lambda f, p: f.to_csv(p, index=False), "tsv": lambda f, p: f.to_csv(p, index=False, sep="\t"),
        "json": lambda f, p: f.to_json(p, orient="records"),
        "jsonl": lambda f, p: f.to_json(p, orient="records", lines=True),
    }[ending]  # fmt: skip
    write(table, tmp_path / f"wide.{ending}")
    write(long.sample(frac=1, random_state=0), tmp_path / f"long.{ending}")
    common = ("--model", "net", "--targets", "err")
    wide = records(tmp_path / f"wide.{ending}", *common, "--measures", "sharp,flat").set_index("measure")
    other = records(tmp_path / f"long.{ending}", *common, "--long", "what,how much").set_index("measure")
    assert wide["tau"].to_dict() == pytest.approx(other["tau"].to_dict(), abs=1e-12)


def test_a_model_without_a_value_leaves_its_comparison_only(table, tmp_path):
    table.loc[3, "sharp"] = np.nan
    table.to_csv(tmp_path / "t.csv", index=False)
    found = records(tmp_path / "t.csv", "--targets", "err", "--measures", "sharp,flat").set_index("measure")
    assert found["n"].to_dict() == {"sharp": 23, "flat": 24}


@pytest.mark.parametrize(
    "change,arguments,message",
    [
        ({}, {"targets": ["er"]}, "--targets: the table has no column 'er'.*did you mean 'err'"),
        ({}, {"targets": []}, "at least one target and one measure"),
        ({"net": "same"}, {}, "--model: more than one row is called 'same'"),
        ({"sharp": "high"}, {}, "--measures: row 1 of column 'sharp' is not a number: 'high'"),
        ({}, {"groups": ["width"]}, "--groups, --within: the table has no column 'width'"),
        ({}, {"attributes": ["width"]}, "--attributes: the table has no column 'width'"),
        ({}, {"figures": {"colour": ["ar"]}}, "--colour: the table has no column 'ar'.*did you mean 'arch'"),
    ],
)
def test_mistakes(table, change, arguments, message):
    given = {"targets": ["err"], "measures": ["sharp"], "model": "net"} | arguments
    with pytest.raises(UserError) as caught:
        as_run(table.assign(**change), Columns(**given))
    assert re.search(message, f"{caught.value.message} {caught.value.hint}")


LONG = Columns(targets=["err"], model="net", long=("what", "value"))


@pytest.mark.parametrize(
    "change,columns,message",
    [
        (lambda long: pd.concat([long, long]), LONG, "model 'net 0' has measure 'sharp' twice"),
        (lambda long: long, Columns(["err"], model="net", long=("whatt", "value")), "no column 'whatt'"),
        (lambda long: long, Columns(["err"], ["sharp"], "net", ("what", "value")), "without --measures"),
        (lambda long: long.assign(err=np.arange(len(long))), LONG, "model 'net 0' has several values of 'err'"),
        (lambda long: long.assign(status="fine"), LONG, "column 'status' says 'fine'"),
    ],
)
def test_mistakes_in_a_long_table(table, change, columns, message):
    long = table.melt(["net", "err"], ["sharp", "flat"], "what", "value")
    with pytest.raises(UserError, match=message):
        as_run(change(long), columns)


def test_a_name_with_settings_is_a_definition_of_a_measure(table):
    assert definition("worst_case( rho = 0.1, norm=linf )") == ("worst_case", {"rho": 0.1, "norm": "linf"})
    assert definition("tr(H)") == ("tr(H)", {}) and definition("norm (=l2)") == ("norm (=l2)", {})
    wide = table.assign(**{"worst_case(rho=0.1)": table["sharp"], "worst_case(rho=0.2)": table["flat"]})
    names = ("worst_case(rho=0.1)", "worst_case(rho=0.2)")
    _, results, _ = as_run(wide, Columns(["err"], names, "net"))
    assert set(zip(results["measure"], results["spec.rho"])) == {("worst_case", 0.1), ("worst_case", 0.2)}
    long = wide.melt(["net", "err"], list(names), "what", "value")
    _, other, _ = as_run(long, LONG)
    columns = ["model", "measure", "spec.rho", "value"]
    pd.testing.assert_frame_equal(other[columns], results[columns])


def test_replicates_of_a_long_table_are_averaged(table):
    long = table.melt(["net", "err"], ["sharp"], "what", "value")
    again = pd.concat([long.assign(replicate=0), long.assign(replicate=1, value=long["value"] + 1)])
    tables = of_table(again, LONG)
    assert len(tables.results) == 48
    assert tables.correlations()["tau"].item() == kendall_tau(table["err"], table["sharp"]).tau


def test_what_a_column_is_when_nothing_says_so(table):
    more = table.assign(size=np.arange(24.0), kind=["a", "b"] * 12)
    models, results, _ = as_run(more, Columns(["err"], model="net", groups=["aug"]))
    assert set(results["measure"]) == {"flat", "sharp", "size", "arch"}  # every number that is nothing else
    assert {"attr.aug", "attr.kind", "target.err"} == {c for c in models if "." in c}
    models, results, _ = as_run(more, Columns(["err"], ["sharp"], "net"))
    assert set(results["measure"]) == {"sharp"}
    assert {"attr.aug", "attr.arch", "attr.size", "attr.kind", "attr.flat"} == {c for c in models if c[:5] == "attr."}
    models, _, _ = as_run(more, Columns(["err"], ["sharp"], "net", attributes=["kind"], figures={"colour": ["size"]}))
    assert {"attr.kind", "attr.size"} == {c for c in models if c.startswith("attr.")}


def test_missing_and_infinite_values_say_so(table):
    table.loc[[1, 2], "sharp"] = [np.nan, np.inf]
    _, results, _ = as_run(table, Columns(["err"], ["sharp"], "net"))
    assert results["status"].tolist()[:4] == ["ok", "unsupported", "nonfinite", "ok"]
    taus = {}
    for policy in ("rank_max", "drop"):
        found = of_table(table, Columns(["err"], ["sharp"], "net"), nonfinite=policy).correlations().iloc[0]
        taus[policy] = found["n"], found["tau"]
    assert taus["rank_max"][0] == 23 and taus["drop"][0] == 22 and taus["drop"][1] != taus["rank_max"][1]
    with pytest.raises(UserError, match="non-finite value"):
        of_table(table, Columns(["err"], ["sharp"], "net"), nonfinite="refuse").correlations()


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A table with two radii, groups, an attribute and test points, written with everything there is."""
    folder = tmp_path_factory.mktemp("everything")
    g = np.random.default_rng(1)
    n = 16
    frame = pd.DataFrame(
        {"net": [f"<b>{i}" for i in range(n)], "aug": np.arange(n) % 2, "lr": 10 ** g.uniform(-3, 0, n)}
    )
    frame["err"] = g.binomial(1000, g.uniform(0.1, 0.3, n)) / 1000
    frame["average_case(rho=0.1)"], frame["average_case(rho=0.2)"] = (
        g.lognormal(size=n),
        frame["err"] + g.uniform(0, 0.1, n),
    )
    frame.to_csv(folder / "t.csv", index=False)
    correlate(
        folder / "t.csv", "--columns", "model=net", "--columns", "target=err", "--measures",
        "average_case(rho=0.1),average_case(rho=0.2)", "--groups", "aug", "--colour", "lr", "--points", "1000",
        "--title", "Mine", "--variant", "b", "--out", folder / "out",
    )  # fmt: skip
    return folder, frame


def test_a_directory_gets_all_that_a_run_writes(everything):
    folder, frame = everything
    out = folder / "out"
    tables = {
        name: read_csv(out / f"{name}.csv")
        for name in ("models", "results", "correlations", *table_names(RunDirectory(out)))
    }
    row = tables["correlations"].query("`spec.rho` == 0.2 and group == 'all'").iloc[0]
    exact = kendall_tau(frame["err"], frame["average_case(rho=0.2)"], "b")
    assert (row["tau"], row["low"], row["high"]) == (exact.tau, exact.low, exact.high)
    ceiling = tables["ceilings"].iloc[0]
    assert ceiling["points"] == 1000 and ceiling["tau"] == noise_ceiling(frame["err"], 1000).tau
    assert set(tables["hypotheses"]["hypothesis"]) == {"strong", "weak", "weak_wide"}
    assert set(tables["confounds"]["attribute"]) == {"aug", "lr"}
    page = (out / "report.html").read_text()
    assert "<h1>Mine</h1>" in page and "τ_b" in page and "&lt;b&gt;0" in page and "<b>0" not in page
    assert "computing time" not in page
    assert len(list((out / "figures").glob("*.png"))) >= 2 and (out / "tables" / "tau.tex").exists()


def test_report_results_and_compare_take_such_a_directory(everything):
    out = everything[0] / "out"
    (out / "report.html").unlink()
    for arguments in (["report", out], ["report", out, "--figure", "radii"], ["results", out], ["compare", out, out]):
        done = CliRunner().invoke(cli, [str(part) for part in arguments])
        assert done.exit_code == 0, done.output
    assert (out / "report.html").exists() and list((out / "figures").glob("radii-*.png"))


def test_a_run_can_be_judged_anew_into_a_directory(toy_config, tmp_path):
    run = run_study(load_config(toy_config), tmp_path / "run", report=False)
    correlate(tmp_path / "run", "--within", "pool", "--out", tmp_path / "anew", "--no-report")
    found = read_csv(tmp_path / "anew" / "correlations.csv")
    assert set(found["within"]) == {"pool=toy"} and not (tmp_path / "anew" / "report.html").exists()
    before, after = read_csv(tmp_path / "run" / "ceilings.csv"), read_csv(tmp_path / "anew" / "ceilings.csv")
    assert set(after["target"]) == set(before["target"]) and set(after["points"]) == set(before["points"])
    assert (tmp_path / "run" / "correlations.csv").read_text() != (tmp_path / "anew" / "correlations.csv").read_text()
    done = CliRunner().invoke(cli, ["correlate", str(tmp_path / "run"), "--out", str(run.directory)])
    assert isinstance(done.exception, UserError) and "is the directory of a run" in str(done.exception)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--points", "many"], "--points many: is not a number of test points"),
        (["--points", "er=10"], "--points: 'er' is no target"),
        (["--points", "100"], "--points: target 'err' is not a share between 0 and 1"),
        (["--columns", "tarket=err"], "--columns tarket=err: write ROLE=COLUMN"),
        (["--columns", "targets=flat"], "targets is given twice"),
        (["--long", "a"], "--long: give two columns"),
        (["--colour", "aug,arch"], "--colour: give one column"),
        (["--out", "{file}"], "is a file"),
    ],
)
def test_mistakes_on_the_command_line(table, tmp_path, arguments, message):
    path = tmp_path / "t.csv"
    table.to_csv(path, index=False)
    (tmp_path / "file").write_text("")
    given = [str(tmp_path / "file") if text == "{file}" else text for text in arguments]
    done = CliRunner().invoke(cli, ["correlate", str(path), "--targets", "err", "--model", "net", *given])
    assert isinstance(done.exception, UserError) and message in str(done.exception)


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "bad.json").write_text("{nothing")
    (tmp_path / "empty.csv").write_text("a,b\n")
    for name in ("bad.json", "empty.csv"):
        with pytest.raises(UserError, match=r"is not a table|is empty"):
            read_table(tmp_path / name)


def test_a_run_is_correlated_anew(toy_config, tmp_path):
    run = run_study(load_config(toy_config), tmp_path / "run", report=False)
    again = records(tmp_path / "run")
    assert again["tau"].tolist() == pytest.approx(run.correlations["tau"].tolist(), nan_ok=True)
    pooled = records(tmp_path / "run", "--within", "pool", "--groups", "", "--targets", "test_error")
    assert set(pooled["within"]) == {"pool=toy"} and set(pooled["group"]) == {"all"} and set(pooled["n"]) == {6}


def test_torch_is_not_imported(table, tmp_path):
    table.to_csv(tmp_path / "t.csv", index=False)
    code = (
        "import sys\nfrom acutance.cli import main\n"
        f"try: main(['correlate', {str(tmp_path / 't.csv')!r}, '--targets', 'err', '--measures', 'sharp'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not SOUPS.exists(), reason="the published results of Wortsman et al. 2022 are not here")
def test_the_published_correlations_of_the_clip_models(tmp_path):
    info = json.loads((SOUPS / "hparam_info.json").read_text())
    rows = [json.loads(line) for line in (SOUPS / "individual_model_results.jsonl").read_text().splitlines()]
    sets = {"ImageNet": -0.13, "ImageNetV2": -0.02, "ImageNetR": 0.67, "ImageNetSketch": 0.35, "ImageNetA": 0.42, "ObjectNet": 0.31}  # fmt: skip
    table = pd.DataFrame(
        {"model": r["model_name"], "lr": info[r["model_name"]].get("lr"), **{s: 1 - r[s] for s in sets}} for r in rows
    )
    table.to_csv(tmp_path / "soups.csv", index=False)
    found = records(tmp_path / "soups.csv", "--model", "model", "--measures", "lr", "--targets", ",".join(sets))
    assert found.set_index("target")["tau"].round(2).to_dict() == sets and set(found["n"]) == {71}


def test_lists_and_mappings_of_json_are_told_with_their_column_and_row(table, tmp_path):
    rows = [row | {"more": {"a": 1} if i == 2 else None} for i, row in enumerate(table.to_dict("records"))]
    frame = pd.DataFrame(rows)
    name = str(frame.columns[0])
    columns = Columns(targets=["more"], measures=[], model=name)
    with pytest.raises(UserError, match="--targets: row 3 of column 'more' holds a dict"):
        as_run(frame, columns)
    target = next(str(c) for c in frame.columns[1:] if pd.api.types.is_float_dtype(frame[c]))
    models, _, notes = as_run(frame, Columns(targets=[target], model=name))
    assert "attr.more" not in models and "column 'more' holds lists or mappings (row 3) and is left out" in notes
    (tmp_path / "three.json").write_text("3")
    with pytest.raises(UserError, match="is not a table: it holds one int"):
        read_table(tmp_path / "three.json")


def test_a_quote_that_nothing_ends_is_told_where_it_begins():
    with pytest.raises(
        UserError, match=r"line 2: a field in quotes goes on for 3 lines.*2 fields.*is the quote missing"
    ):
        parse_delimited(b'a,b,c\n1,"2,3\n4,5,6\n7,8,9\n', "t.csv")
