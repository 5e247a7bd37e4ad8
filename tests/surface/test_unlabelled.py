"""Points without targets: a measure that declares it looks at none cannot, and everything else says so in a sentence."""

import pytest
import torch
from models import MLP, mlp_data
from torch.utils.data import DataLoader

import acutance
from acutance import LossSurface, Status, UserError
from acutance.measure import Measure, Traits
from acutance.numerics.draws import Streams
from acutance.plugins import Item, extended
from acutance.spec import Spec
from acutance.surface.evaluation import evaluate_family


class NoSettings(Spec):
    """None."""


class Confidence(Measure[NoSettings]):
    """Mean of the largest probability, and a draw of noise."""

    name = "confidence"
    traits = Traits(level="dataset", needs={"unlabeled"}, stochastic=True)
    peek = ""

    def evaluate(self, surface, spec, rng):
        if self.peek:
            getattr(surface, self.peek) if self.peek in ("targets", "has_errors") else getattr(surface, self.peek)()
        noise = rng.normal("noise", 0, surface.w[:1])
        return float(surface.clean_logits().softmax(1).amax(1).mean() + noise)


def item(**attributes):
    return Item("measures", "confidence", "acme", "1", type("Mine", (Confidence,), attributes))


def value(data, model=None, **attributes):
    with extended([item(**attributes)]):
        return acutance.measure("acme/confidence", model or MLP(), data)


def test_the_value_is_the_same_whatever_the_targets_are():
    x, y = mlp_data()
    with_targets, others, without = value((x, y)), value((x, y.flip(0))), value((x, None))
    assert with_targets.value == others.value == without.value and without.status is Status.OK
    assert without.cost.forwards == len(x)
    # However the points come.
    assert value([(x[:10], None), (x[10:], None)]).value == without.value
    assert value(DataLoader(list(zip(x, y)), batch_size=7)).value == without.value


@pytest.mark.parametrize("peek", ["targets", "clean", "loss", "losses", "errors", "gradient"])
@pytest.mark.parametrize("labelled", [True, False])
def test_it_cannot_look(peek, labelled):
    x, y = mlp_data()
    found = value((x, y if labelled else None), peek=peek)
    assert found.status is Status.UNSUPPORTED
    assert found.message == (
        "there are no targets here: the points have none, or the measure has declared that it looks at none"
    )


def test_settings_that_need_targets_have_them_beside_those_that_do_not():
    class Choice(Spec):
        labels: bool = True
        """Whether it looks."""

    class Either(Measure[Choice]):
        """The loss, or the confidence."""

        name = "either"
        traits = Traits(level="dataset", needs={"data"})

        def needs(self, spec):
            return frozenset({"data"} if spec.labels else {"unlabeled"})

        def evaluate(self, surface, spec, rng):
            return float(surface.clean().loss if spec.labels else surface.clean_logits().softmax(1).amax(1).mean())

    surface = LossSurface(MLP(), mlp_data())
    specs = [Choice(labels=labels) for labels in (True, False, True)]
    found = evaluate_family("acme/either", Either(), surface, specs, seed=0, batch=0)
    raw = surface.clean_logits()
    assert [e.value for e in found] == [
        float(surface.loss()),
        float(raw.softmax(1).amax(1).mean()),
        float(surface.loss()),
    ]
    assert [e.spec["labels"] for e in found] == [True, False, True] and surface.cost.forwards == surface.n


def test_other_measures_ask_for_targets():
    x, _ = mlp_data()
    for name, fields in (("average_case", {"rho": 0.1}), ("error", {}), ("gradient_norm", {})):
        with pytest.raises(UserError, match=rf"^measure '{name}' needs targets \(labels\), and the data have none"):
            acutance.measure(name, MLP(), (x, None), **fields)
    assert acutance.measure("hessian_trace", LossSurface(MLP(), (x, None))).status is Status.UNSUPPORTED


def test_passes_are_shared_with_the_surface_that_has_targets():
    surface = LossSurface(MLP(), mlp_data())
    bare = surface.unlabelled()
    assert bare is surface.unlabelled() and bare.unlabelled() is bare
    raw = bare.clean_logits()
    assert surface.clean().raw is raw and surface.cost.forwards == bare.cost.forwards == surface.n
    assert (
        torch.equal(bare.restricted("layers.1.*").clean_logits(), raw) and not bare.has_errors and not bare.classifies
    )
    assert bare.digest != surface.digest
    surface.release()
    assert bare.clean_logits() is not raw


def test_derivatives_of_the_logits_need_no_targets():
    surface = LossSurface(MLP(), mlp_data())
    v = Streams("v").normal("v", 0, surface.w)
    u = torch.ones_like(surface.clean_logits())
    bare = surface.unlabelled()
    assert torch.equal(bare.jvp(v), surface.jvp(v)) and torch.equal(bare.vjp(u), surface.vjp(u))


def test_a_batch_of_none_is_refused_where_it_is_no_pair():
    x, _ = mlp_data()
    with pytest.raises(UserError, match="there are no targets"):
        acutance.measure("error", MLP(), [x])
    with pytest.raises(UserError, match="the inputs are texts"):
        LossSurface(MLP(), (["a", "b"], None))
