"""The reference table holds what the paper prints, all of it, in columns that fit our own tables."""

import pytest

from acutance import UserError
from acutance.analysis.published import published

KEY = ["setting", "measure", "spec.norm", "spec.scaling", "spec.logit_norm", "spec.rho", "target"]


def test_all_of_tables_1_to_4_is_there_once():
    table = published()
    assert table["table"].value_counts().to_dict() == {1: 144, 2: 48, 3: 96, 4: 96}
    assert table.notna().all().all() and not table.duplicated(KEY).any() and table["tau"].abs().max() < 0.7
    assert dict(table.groupby("table")["setting"].nunique()) == {1: 3, 2: 1, 3: 1, 4: 1}


@pytest.mark.parametrize(
    "setting,measure,norm,scaling,logit_norm,rho,target,tau",
    [
        ("imagenet1k_scratch", "worst_case", "linf", "elementwise", True, 0.001, "IN", 0.09),
        ("imagenet1k_scratch", "average_case", "linf", "elementwise", False, 0.05, "IN-v2", -0.56),
        ("imagenet1k_from_in21k", "worst_case", "linf", "elementwise", False, 0.002, "IN-Sketch", 0.11),
        ("imagenet1k_from_clip", "average_case", "linf", "elementwise", False, 0.001, "IN-R", -0.62),
        ("mnli_from_bert", "average_case", "linf", "elementwise", False, 0.2, "HANS-L", -0.58),
        ("cifar10_resnet18", "average_case", "l2", "none", False, 0.05, "CIFAR-10", 0.14),
        ("cifar10_resnet18", "average_case", "linf", "elementwise", True, 0.8, "CIFAR-10-C", -0.62),
        ("cifar10_vit", "worst_case", "linf", "elementwise", False, 0.0005, "CIFAR-10", -0.68),
        ("cifar10_vit", "worst_case", "linf", "none", False, 0.00001, "CIFAR-10-C", -0.63),
    ],
)
def test_cells_are_as_printed(setting, measure, norm, scaling, logit_norm, rho, target, tau):
    t = published(setting)
    found = t[
        (t["measure"] == measure) & (t["spec.norm"] == norm) & (t["spec.scaling"] == scaling)
        & (t["spec.logit_norm"] == logit_norm) & (t["spec.rho"] == rho) & (t["printed_target"] == target)
    ]  # fmt: skip
    assert found["tau"].tolist() == [tau]


def test_the_error_on_the_own_test_set_is_called_as_ours():
    own = published().query("target == 'test_error'")
    assert set(own["printed_target"]) == {"IN", "MNLI", "CIFAR-10"} and len(own) == 144 / 4 + 48 / 4 + 96


def test_an_unknown_setting_is_told_with_the_nearest():
    with pytest.raises(UserError, match=r"no setting 'cifar10_vits'.*cifar10_vit'"):
        published("cifar10_vits")
