"""No text of a written table is a formula of a spreadsheet, and reading it back gives what was written."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acutance.io.spreadsheet import csv_text, escaped, unescaped
from acutance.run.directory import read_csv


@given(st.text(alphabet="'=+-@\t\r10.e ax", max_size=6) | st.text(max_size=6))
def test_unescaped_is_the_inverse(text):
    assert unescaped(escaped(text)) == text
    first = escaped(text)[:1]
    try:
        float(text)
    except ValueError:
        assert first not in {"=", "+", "-", "@", "\t", "\r"} or not text


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-x", "@SUM(A1)", "\tx", "\rx", "=HYPERLINK(0)"])
def test_formulas_are_texts(text):
    assert escaped(text) == f"'{text}"


def test_numbers_are_as_they_are_and_all_of_it_comes_back(tmp_path):
    table = pd.DataFrame(
        {
            "model": ["=m1", "-0.50", "'=m3"], "key": ["-k", "12e45", "k"], "attr.note": ["=1+1", "'=1", None],
            "attr.mixed": ["-0.5", "+x", "1e-3"], "value": [-0.1, 1 / 3, np.nan], "attr.flag": [True, False, True],
        }
    )  # fmt: skip
    (tmp_path / "t.csv").write_text(csv_text(table), newline="")
    raw = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    assert raw["model"].tolist() == ["'=m1", "-0.50", "''=m3"] and raw["key"].tolist() == ["'-k", "12e45", "k"]
    assert raw["attr.note"].tolist() == ["'=1+1", "''=1", ""] and raw["attr.mixed"].tolist() == ["-0.5", "'+x", "1e-3"]
    assert raw["value"].tolist() == ["-0.1", "0.3333333333333333", ""]
    back = read_csv(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(back, table)


def test_numbers_come_back_to_the_last_bit(tmp_path):
    g = np.random.default_rng(0)
    table = pd.DataFrame({"value": g.normal(size=2000) * 10.0 ** g.integers(-300, 300, 2000), "seed": 2**53 + 1})
    table.loc[0, "value"] = 5e-324
    (tmp_path / "t.csv").write_text(csv_text(table), newline="")
    pd.testing.assert_frame_equal(read_csv(tmp_path / "t.csv"), table, check_exact=True)


def test_names_of_columns_are_texts_too(tmp_path):
    table = pd.DataFrame({"=x": [1.0], "y": ["z"]})
    assert csv_text(table).splitlines()[0] == "'=x,y"
    (tmp_path / "t.csv").write_text(csv_text(table), newline="")
    assert read_csv(tmp_path / "t.csv").columns.tolist() == ["=x", "y"]


def test_a_table_without_rows_keeps_its_columns(tmp_path):
    (tmp_path / "t.csv").write_text(csv_text(pd.DataFrame({"model": [], "value": []})), newline="")
    assert read_csv(tmp_path / "t.csv").columns.tolist() == ["model", "value"]
