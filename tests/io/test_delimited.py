"""Tables that come as text: names stay texts, columns are measures only when they are numbers throughout."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from acutance import UserError
from acutance.analysis.external import Columns, as_run
from acutance.analysis.tables import group_labels
from acutance.cli import cli
from acutance.io.cells import counts, decimal_commas, is_name, plain_numbers
from acutance.io.delimited import Form, MissingColumnError, parse_delimited, read_columns, read_delimited
from acutance.io.tables import read_table
from acutance.run.directory import RunDirectory, read_csv
from acutance.run.outputs import report_data
from acutance.study.attributes import parse_field
from acutance.study.attributes import read as read_attributes
from acutance.workflows.correlating import of_table, write

N = 8
ODD = [
    [f"{i:03}" for i in range(N)], ["1", "01", "001", *map(str, range(2, N - 1))], [f"{i}e400" for i in range(N)],
    ["NA", "None", "null", "nan", "true", "12e45", "-", "1.0"],
]  # fmt: skip


def frame(**more):
    g = np.random.default_rng(0)
    return pd.DataFrame(
        {"name": [f"m{i}" for i in range(N)], "sharp": g.normal(size=N), "err": g.uniform(size=N)} | more
    )


def judged(path, text, *columns, **given):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return of_table(path, Columns(["err"], model="name", **given))


@pytest.mark.parametrize("names", ODD)
def test_names_are_texts_as_they_stand(tmp_path, names):
    tables = judged(tmp_path / "t.csv", frame(name=names).to_csv(index=False))
    assert tables.models["model"].tolist() == names
    write(tables, tmp_path / "out", report=False, say=lambda text: None)
    assert read_csv(tmp_path / "out" / "models.csv")["model"].tolist() == names
    assert report_data(RunDirectory(tmp_path / "out"), {}).members("all")["model"].tolist() == names


@pytest.mark.parametrize(
    "values",
    [["None", "basic"], ["01", "1"], ["1.0", "1.50"], ["1e-3", "0.1"], ["nan", ""], ["a;b", "k=3"], ["a;attr.b=1", "x"],
     ["True", "1"], ["0.1", "0.5"]],
)  # fmt: skip
def test_labels_are_texts_and_levels_are_never_taken_apart(tmp_path, values):
    text = frame(net=values * (N // 2), aug=["p", "p", "q", "q"] * 2).to_csv(index=False)
    tables = judged(tmp_path / "t.csv", text, within=["net"], groups=["aug"])
    found = write(tables, tmp_path / "out", report=False, say=lambda text: None)
    empty = "(no value)" if "nan" in values else ""
    assert set(found["within"]) == {f"net={value or empty}" for value in values}
    data = report_data(RunDirectory(tmp_path / "out"), {})
    for i, value in enumerate(values):
        members = data.members(f"net={value or empty}")
        assert members["model"].tolist() == [f"m{k}" for k in range(i, N, 2)]
        assert set(data.group_of(members)) == {"aug=p", "aug=q"}


def test_two_combinations_never_share_a_label():
    models = pd.DataFrame({"attr.x": ["1;y=2", "1"], "attr.y": ["3", "2;y=3"]})
    labels = group_labels(models, ["x", "y"])
    assert labels.tolist() == ['x="1;y=2";y="3"', 'x="1";y="2;y=3"']


def measures(tables):
    return list(dict.fromkeys(tables.results["measure"]))


@pytest.mark.parametrize("cell", ["diverged", "1,234.5", "0,5", "12%", "007"])
def test_a_column_with_another_cell_is_no_measure_and_says_so(tmp_path, cell):
    trace = ["0.25"] * 3 + [cell] + ["0.5"] * (N - 4)
    tables = judged(tmp_path / "t.csv", frame(trace=trace).to_csv(index=False))
    assert measures(tables) == ["sharp"]
    assert f"column 'trace' is no measure: row 4 says '{cell}', which is no number" in tables.notes
    if cell != "007":
        with pytest.raises(UserError, match="--measures: row 4 of column 'trace' is not a number"):
            judged(tmp_path / "t.csv", frame(trace=trace).to_csv(index=False), measures=["trace"])


def test_words_for_missing_values_are_counted(tmp_path):
    text = frame(trace=["NA", "nan", *map(str, range(N - 2))]).to_csv(index=False)
    tables = judged(tmp_path / "t.csv", text)
    assert measures(tables) == ["sharp", "trace"] and tables.results["status"].eq("unsupported").sum() == 2
    assert "column 'trace': 2 cells say 'NA' and count as missing" in tables.notes


def test_index_columns_are_left_out_and_said(tmp_path):
    plain = frame()
    texts = [
        plain.to_csv(), plain.reset_index().to_csv(index=False), plain.rename_axis("Unnamed: 0").to_csv(),
        "\n".join(f"{line}," for line in plain.to_csv(index=False).splitlines()),
        "\n".join(f"{line}{',' * (i > 0)}" for i, line in enumerate(plain.to_csv(index=False).splitlines())),
    ]  # fmt: skip
    for text in texts:
        tables = judged(tmp_path / "t.csv", text)
        assert measures(tables) == ["sharp"] and len(tables.notes) == 1 and "left out" in tables.notes[0], text[:40]


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_way_a_table_is_written_is_found_and_said(tmp_path, separator, decimal, encoding):
    plain = frame()
    text = plain.to_csv(index=False, sep=separator, decimal=decimal).replace("\n", "\r\n")
    tables = judged(tmp_path / "t.csv", text.encode(encoding))
    assert tables.results["value"].tolist() == plain["sharp"].tolist()
    said = " ".join(tables.notes)
    assert ("decimal comma in 'sharp', 'err'" in said) == (decimal == ",") and ("UTF-16" in said) == (
        encoding == "utf-16"
    )
    assert ("separated by" in said) == (separator != ",")


def test_a_comma_of_thousands_is_no_decimal_comma():
    assert decimal_commas([["1,234", "2,345"]]) == [] and decimal_commas([["1,234", "2,5"]]) == [0]
    assert decimal_commas([["1,5", "2.5"]]) == [] and decimal_commas([["0,125", "NA"]]) == [0]


@pytest.mark.parametrize(
    "data,message",
    [
        (b"PK\x03\x04rest", "is an Excel workbook"), (b"a,b\nx,1\ny,\xe9\n", "line 3 is not UTF-8 .byte 0xe9"),
        (b"a,b\nx,1,2\n", "line 2 has 3 fields, the header 2"), (b"a,a\nx,1\n", "column 'a' is there twice"),
        (b"a,\nx,k\n", "column 2 has no name"), (b"<html><body>", "is a page of the web"), (b"a\x00b", "no table of texts"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_one_sentence(data, message):
    with pytest.raises(UserError, match=message):
        parse_delimited(data, "t.csv")


def test_a_row_without_a_name_and_a_call_without_columns(tmp_path):
    with pytest.raises(UserError, match="--model: row 3 names no model"):
        judged(tmp_path / "t.csv", frame(name=["a", "b", "", *"defgh"]).to_csv(index=False))
    done = CliRunner().invoke(cli, ["correlate", str(tmp_path / "t.csv")])
    assert "numbers: sharp, err; other columns: name" in str(done.exception)


def test_json_keeps_texts(tmp_path):
    records = json.loads(frame().to_json(orient="records"))
    for i, record in enumerate(records):
        record["name"] = f"{i:03}"
    (tmp_path / "t.json").write_text(json.dumps(records))
    assert read_table(tmp_path / "t.json")[0]["name"].tolist() == [f"{i:03}" for i in range(N)]


def test_texts_of_a_frame_are_never_silently_missing():
    with pytest.raises(UserError, match="row 1 of column 'sharp' is not a number: 'high'"):
        as_run(frame().assign(sharp="high"), Columns(["err"], ["sharp"], "name"))


def test_fields_that_are_names():
    assert [parse_field(text) for text in ("007", "0", "5e400", "0.50", "inf")] == [
        "007",
        0,
        "5e400",
        0.5,
        float("inf"),
    ]


def test_output_never_replaces_an_input_or_a_strangers_file(tmp_path):
    def refused(*arguments):
        done = CliRunner().invoke(cli, ["correlate", *map(str, arguments), "--targets", "err", "--no-report"])
        assert isinstance(done.exception, UserError), done.output
        return str(done.exception)

    for name in ("made.csv", "results.csv"):
        path = tmp_path / name
        text = frame().to_csv(index=False)
        path.write_text(text)
        for out in (path, tmp_path) if name == "results.csv" else (path,):
            assert "is a file that is read" in refused(path, "--out", out)
        assert path.read_text() == text
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("mine: 1")
    assert "config.yaml is there, and acutance did not write it" in refused(
        tmp_path / "made.csv", "--out", tmp_path / "other"
    )
    for _ in range(2):
        again = [
            "correlate",
            str(tmp_path / "made.csv"),
            "--targets",
            "err",
            "--out",
            str(tmp_path / "out"),
            "--no-report",
        ]
        assert CliRunner().invoke(cli, again).exit_code == 0


def put(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: data.decode().encode("utf-16")])
def test_columns_of_a_file_are_found_by_name_and_the_rest_may_be_anything(tmp_path, pack):
    text = 'id,x,,x,text\n1, 0.5 ,?,9,"a, b"\n\n2,7\n3,1,2,3,c,d,e\n4,8,5,6\n'
    path = put(tmp_path / "t.csv", pack(text.encode()))
    wanted = [["no", "text"], ["x"]]
    rows = [(2, ["a, b", "0.5"]), (4, ["-", "7"]), (5, ["c", "1"]), (6, ["-", "8"])]
    assert read_columns(path, wanted, fill="-") == rows
    with pytest.raises(UserError, match=r"t.csv: line 4 has 2 fields, the header 5"):
        read_columns(path, wanted)
    with pytest.raises(MissingColumnError, match=r"t.csv: has no column y or z.*its columns: id, x,  and 2 more"):
        read_columns(path, [["y", "z"]])


def test_separators_are_found_by_the_rows_and_the_first_of_two_that_fit_is_taken():
    tie = parse_delimited(b"a;b|c\n1;2|3\n", "t.csv")
    assert (tie.header, tie.rows) == (["a", "b|c"], [(2, ["1", "2|3"])])
    ended = parse_delimited(b"a;b\n1;2;\n3;4;\n", "t.csv")
    assert (ended.header, ended.rows) == (["a", "b"], [(2, ["1", "2"]), (3, ["3", "4"])])
    with pytest.raises(UserError, match="line 2 has 3 fields, the header 2"):
        parse_delimited(b"a,b\n1,2,3\n", "t.csv")


def test_the_ending_says_how_a_table_is_read(tmp_path):
    text = "a,b\tc\n1,2\tx\n"
    assert read_table(put(tmp_path / "t.tsv", text))[0].columns.tolist() == ["a,b", "c"]
    assert read_table(put(tmp_path / "t.csv", text))[0].columns.tolist() == ["a", "b\tc"]
    marked = read_table(put(tmp_path / "t.json", b"\xef\xbb\xbf" + b'[{"a": 1}]'))[0]
    assert marked.to_dict("list") == {"a": [1]}
    with pytest.raises(UserError, match="column 'a' is there twice"):
        read_table(put(tmp_path / "t.jsonl", '{"a": 1, " a": 2}\n'))


def test_what_a_cell_says():
    assert plain_numbers(["1", "-.5e3"]) == [1.0, -500.0]
    assert plain_numbers(["1", "1e400"]) is None and plain_numbers(["007"]) is None and plain_numbers([]) is None
    assert counts(["0", "1", "2"]) and counts(["1", "2"]) and not counts(["2", "3"]) and not counts(["0", "2"])
    assert is_name("007") and is_name("5e400") and not any(map(is_name, ["inf", "-Infinity", "0", "0.7", "7e4"]))


def test_texts_stay_as_they_stand_where_nothing_is_quoted_or_stripped(tmp_path):
    path = put(tmp_path / "t.tsv", 'a\tb\n "x\t y\n\n\t\n')
    form = Form("\t", quoted=False, stripped=False)
    assert read_columns(path, [["a"], ["b"]], form) == [(2, [' "x', " y"]), (4, ["", ""])]
    assert read_columns(path, [["a"]], Form("\t", quoted=False)) == [(2, ['"x'])]


def test_what_cannot_be_read_is_one_sentence_for_whole_tables_and_for_columns_alike(tmp_path):
    gone, damaged, latin = tmp_path / "none.csv", tmp_path / "d.csv", tmp_path / "l.csv"
    put(damaged, gzip.compress(b"a,b\n" * 500)[:-30])
    put(latin, b"a,b\nx,1\ny,\xe9\n")
    for read in (
        lambda path: read_delimited(path, "look again"),
        lambda path: read_columns(path, [["a"]], hint="look again"),
    ):
        for path, message in ((gone, "none.csv: no such file"), (damaged, "d.csv: cannot be read"),
                              (latin, "l.csv: cannot be read: line 3 is not UTF-8 .byte 0xe9")):  # fmt: skip
            with pytest.raises(UserError, match=message) as told:
                read(path)
            assert path == latin or told.value.hint == "look again"


def test_decimal_commas_become_points_once_for_all_readers(tmp_path):
    text = "model;x;n\na;0,5;u,v\nb;1,25;w\n"
    table = parse_delimited(text.encode(), "t.csv").with_points("t.csv")
    assert table.rows == [(2, ["a", "0.5", "u,v"]), (3, ["b", "1.25", "w"])]
    note = "t.csv: the comma is a decimal comma in 'x', as in '0,5'"
    assert table.notes[-1] == note and table.with_points("t.csv") is table
    path, notes = put(tmp_path / "t.csv", text), []
    assert read_attributes(path, notes)[1] == {"a": {"x": 0.5, "n": "u,v"}, "b": {"x": 1.25, "n": "w"}}
    assert read_table(path)[0]["x"].tolist() == ["0.5", "1.25"]
    assert notes == read_table(path)[1] and notes[-1].endswith(note)
