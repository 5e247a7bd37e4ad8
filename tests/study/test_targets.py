"""Targets that are made of cells: sums of errors, losses, and the perplexity of a loss."""

import math

import pytest

from acutance import UserError
from acutance.analysis.judging import outcomes
from acutance.study.targets import parse_target

SPLITS = ("train", "test", "code")


@pytest.mark.parametrize("name", ["code.perplexity", "code_perplexity"])
def test_a_perplexity_is_the_exponential_of_a_loss(name):
    target = parse_target(name, SPLITS)
    assert target.terms == ((1, "loss", "code"),) and target.of([2.0]) == math.exp(2.0)
    assert target.of([709.0]) == math.exp(709.0) and target.of([710.0]) is None and target.of([math.inf]) is None


def test_other_targets_are_sums():
    assert parse_target("code.loss", SPLITS).of([2.0]) == 2.0
    assert parse_target("code.gap", SPLITS).of([0.5, 0.2]) == pytest.approx(0.3)
    assert parse_target("code.loss", SPLITS).of([math.inf]) == math.inf


def test_a_perplexity_of_no_split_is_told():
    with pytest.raises(UserError, match=r"unknown target 'cod.perplexity'.*code.perplexity"):
        parse_target("cod.perplexity", SPLITS)


def test_a_loss_and_its_perplexity_count_once():
    assert outcomes(["code.perplexity", "code.loss", "test_loss", "test.perplexity"]) == [
        "code.perplexity",
        "test_loss",
    ]
    assert outcomes(["code.loss", "code_perplexity", "code.error"]) == ["code.loss", "code.error"]


def test_a_usual_target_whose_split_is_missing_says_which():
    with pytest.raises(UserError, match=r"unknown target 'test_error': there is no split 'test' .*splits: train"):
        parse_target("test_error", ("train",))
    with pytest.raises(UserError, match=r"unknown target 'tset_error'") as told:
        parse_target("tset_error", ("train",))
    assert "'test_error'" not in told.value.hint  # what is not there is no proposal
