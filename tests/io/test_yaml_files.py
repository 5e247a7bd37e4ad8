"""YAML is version 1.2: what a plain word is, what is refused, and that no size hangs or floods a message."""

import math
import time
from pathlib import Path

import pytest
import yaml

from acutance import UserError
from acutance.io.yaml_files import dump_yaml, parse_yaml
from acutance.study.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("off", "off"), ("Y", "Y"), ("true", True), ("False", False), ("tRUE", "tRUE"),
        ("010", 10), ("-7", -7), ("0o17", 15), ("0x1F", 31), ("0b1", "0b1"), ("1_000", "1_000"), ("1:30", "1:30"),
        ("1e-3", 0.001), ("1E5", 1e5), ("+.5", 0.5), ("2.", 2.0), ("-.inf", -math.inf), (".INF", math.inf),
        ("2026-01-02", "2026-01-02"), ("~", None), ("", None), ("'1'", "1"), ("=", "="), ("!!str 5", "5"),
    ],
)  # fmt: skip
def test_plain_words_are_those_of_yaml_1_2(text, value):
    found = parse_yaml(text, "f.yaml")
    assert found == value and type(found) is type(value)
    assert math.isnan(parse_yaml(".nan", "f.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x {b: 1}\nc:\n  <<: *x", r"line 3, column 3: merge keys \(<<\) are not part of YAML 1.2"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is given twice"),
        ("? [a]\n: 1", "a list or a mapping is used as a key"),
        ("!!set {a}", "the tag '!!set' asks for more than plain data"),
        ("!!python/object:os.system {}", "more than plain data"),
        ("!!int yes", "'yes' is no int of YAML 1.2"),
        ("1e999", "'1e999' is larger than any number"),
        ("9" * 5000, "a number of 5000 digits"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("[" * 5000, "nested more than 50 deep"),
        ("!!map [1]", "is marked as a mapping, but is none"),
    ],
)
def test_what_is_refused_is_one_sentence(text, message):
    with pytest.raises(UserError, match=message) as refused:
        parse_yaml(text, "f.yaml")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def same(a, b):
    if isinstance(a, dict | list):
        keys = [list(x) if isinstance(x, dict) else range(len(x)) for x in (a, b)]
        return type(a) is type(b) and list(keys[0]) == list(keys[1]) and all(same(a[k], b[k]) for k in keys[0])
    return type(a) is type(b) and a == b


def test_every_file_of_the_repository_reads_as_before_and_is_written_back():
    paths = [p for place in ("registry", "benchmarks", "plugins") for p in (ROOT / place).rglob("*.yaml")]
    assert len(paths) > 10
    for path in paths:
        data = parse_yaml(path.read_text(), str(path))
        assert same(data, yaml.safe_load(path.read_text())), path
        assert same(parse_yaml(dump_yaml(data), "again"), data)


def test_texts_that_look_like_something_else_are_written_in_quotes():
    data = {"yes": ["1e-3", "010", "1:30", "no", "0o7", "null", "<<", 1e-05, 1e22, True, None, "Größe"]}
    text = dump_yaml(data)
    assert same(parse_yaml(text, "f"), data) and same(yaml.safe_load(text), data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pools": [{"name": "dln", "size": 10**9}]}, r"pools.0.size: .* less than or equal to 100000, got 1000000000"),
        ({"pools": [{"name": "dln", "size": True}]}, r"pools.0.size: a number is wanted here, got True"),
        ({"surface": {"batches": {"sampled": 10**9}}}, r"surface.batches.sampled: .* less than or equal to 100000"),
        ({"surface": {"points": True}}, "surface.points: a number is wanted here, got True"),
        ({"surface": {"augment": "yes"}}, "surface.augment: write true or false, got 'yes'"),
        ({"measures": [{"name": "worst_case", "rho": 0.1, "logit_norm": ["no", 1]}]},
         "measures.0.logit_norm.0: write true or false, got 'no'\n.*measures.0.logit_norm.1: write true or false, got 1"),
        ({"measures": [{"name": "average_case", "rho": 0.1, "replicates": 10**9}]},
         "measures.0.replicates: must be a whole number from 1 to 100000, got 1000000000"),
        ({"measures": [{"name": "worst_case", "rho": list(range(1, 500)), "steps": list(range(1, 500))}]},
         "measures.0: 249001 settings are more than the 100000 of one study: rho has 499, steps has 499"),
        ({"measures": [{"name": "worst_case", "rho": 0.1, "parameters": "blocks.{0..1000000000}.*"}]},
         "measures.0.parameters: more than 100000 layers are named"),
        ({"targets": [["x"] * 400_000]}, r"targets.0: .*, got \['x', .* \.\.\. \(2000000 characters\)"),
        ({"measures": [{"name": "worst_case", "rho": ["a"] * 50}]}, "measures.0.rho.19: .*\n.*: and 30 more mistakes"),
    ],
)  # fmt: skip
def test_sizes_have_limits_that_say_so(toy_config, change, message):
    surface = toy_config["surface"] | change.pop("surface", {})
    start = time.monotonic()
    with pytest.raises(UserError, match=f"(?s){message}") as refused:
        load_config(toy_config | {"surface": surface} | change)
    assert time.monotonic() - start < 10 and len(str(refused.value)) < 5000
