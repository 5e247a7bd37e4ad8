"""Two tables side by side: what matches, what is judged, what stands alone, what is said where nothing matches."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from acutance import UserError
from acutance.analysis.compare import compare
from acutance.analysis.published import published
from acutance.cli import cli


def rows(*changes, **common):
    base = {"measure": "worst_case", "spec.rho": 0.1, "spec.norm": "linf", "target": "test_error", "within": "all",
            "group": "all", "n": 10, "tau": 0.3, "low": 0.1, "high": 0.5}  # fmt: skip
    return pd.DataFrame([{**base, **common, **change} for change in changes or ({},)])


def test_difference_and_interval_of_what_both_have():
    a = rows({}, {"spec.rho": 0.2, "tau": 0.4, "low": 0.35}, {"spec.rho": 0.4}, {"spec.rho": 0.8, "low": np.nan})
    b = rows({"tau": 0.2}, {"spec.rho": 0.2, "tau": 0.6}, {"spec.rho": 1.6}, {"spec.rho": 0.8, "tau": -0.3})
    found = compare(a, b)
    assert found["found"].tolist() == ["both", "both", "both", "a", "b"]
    assert found["difference"].tolist()[:3] == pytest.approx([-0.1, 0.2, -0.6])
    assert found["inside"].tolist() == [True, False, None, None, None]
    assert found["spec.rho"].tolist() == [0.1, 0.2, 0.8, 0.4, 1.6]
    assert found.loc[3, "tau_a"] == 0.3 and np.isnan(found.loc[3, "tau_b"]) and np.isnan(found.loc[4, "tau_a"])


def test_swapped_sides_give_the_mirrored_table():
    a, b = rows({}, {"spec.rho": 0.2}), rows({"tau": 0.1}, {"spec.rho": 0.3})
    one, two = compare(a, b), compare(b, a)
    assert one["difference"][0] == -two["difference"][0]
    assert (one["found"] == "a").sum() == (two["found"] == "b").sum() == 1


def test_a_field_of_one_side_counts_as_the_default_in_the_other():
    a = rows({"spec.logit_norm": False}, {"spec.logit_norm": True, "tau": 0.9})
    found = compare(a, rows({"tau": 0.2}), defaults=lambda measure: {"logit_norm": False})
    assert found["found"].tolist() == ["both", "a"] and found["tau_a"].tolist() == [0.3, 0.9]
    # Without a default the field cannot tell them apart; how much effort was made never does.
    assert (compare(a, rows())["found"] == "both").all()
    assert (compare(rows({"spec.steps": 20}), rows(), defaults=lambda m: {"steps": 5})["found"] == "both").all()
    assert set(compare(rows({"spec.steps": 20}, {"spec.steps": 5}), rows({"spec.steps": 5}))["found"]) == {"both", "a"}


def test_values_agree_whatever_a_file_made_of_them():
    a = rows({"spec.rho": 1, "spec.logit_norm": True, "spec.p": 2.0})
    b = rows({"spec.rho": "1.0", "spec.logit_norm": "True", "spec.p": "2"})
    assert compare(a, b)["found"].tolist() == ["both"]


def test_targets_of_other_names_and_printed_ones():
    a, b = rows({"target": "ood.error"}), rows({"target": "cifar10_c.error", "printed_target": "CIFAR-10-C"})
    for name in ("CIFAR-10-C", "cifar10_c.error"):
        found = compare(a, b, targets={"ood.error": name})
        assert found[["target", "target_b", "found"]].values.tolist() == [["ood.error", "cifar10_c.error", "both"]]
    with pytest.raises(UserError, match=r"targets ood.error against cifar10_c.error.*--target OURS=THEIRS"):
        compare(a, b)
    with pytest.raises(UserError, match=r"A has no target 'test_error'.*ood.error"):
        compare(a, b, targets={"test_error": "CIFAR-10-C"})


def test_levels_match_by_name_or_one_stands_beside_all():
    two = rows({"within": "architecture=vit"}, {"within": "architecture=resnet", "tau": 0.1})
    found = compare(two, rows({"within": "cifar10_vit"}))
    assert found["found"].tolist() == ["both", "both"] and set(found["within_b"]) == {"cifar10_vit"}
    assert compare(two, two)["difference"].tolist() == [0, 0]
    assert compare(two, rows({"within": "architecture=vit"}))["found"].tolist() == ["both", "a"]
    with pytest.raises(UserError, match="within architecture=vit, architecture=resnet against x, y"):
        compare(two, rows({"within": "x"}, {"within": "y"}))


@pytest.mark.parametrize(
    "other,message",
    [
        ({"measure": "average_case"}, "measures worst_case against average_case"),
        ({"spec.rho": 0.2}, "rho of worst_case 0.1 against 0.2"),
        ({"spec.rho": 0.2, "spec.norm": "l2"}, "rho of worst_case 0.1 against 0.2; norm of worst_case linf against l2"),
    ],
)
def test_where_nothing_matches_it_says_which_fields_differ(other, message):
    with pytest.raises(UserError, match=f"mine and theirs have no correlation in common: {message}"):
        compare(rows(), rows(other), names=("mine", "theirs"))


def test_fields_that_agree_one_by_one_but_never_together():
    a = rows({}, {"spec.rho": 0.2, "spec.norm": "l2"})
    b = rows({"spec.norm": "l2"}, {"spec.rho": 0.2})
    with pytest.raises(UserError, match="no definition agrees in all of rho, norm"):
        compare(a, b)


@pytest.fixture
def mine(tmp_path):
    """A run's table: two radii that the paper has for this definition, one that it does not."""
    folder = tmp_path / "run"
    folder.mkdir()
    common = {"spec.scaling": "elementwise", "spec.logit_norm": False, "spec.steps": 20, "spec.parameters": "all"}
    rows(
        {"spec.rho": 0.0005, "tau": -0.5, "low": -0.7, "high": -0.3}, {"spec.rho": 0.001, "tau": 0.1, "low": 0, "high": 0.2},
        {"spec.rho": 0.3}, {"target": "corruptions.error", "spec.rho": 0.0005, "tau": -0.6, "low": -0.7, "high": -0.3},
        {"spec.rho": 0.0005, "group": "mixup=1"}, **common, within="architecture=vit",
    ).to_csv(folder / "correlations.csv", index=False)  # fmt: skip
    return folder


def invoke(*arguments):
    result = CliRunner().invoke(cli, ["compare", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_beside_the_paper(mine, tmp_path):
    output = invoke(mine, "published", "--setting", "cifar10_vit", "--target", "corruptions.error=CIFAR-10-C",
                    "--out", tmp_path / "side.csv")  # fmt: skip
    assert "3 correlations are in both. 2 of 3 of published lie in" in " ".join(output.split())
    assert "not published" not in output and "List them with --all" in output
    everything = invoke(mine, "published", "--setting", "cifar10_vit", "--all")
    assert "not published" in everything and "not there" in everything
    table = pd.read_csv(tmp_path / "side.csv", keep_default_na=False, na_values=[""])
    both = table[table["found"] == "both"]
    assert both["tau_b"].tolist() == [-0.68, -0.43, -0.63] and both["inside"].tolist() == [True, False, True]
    assert len(table) == 4 + 96 - 3


def test_json_and_a_csv_of_correlations(mine, tmp_path):
    published("cifar10_vit").to_csv(tmp_path / "theirs.csv", index=False)
    found = json.loads(invoke(mine, tmp_path / "theirs.csv", "--json"))
    assert [row["tau_b"] for row in found if row["found"] == "both"] == [-0.68, -0.43]
    assert found[0]["inside"] is True and found[0]["low_b"] is None and found[0]["within_b"] == "cifar10_vit"
    assert len(json.loads(invoke(mine, mine, "--json", "--group", "mixup=1"))) == 1


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["published"], "--setting: say which.*cifar10_resnet18"),
        (["published", "--setting", "cifar10"], "no setting 'cifar10'"),
        (["published", "--setting", "cifar10_vit", "--target", "x"], "--target x: write OURS=THEIRS"),
        (["published", "--setting", "cifar10_vit", "--group", "mixup=2"], "--group: .* has no 'mixup=2'.*mixup=1"),
        (["published", "--setting", "cifar10_vit", "--within", "vit"], "--within: .* has no 'vit'"),
        (["nowhere.csv"], "nowhere.csv: no such file"),
        (["nowhere.csv", "--setting", "cifar10_vit"], "--setting: is for 'published'"),
    ],
)
def test_mistakes(mine, arguments, message):
    with pytest.raises(UserError, match=message):
        invoke(mine, *arguments)


def test_a_file_that_is_no_table_of_correlations(mine, tmp_path):
    (tmp_path / "t.csv").write_text("measure,target\nx,y\n")
    with pytest.raises(UserError, match="has no column 'tau'"):
        invoke(mine, tmp_path / "t.csv")


def test_hostile_names_are_not_markup(tmp_path):
    rows({"target": "[red]x[/red]", "within": "[/]"}).to_csv(tmp_path / "t.csv", index=False)
    assert "[red]x[/red]" in invoke(tmp_path / "t.csv", tmp_path / "t.csv")


def test_a_target_whose_settings_hold_an_equals_sign():
    from acutance.cli.compare_ import pairs

    assert pairs(("measure:dln_beta_norm(p=1)=l1 norm",)) == {"measure:dln_beta_norm(p=1)": "l1 norm"}
