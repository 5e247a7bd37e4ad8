"""Every figure and table of the paper, one by one: the study that claims it measures what it shows."""

import csv
from pathlib import Path

import pytest

from acutance.study.config import load_config, presets

ROOT = Path(__file__).parents[2]
OOD = ("v2", "r", "sketch", "a", "objectnet")
IMAGENET = ("test_error", *(f"{name}.error" for name in OOD))
GAPS = ("generalization_gap", *(f"{name}.gap" for name in OOD))
HANS = ("test_error", "lexical_overlap.error", "subsequence.error", "constituent.error")
CIFAR = ("test_error", "corruptions.error")
SMALL, LARGE = (0.001, 0.002, 0.004), (0.05, 0.1, 0.2)


def definitions(measure, norm, scaling, logit_norm, radii):
    return {(measure, norm, scaling, logit_norm, rho) for rho in radii}


def adaptive(worst, average, norms=(False, True)):
    """What Sections 4 and App. C to G measure: l-infinity, elementwise adaptive, worst and average case."""
    return {
        found
        for logit_norm in norms
        for kind, radii in (("worst_case", worst), ("average_case", average))
        for found in definitions(kind, "linf", "elementwise", logit_norm, radii)
    }


def printed(setting):
    """The definitions of a setting of Tables 1-4, from the published correlations."""
    path = ROOT / "registry" / "acutance" / "reference" / "published_tau.csv"
    with path.open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["setting"] == setting]
    assert rows
    return {
        (
            row["measure"],
            row["spec.norm"],
            row["spec.scaling"],
            row["spec.logit_norm"] == "true",
            float(row["spec.rho"]),
        )
        for row in rows
    }


def of_h4(norm, scaling, logit_norm, setting):
    return {found for found in printed(setting) if found[1:4] == (norm, scaling, logit_norm)}


H4 = (("l2", "none", False), ("l2", "elementwise", False), ("l2", "elementwise", True),
      ("linf", "none", False), ("linf", "elementwise", False), ("linf", "elementwise", True))  # fmt: skip
ONE = {"worst_case": (0.002,), "average_case": (0.1,)}
WORST_LN = ("worst_case", "linf", "elementwise", True)
RESNET, VIT = (0.001, 0.002, 0.004, 0.008), (0.0005, 0.001, 0.002, 0.004)

# what is printed -> study, definitions, targets, other attributes that are shown
SHOWN = {
    "Figure 1": ("linear_scale", set(), ("attr:scale",)),
    "Figure 2": ("imagenet_vit", adaptive((0.002,), ()), IMAGENET),
    "Figure 3": ("clip", adaptive((0.002,), ()), IMAGENET),
    "Figure 4": ("mnli_bert", adaptive((0.0005,), ()), HANS),
    "Figure 5": ("cifar10_resnet,cifar10_vit", adaptive((0.002,), ()), CIFAR),
    "Figure 6": ("cifar10_resnet,cifar10_vit", adaptive((0.002,), ()), ()),
    "Figure 7": ("dln", set(), ("test_loss",)),
    "Figure 8": ("imagenet_vit", adaptive((0.002,), ()), IMAGENET + GAPS),
    "Figure 9": ("clip", adaptive((0.002,), ()), IMAGENET + GAPS),
    **{f"Figure {i}": ("imagenet_vit", adaptive(SMALL, LARGE), IMAGENET) for i in range(10, 14)},
    **{f"Figure {i}": ("imagenet_vit_in21k", adaptive(SMALL, LARGE), IMAGENET) for i in range(14, 18)},
    **{f"Figure {i}": ("imagenet_joint", adaptive(SMALL, LARGE), IMAGENET) for i in (18, 19)},
    "Figure 20": ("clip", adaptive((0.002,), (0.1,)), ()),
    **{f"Figure {i}": ("clip", adaptive(SMALL, SMALL), IMAGENET) for i in range(21, 25)},
    **{f"Figure {i}": ("mnli_bert", adaptive((0.0005, 0.001, 0.002), (0.1, 0.2, 0.4)), HANS) for i in range(25, 29)},
    "Figure 29": ("cifar10_augmented", definitions("average_case", *WORST_LN[1:], (0.1, 0.2, 0.4, 0.8)), ()),
    "Figure 30": ("cifar10_iterations", definitions(*WORST_LN, RESNET), ("test_error",)),
    "Figure 31": ("cifar10_m_resnet", definitions(*WORST_LN, RESNET), ("test_error",)),
    "Figure 32": ("cifar10_m_vit", definitions(*WORST_LN, VIT), ("test_error",)),
    **{f"Figure {33 + i}": ("cifar10_resnet", of_h4(*kind, "cifar10_resnet18"), CIFAR) for i, kind in enumerate(H4)},
    **{f"Figure {39 + i}": ("cifar10_vit", of_h4(*kind, "cifar10_vit"), CIFAR) for i, kind in enumerate(H4)},
    "Table 1": ("imagenet_vit,imagenet_vit_in21k,clip", set(), IMAGENET),
    "Table 2": ("mnli_bert", printed("mnli_from_bert"), HANS),
    "Table 3": ("cifar10_resnet", printed("cifar10_resnet18"), CIFAR),
    "Table 4": ("cifar10_vit", printed("cifar10_vit"), CIFAR),
}  # fmt: skip
TABLE_1 = {
    "imagenet_vit": "imagenet1k_scratch",
    "imagenet_vit_in21k": "imagenet1k_from_in21k",
    "clip": "imagenet1k_from_clip",
}
STUDIES = {**presets(), **{path.stem: path for path in (ROOT / "benchmarks").glob("*.yaml")}}


def measured(study):
    found = set()
    for planned in study.measures:
        spec = planned.spec
        if planned.item.name in ("worst_case", "average_case"):
            found.add((planned.item.name, spec.norm, spec.scaling, spec.logit_norm, spec.rho))
    return found


def names(study):
    return {target.name for target in study.targets}


@pytest.fixture(scope="module")
def studies():
    return {name: load_config(path) for name, path in STUDIES.items()}


def test_each_figure_and_table_is_claimed_by_the_studies_that_draw_it_and_by_no_other(studies):
    assert set(SHOWN) == {*(f"Figure {i}" for i in range(1, 45)), *(f"Table {i}" for i in range(1, 5))}
    for what, (of, _, _) in SHOWN.items():
        assert {name for name, study in studies.items() if what in study.file.paper} == set(of.split(",")), what


@pytest.mark.parametrize("what", SHOWN)
def test_a_study_measures_what_the_figure_shows(studies, what):
    of, wanted, targets = SHOWN[what]
    for name in of.split(","):
        wanted = printed(TABLE_1[name]) if what == "Table 1" else wanted
        assert wanted <= measured(studies[name]), (what, sorted(wanted - measured(studies[name])))
        assert set(targets) <= names(studies[name]), what


def test_what_only_one_figure_shows(studies):
    assert {planned.spec.steps for planned in studies["cifar10_iterations"].measures} == {20, 50, 100, 200}
    assert studies["cifar10_augmented"].dataset.spec.augmentation == "randaugment"
    assert {planned.item.name for planned in studies["dln"].measures} == {
        "dln_trace",
        "dln_top_eigenvalue",
        "dln_beta_norm",
    }
    for name in ("clip", "cifar10_resnet", "cifar10_vit"):  # Figures 3, 6 and 20 colour by it
        assert studies[name].file.figures.colour == "learning_rate"
