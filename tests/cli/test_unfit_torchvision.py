"""A torchvision that was built for another torch: verbs and runs say so, in place of what the import raises."""

import sys

import pytest

from acutance.cli import main
from acutance.errors import UserError, in_words, refuse_unfit_torchvision

SAID = "torchvision was built for another torch than the installed one"


class Unfit:
    """Finds timm and torchvision, and fails as an import of theirs does."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("timm", "torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")


@pytest.fixture
def unfit(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Unfit(), *sys.meta_path])


@pytest.mark.parametrize("model", ["timm:resnet18", "torchvision:resnet18"])
def test_a_verb_says_it_in_a_sentence(unfit, model, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["measure", model, "--measure", "parameter_norm"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {SAID}\nhint: 'acutance doctor' says how to install both\n"


def test_the_cause_of_another_error_says_it_too():
    try:
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ModuleNotFoundError("Could not import module 'BertModel'.") from error
    except ModuleNotFoundError as error:
        assert in_words(error) == SAID
        with pytest.raises(UserError, match=SAID):
            refuse_unfit_torchvision(error)


def test_other_errors_stay_what_they_are():
    error = RuntimeError("no such operator")
    refuse_unfit_torchvision(error)
    assert in_words(error) == "RuntimeError: no such operator"
