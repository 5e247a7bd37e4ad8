"""Configs: sweeps, paths of mistakes, hostile YAML."""

import copy
import re
import textwrap
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from acutance import UserError
from acutance.io.yaml_files import parse_yaml
from acutance.spec import Spec, validate
from acutance.study.config import load_config, presets


def broken(config, path, value):
    config = copy.deepcopy(config)
    node = config
    for part in path[:-1]:
        node = node[part]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return config


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid(name):
    study = load_config(name)
    assert study.measures and study.targets and study.file.title


def test_the_preset_is_the_papers_grid():
    study = load_config("mnist")
    definitions = {(p.item.name, p.spec.norm, p.spec.scaling, p.spec.logit_norm) for p in study.measures}
    assert len(definitions) == 12 and len(study.measures) == 48
    assert not any(scaling == "none" and logit_norm for _, _, scaling, logit_norm in definitions)
    assert study.surface.points // study.surface.m == 2
    full = load_config("mnist_full")
    assert full.surface.points // full.surface.m == 8
    assert {p.spec.draws for p in full.measures if p.item.name == "average_case"} == {100}


def test_lists_are_sweeps_and_their_product_is_taken_once(toy_config):
    toy_config["measures"] = [
        {"name": "worst_case", "rho": [0.1, 0.2], "norm": ["l2", "linf"], "steps": 5},
        {"name": "worst_case", "rho": 0.1, "norm": "l2", "steps": 5},
        {"name": "average_case", "rho": "1e-3", "replicates": 3},
    ]
    planned = load_config(toy_config).measures
    assert [(p.spec.rho, p.spec.norm) for p in planned[:4]] == [(0.1, "l2"), (0.1, "linf"), (0.2, "l2"), (0.2, "linf")]
    assert [p.replicate for p in planned[4:]] == [0, 1, 2] and planned[4].spec.rho == 1e-3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("measures", 0, "rho"), [0.1, -1], "measures.0.rho.1: Input should be greater than 0"),
        (("measures", 0, "rho"), [0.1, "x"], "measures.0.rho.1: Input should be a valid number"),
        (("measures", 0, "rho"), float("nan"), "measures.0.rho: Input should be a finite number"),
        (("measures", 0, "rho"), float("inf"), "measures.0.rho: Input should be a finite number"),
        (("measures", 0, "rho"), [], "measures.0.rho: the list is empty"),
        (("measures", 0, "rho"), ..., "measures.0.rho: Field required"),
        (("measures", 0, "rhoo"), 1, "measures.0.rhoo: unknown field; did you mean 'rho'"),
        (("measures", 0, "norm"), "l3", "measures.0.norm: Input should be 'l2' or 'linf'"),
        (("measures", 0, "name"), "worst_cas", "measures.0: unknown measure 'worst_cas'.*did you mean 'worst_case'"),
        (("measures", 0, "scaling"), "elementwize", "measures.0.scaling: unknown scaling.*did you mean 'elementwise'"),
        (("measures", 0, "steps"), 2.5, "measures.0.steps: Input should be a valid integer"),
        (("measures", 2, "replicates"), 2, "measures.2.replicates: 'weight_norm' is deterministic"),
        (("measures", 1, "replicates"), 0, "measures.1.replicates: must be a whole number"),
        (("measures",), [], "measures: List should have at least 1 item"),
        (("pools", 0, "name"), "mnist_resnett", "pools.0.name: unknown pool.*did you mean 'mnist_resnet'"),
        (("pools", 0, "sizes"), 3, "pools.0.sizes: unknown field; did you mean 'size'"),
        (("pools", 0, "name"), ..., "pools.0.name: give the name"),
        (("dataset", "name"), "mnist", "dataset.name: unknown dataset 'mnist'"),
        (("surface", "m"), 64, "surface.m: 64 examples in a batch, but only 32 points"),
        (("surface", "m"), 0, "surface.m: Input should be greater than 0"),
        (("surface", "split"), "trian", "surface.split: unknown split 'trian'.*did you mean 'train'"),
        (("surface", "dtype"), "float16", "surface.dtype: Input should be 'float32', 'float64' or 'native'"),
        (("targets",), ["tset_error"], "targets.0: unknown target 'tset_error'.*did you mean 'test_error'"),
        (
            ("targets",),
            ["measure:weight_nrom"],
            "targets.0: .*none of the study's measures.*did you mean 'weight_norm'",
        ),
        (("targets",), ["measure:worst_case"], r"is 2 of the study's measures.*measure:worst_case\(rho=...\)"),
        (("targets",), ["measure:worst_case(rho=0.3)"], "none of the study's measures"),
        (("targets",), ["measure:worst_case(rho)"], "targets.0: 'measure:worst_case.rho.' is not a measure's value"),
        (("admit",), {"measure:weight_norm": {"max": 1}}, "admit.measure:weight_norm: .*admitted models only"),
        (("targets",), [], "targets: List should have at least 1 item"),
        (("admit",), {"train_eror": {"max": 1}}, "admit.train_eror: unknown target"),
        (("within",), ..., "within: Field required"),
        (("format",), 2, "format: 2 was written for a newer acutance, this one reads 1"),
        (("format",), 0, "format: 0 is none that acutance reads"),
        (("format",), "1", "format: Input should be 1"),
        (("seed",), -1, "seed: Input should be greater than or equal to 0"),
        (("executor",), {"name": "procesess"}, "executor.name: unknown executor.*did you mean 'processes'"),
        (("executor",), {"name": "processes", "workers": 0}, "executor.workers: Input should be greater than 0"),
        (
            ("executor",),
            {"name": "serial", "time_limit": 5},
            r"executor.time_limit: .*executor: \{name: processes, workers: 1, time_limit: ...\}",
        ),
        (("executor",), {"name": "serial", "workers": 5}, "executor.workers: unknown field"),
        (("requires",), {"acutance": ">=99"}, "requires.acutance: needs >=99, installed is"),
        (("requires",), {"no-such-dist": ">=1"}, "requires.no-such-dist: is not installed"),
        (("requires",), {"acutance": "newest"}, "is not a version specifier"),
        (("extra",), 1, "extra: unknown field"),
    ],
)
def test_a_mistake_is_told_with_its_path(toy_config, path, value, message):
    with pytest.raises(UserError, match=message):
        load_config(broken(toy_config, path, value))


def test_all_mistakes_are_told_at_once(toy_config):
    toy_config["measures"][0]["rho"] = -1
    toy_config["surface"]["m"] = 64
    toy_config["targets"] = ["nonsense"]
    with pytest.raises(UserError) as caught:
        load_config(toy_config)
    assert len(caught.value.message.splitlines()) == 3


def test_a_file_is_named_in_its_mistakes(toy_config, tmp_path):
    path = tmp_path / "bad.yaml"
    toy_config["measures"][0]["rho"] = [0.1, -1]
    path.write_text(yaml.safe_dump(toy_config))
    with pytest.raises(UserError, match=r"bad\.yaml: measures\.0\.rho\.1"):
        load_config(path)


def test_overrides(toy_config):
    study = load_config(toy_config, ["surface.points=16", "measures.0.rho=[0.5]", "pools.0.size=2"])
    assert study.surface.points == 16 and study.measures[0].spec.rho == 0.5 and study.pools[0].spec.size == 2
    for bad in ("surface.points", "measures.9.rho=1", "pools.x=1"):
        with pytest.raises(UserError, match="--set"):
            load_config(toy_config, [bad])


def test_a_remainder_is_reported(toy_config):
    toy_config["surface"]["points"] = 35
    assert load_config(toy_config).warnings == ["surface: 3 of 35 points do not fill a batch of 8 and are dropped"]


@pytest.mark.parametrize("source", ["mnizt", "/no/such/file.yaml", "/"])
def test_a_missing_config_is_told(source):
    with pytest.raises(UserError, match=r"neither a file nor a preset|is a folder"):
        load_config(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "not valid YAML at line"),
        ("a: !!python/object/apply:os.system ['echo hi']", "asks for more than plain data"),
        ("a: 1\na: 2", "the key 'a' is given twice"),
        ("a: &x [*x]", "contains itself"),
        ("\t- a", "not valid YAML"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested more than 50 deep"),
        ("x" * 2_000_000, "longer than"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "\n".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
            "aliases expand to more than",
        ),
    ],
)
def test_hostile_yaml_is_refused_in_one_sentence(text, message):
    with pytest.raises(UserError, match=message):
        parse_yaml(text, "config.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00bad", b"- just\n- a list", b"", b"42"])
def test_files_that_are_no_mapping(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read|a study is a mapping"):
        load_config(path)


def test_the_readme_of_the_format(toy_config):
    """A config written as in the design: comments, flow style, sweeps of booleans."""
    text = textwrap.dedent(
        """
        format: 1
        pools: [{name: toy, size: 2}]   # a comment
        dataset: {name: toy}
        within: []
        measures:
          - {name: worst_case, norm: linf, rho: [0.001, 0.002], logit_norm: [false, true]}
        """
    )
    study = load_config(parse_yaml(text, "x"))
    assert [p.spec.logit_norm for p in study.measures] == [False, True, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p": -1}, "some.p: Input should be greater than or equal to 1 or 'inf', got -1"),
        ({"p": "zzz"}, "some.p: Input should be a valid number, .*or 'inf', got 'zzz'"),
        ({"few": [1, "x"]}, "some.few.1: Input should be a valid number"),
        ({"words": {"a": [1]}}, r"some.words.a: Input should be a valid integer or a valid string, got \[1\]"),
    ],
)
def test_a_value_that_may_be_written_in_several_ways_has_one_place(settings, message):
    class Several(Spec):
        p: Annotated[float, Field(ge=1)] | Literal["inf"] = 2.0
        """A number or a word."""
        few: tuple[float, ...] | None = None
        """Numbers."""
        words: dict[str, int | str] | None = None
        """Anything."""

    with pytest.raises(UserError, match=f"^{message}") as found:
        validate(Several, settings, "some")
    assert not re.search(r"constrained|literal\[|\.(int|str|float)\b", str(found.value))
