"""acutance show: formulas, settings, an example that is valid, what to cite."""

import json
import re
from pathlib import Path

import pydantic
import pytest
import yaml
from third_parties import plugin, python

import acutance
from acutance import references
from acutance.cli.describing import cost_line, describe, type_text
from acutance.cli.formula import readable, unicode
from acutance.errors import UserError
from acutance.plugins import KINDS, Item, catalog
from acutance.references import entries, known
from acutance.spec import Spec

FORMULAS = {
    r"S_{max}^\rho(w, c) = \max_{\|\delta \oslash c\|_p \le \rho} L_S(w + \delta)": (
        "S_max^ρ(w, c) = max_{‖δ ⊘ c‖_p ≤ ρ} L_S(w + δ)"
    ),
    r"E_{\delta}\, L_S(w + \delta) - L_S(w)": "E_δ L_S(w + δ) − L_S(w)",
    r"\frac{\rho^2}{2} tr(\nabla^2 L \odot cc^\top)": "ρ²/2 tr(∇²L ⊙ ccᵀ)",
    r"\frac1n \sum_i 1[\arg\max_k f_k(x_i) \ne y_i]": "1/n ∑_i 1[argmax_k f_k(x_i) ≠ y_i]",
    r"\tau_b = S / \sqrt{(n_0 - n_1)(n_0 - n_2)}": "τ_b = S / √((n₀ − n₁)(n₀ − n₂))",
    r"\beta \langle \nabla L, \delta \rangle": "β⟨∇L, δ⟩",
    r"\delta \sim N(0, \rho^2 \mathrm{diag}(c^2))": "δ ~ N(0, ρ² diag(c²))",
    r"L_S(w^*)": "L_S(w*)",
    r"x^{-1/2} + a_{12}": "x^{−1/2} + a₁₂",
    r"\hat w \in \{0, 1\}": "ŵ ∈ {0, 1}".replace("ŵ", "w\u0302"),
    r"\left\| \frac{a+b}{c} \right\|": "‖ (a+b)/c ‖",
    r"\unknown{x} \text{for all } x": "unknownx for all  x",
    "": "",
    "{": "",
    "}a": "",
    "^": "^{}",
}


@pytest.mark.parametrize("tex", FORMULAS)
def test_formulas_in_unicode(tex):
    assert unicode(tex) == FORMULAS[tex]


@pytest.mark.parametrize(
    "doc",
    [
        "One.\n\n.. math:: a_1 = b\n\nTwo ``x`` of :math:`\\rho`.",
        "One.\n\n.. math::\n\n    a_1\n    = b\n\nTwo ``x`` of :math:`\\rho`.",
    ],
)
def test_a_docstring_becomes_plain_text(doc):
    assert readable(doc) == "One.\n\n    a₁ = b\n\nTwo x of ρ."


@pytest.mark.parametrize("item", [item for kind in KINDS for item in catalog().items(kind)], ids=lambda item: item.id)
def test_no_markup_is_left_in_what_is_installed(item):
    text = readable(describe(item)["doc"])
    assert text and not re.search(r"\\[a-zA-Z]+|``|:math:|\.\. math|[{}]{2}", text)


@pytest.mark.parametrize("item", catalog().items("measures"), ids=lambda item: item.id)
def test_the_example_is_a_valid_setting(item):
    *called, section = describe(item)["example"]
    (chosen,) = yaml.safe_load("measures:\n" + section)["measures"]
    assert catalog().find("measures", chosen.pop("name")) is item
    spec = item.target.Spec.model_validate(chosen)
    if item.target.traits.level == "pool":
        return  # of several models, which a study has
    python, _ = called
    assert python.startswith("acutance.measure(") and compile(python, "example", "eval")
    assert all(f"{name}={getattr(spec, name)!r}" in python for name in chosen)


@pytest.mark.parametrize(
    ("name", "line"),
    {
        "worst_case": "25 forwards, 21 backwards over each m-batch; 5 vectors of the weights' size beside the weights.",
        "hessian_trace": "1 forward, 1 backward, 100 Hessian-vector products over each m-batch; 4 vectors of",
        "output_margin": "1 forward over all points; no vector of the weights' size beside the weights.",
        "trajectory_length": "no pass over the points; 1 vector of the weights' size beside the weights.",
    }.items(),
)
def test_the_cost_is_that_of_the_defaults(name, line):
    about = describe(catalog().find("measures", name))
    assert cost_line(about).startswith(f"Cost at the defaults: {line}")


def test_a_measure_whose_settings_cannot_be_guessed_has_no_cost():
    class Odd(Spec):
        a: str

        @pydantic.field_validator("a")
        @classmethod
        def _only_b(cls, a):
            raise ValueError("never")

    class Strange(acutance.Measure[Odd]):
        """One."""

        name = "strange"

        def evaluate(self, surface, spec, rng):
            return 0.0

    item = Item("measures", "strange", "acme", "1", Strange)
    assert describe(item)["cost"] == {} and describe(item)["example"][0].endswith("a=...)")


def test_types_are_said_in_words():
    class Odd(Spec):
        a: pydantic.PositiveFloat
        b: pydantic.NonNegativeInt | None
        c: tuple[pydantic.PositiveFloat, ...]
        d: str

    found = [type_text(f.annotation, f.metadata) for f in Odd.model_fields.values()]
    assert found == ["float > 0", "int ≥ 0 | null", "list of float > 0", "text"]


def show(*arguments, **options):
    return python("-m", "acutance", "show", *arguments, forked=True, **options)


def test_a_measure_is_shown_with_formula_table_and_use():
    text = show("worst_case").stdout
    assert "    S_max^ρ(w, c) = max_{‖δ ⊘ c‖_p ≤ ρ} L_S(w + δ) − L_S(w)\n" in text
    assert 'acutance.measure("worst_case", model, (inputs, targets), m=128, rho=0.1)' in text
    assert "acutance show worst_case --bibtex" in text
    table = text.partition("Settings\n")[2].partition("\n\n")[0].splitlines()
    assert re.search(r"^  rho +float > 0 +required +Radius of the ball", text, re.M) and len(table) >= 12
    assert len({re.match(r"  \S+ +", line).end() for line in table if line.startswith("  ") and line[2] != " "}) == 1


def test_an_example_is_not_made_up(tmp_path):
    source = """
    from pydantic import Field
    from acutance import hookimpl
    from acutance.measure import Measure, Traits
    from acutance.spec import Spec
    class LargeSpec(Spec):
        size: int = Field(ge=1000)
        '''How large.'''
    class Large(Measure[LargeSpec]):
        '''Large.'''
        name = "large"
        traits = Traits(bibtex=("foret2021sharpness", "@misc{me, title={Mine}}"))
        def evaluate(self, surface, spec, rng):
            return 1.0
    @hookimpl
    def register_measures():
        return [Large]
    """
    plugin(tmp_path, "acme-a", source)
    text = show("large", path=[tmp_path]).stdout
    assert "{name: large, size: ...}" in text and "m=128, size=...)" in text and "int ≥ 1000" in text
    assert show("large", "--bibtex", path=[tmp_path]).stdout.endswith("\n\n@misc{me, title={Mine}}\n")
    # With a second measure of that name, only the canonical one is an example that works.
    plugin(tmp_path, "acme-b", source)
    assert "{name: acme-a/large, size: ...}" in show("acme-a/large", path=[tmp_path]).stdout
    # A citation that nobody knows is the author's mistake, told when the plugin is loaded.
    plugin(tmp_path, "acme-c", source.replace("foret2021sharpness", "foret2021sharpnes"))
    listed = python("-m", "acutance", "list", path=[tmp_path], forked=True).stderr
    assert "acme-c 1.0 failed at spec" in listed and "did you mean 'foret2021sharpness'" in listed


def test_citations():
    text = show("worst_case", "--bibtex").stdout
    keys = re.findall(r"^@inproceedings\{(\w+),$", text, re.M)
    assert keys == ["andriushchenko2023modern", "croce2020reliable", "kwon2021asam", "foret2021sharpness"]
    none = show("weight_norm", "--bibtex")
    sentence = "acme-toy/weight_norm has no work to cite: its definition is linear algebra."
    assert none.stdout == "" and none.stderr == sentence + "\n"
    assert sentence in show("weight_norm").stdout
    for name, why in {
        "error": "acutance/error has no work to cite: its definition is empirical risk under the 0-1 loss.",
        "loss": "acutance/loss has no work to cite: its definition is empirical risk under the loss of the surface.",
        "elementwise": "acutance/elementwise is a scaling: only measures name works to cite.",
        "serial": "acutance/serial is an executor: only measures name works to cite.",
    }.items():
        said = show(name, "--bibtex")
        assert (said.stdout, said.stderr) == ("", why + "\n")
    assert json.loads(show("average_case", "--json").stdout)["bibtex"] == entries(
        ["andriushchenko2023modern", "kwon2021asam"]
    )
    with pytest.raises(UserError, match=r"unknown citation key 'kwon2021'.*did you mean 'kwon2021asam'"):
        entries(["kwon2021"])


@pytest.mark.parametrize("key", known())
def test_entries_are_well_formed(key):
    (entry,) = entries(key)
    kind, place = (
        re.match(r"@(inproceedings|article)\{", entry)[1],
        {"inproceedings": "booktitle", "article": "journal"},
    )
    assert entry.startswith(f"@{kind}{{{key},\n") and entry.endswith("\n}")
    assert entry.count("{") == entry.count("}")
    fields = dict(re.findall(r"^  (\w+) += \{(.*?)\},?$", entry, re.M | re.S))
    assert {"title", "author", place[kind], "year", "url"} <= fields.keys()
    family = re.sub(r"\{\\\"(\w)\}", r"\1e", fields["author"].split(",")[0].lower()).replace(" ", "").replace("-", "")
    assert fields["year"] in key and family in key


def test_every_sharpness_measure_names_what_to_cite():
    for name in ("worst_case", "average_case"):
        assert "andriushchenko2023modern" in acutance.catalog().get("measures", name).traits.bibtex


def test_the_file_of_references_has_each_work_once_and_nothing_else():
    text = Path(references.__file__).with_suffix(".bib").read_text()
    keys = re.findall(r"^@\w+\{([^,]+),", text, re.M)
    assert keys == sorted(set(keys)) and list(known()) == keys
    assert text == "\n\n".join(known().values()) + "\n"
