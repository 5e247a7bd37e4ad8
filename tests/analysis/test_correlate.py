"""The statistics on tables made elsewhere: wide, long, a run's; mistakes in one sentence; published numbers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from acutance import UserError, kendall_tau
from acutance.analysis.external import as_run, read_table, spread
from acutance.cli import cli

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
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, na_values=[""])
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
        ({}, {"measures": []}, "at least one target and one measure"),
        ({"net": "same"}, {}, "--model: more than one row is called 'same'"),
        ({"sharp": "high"}, {}, "--measures: row 1 of column 'sharp' is not a number: 'high'"),
        ({}, {"attributes": ["width"]}, "--groups, --within: the table has no column 'width'"),
    ],
)
def test_mistakes(table, change, arguments, message):
    given = {"targets": ["err"], "measures": ["sharp"], "model": "net"} | arguments
    with pytest.raises(UserError) as caught:
        as_run(table.assign(**change), **given)
    import re

    assert re.search(message, f"{caught.value.message} {caught.value.hint}")


def test_mistakes_in_a_long_table(table):
    long = table.melt(["net", "err"], ["sharp", "flat"], "what", "value")
    with pytest.raises(UserError, match="model 'net 0' has measure 'sharp' twice"):
        spread(pd.concat([long, long]), "net", "what", "value")
    with pytest.raises(UserError, match="'err' is a measure and a column"):
        spread(long.replace({"what": {"sharp": "err"}}), "net", "what", "value")
    with pytest.raises(UserError, match="no column 'whatt'"):
        spread(long, "net", "whatt", "value")


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "bad.json").write_text("{nothing")
    (tmp_path / "empty.csv").write_text("a,b\n")
    for name in ("bad.json", "empty.csv"):
        with pytest.raises(UserError, match=r"is not a table|is empty"):
            read_table(tmp_path / name)


def test_a_run_is_correlated_anew(toy_config, tmp_path):
    from acutance.config import load_config
    from acutance.harness import run_study

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
