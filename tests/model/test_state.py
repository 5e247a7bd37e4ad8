"""What a model does to itself in a forward pass: put back, refused by name, or of no consequence."""

import contextlib
import copy
import warnings

import pytest
import torch
from models import MLP, mlp_data
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import acutance
from acutance import LossSurface, UserError
from acutance.errors import NotInParts, Unsupported
from acutance.model.state import _outcome


class Leaving(MLP):
    """Leaves tensors and numbers on itself, as models with auxiliary losses and caches do."""

    def __init__(self):
        super().__init__()
        self.aux, self.cache, self.seen = None, {}, []

    def forward(self, x):
        first = next(self.parameters())
        self.aux, self.late = first.square().sum(), first.sum()
        self.cache["w"] = first
        self.seen.append(first)
        return super().forward(x)


def attributes(model):
    return [(name, key, value) for name, m in model.named_modules() for key, value in vars(m).items()
            if key not in vars(nn.Module())]  # fmt: skip


@pytest.mark.parametrize("make", [
    weight_norm, spectral_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.3), parametrizations.weight_norm,
])  # fmt: skip
def test_a_weight_that_a_hook_makes_is_that_of_the_model_afterwards(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
        make(model[0])
    x, y = mlp_data()
    model.eval()(x)
    before, held = model[0].weight.detach().clone(), vars(model[0]).get("weight")
    surface = LossSurface(model, (x, y))
    acutance.measure("worst_case", surface, rho=0.5, steps=2)
    with contextlib.suppress(Unsupported):  # the double backward of weight_norm is wrong
        surface.hvp(surface.w)
    surface.ggnvp(surface.w)
    list(surface.example_gradients())
    assert torch.equal(before, model[0].weight) and vars(model[0]).get("weight") is held


def test_what_a_forward_leaves_on_a_module_is_taken_off_again():
    model = Leaving()
    model(mlp_data()[0])
    before = [(n, k, v, copy.copy(v) if isinstance(v, list | dict) else None) for n, k, v in attributes(model)]
    surface = LossSurface(model, mlp_data())

    def unchanged():
        now = attributes(model)
        assert [(n, k) for n, k, _ in now] == [(n, k) for n, k, _, _ in before]
        assert all(a is b for (_, _, a), (_, _, b, _) in zip(now, before, strict=True))
        for (_, _, value), (_, _, _, old) in zip(now, before, strict=True):
            if old is not None:
                assert len(value) == len(old)
                pairs = zip(value.values() if isinstance(value, dict) else value,
                            old.values() if isinstance(old, dict) else old, strict=True)  # fmt: skip
                assert all(a is b for a, b in pairs)

    acutance.measure("worst_case", surface, rho=0.5, steps=2)
    unchanged()
    with pytest.raises(UserError, match="w has shape"):
        surface.gradient(surface.w[1:])
    original = MLP.forward
    try:
        MLP.forward = lambda self, x: original(self, x[:, :-1])
        with pytest.raises(RuntimeError):
            surface.gradient(surface.w + 1)
    finally:
        MLP.forward = original
    unchanged()


class Counting(MLP):
    """A counter that nothing reads."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Averaging(Counting):
    """A running mean that is kept in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Module()
        self.inner.register_buffer("mu", torch.zeros(6))

    def forward(self, x):
        self.inner.mu.mul_(0.9).add_(0.1 * x.mean(0).detach())
        return super().forward(x - self.inner.mu)


class Renormalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 6, max_norm=1.0), nn.Linear(6, 4)

    def forward(self, ids):
        return self.head(self.table(ids).mean(1))


class InPlace(MLP):
    def forward(self, x):
        return super().forward(x.mul_(2))


def ids():
    return torch.arange(24)[:, None] % 20, mlp_data()[1]


def test_a_counter_that_nothing_reads_does_no_harm():
    model, plain = Counting(), MLP()
    for name, fields in (("average_case", {"draws": 4}), ("worst_case", {"steps": 2})):
        found = acutance.measure(name, model, mlp_data(), rho=0.1, **fields)
        assert found.value == acutance.measure(name, plain, mlp_data(), rho=0.1, **fields).value
    assert int(model.calls) == 0


@pytest.mark.parametrize("model,data,said", [
    (Averaging, mlp_data, "changes its buffer inner.mu"),
    (Renormalized, ids, "changes its weights table.weight"),
    (InPlace, mlp_data, "changes its inputs in place"),
])  # fmt: skip
def test_a_model_that_changes_what_it_reads_is_named_and_no_measure_blamed(model, data, said):
    model, (x, y) = model(), data()
    weights, inputs = copy.deepcopy(model.state_dict()), x.clone()
    surface = LossSurface(model, (x, y))
    w = surface.w.clone()
    for _ in range(2):
        with pytest.raises(UserError, match=f"the model {said}"):
            acutance.measure("average_case", surface, rho=0.1, draws=2)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(x, inputs) and torch.equal(surface.w, w)


def test_in_a_study_such_a_model_is_a_row_with_the_reason(tmp_path):
    found = acutance.study(
        {"sound": Counting(), "drifts": Averaging()}, mlp_data(), {"given": [0.1, 0.2]},
        [{"name": "average_case", "rho": 0.1, "draws": 2}], surface={"points": 24, "m": 24, "dtype": "float64"},
        report=False, out=tmp_path,
    ).results.set_index("model")  # fmt: skip
    assert found.status.to_dict() == {"sound": "ok", "drifts": "failed"}
    assert "the model changes its buffer inner.mu" in found.message["drifts"]


def normalized_by_the_batch():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5, track_running_stats=False)
    return nn.Sequential(nn.Linear(6, 5), norm, nn.Tanh(), nn.Linear(5, 4)).double()


def test_batch_normalization_without_statistics_is_measured_on_the_whole_batch():
    model, (x, y) = normalized_by_the_batch(), mlp_data()
    surface = LossSurface(model, (x, y))
    expected = nn.functional.cross_entropy(model.eval()(x), y)
    torch.testing.assert_close(surface.loss(), expected.detach())
    for name, fields in (("average_case", {"rho": 0.1, "draws": 2}), ("hessian_trace", {"probes": 2})):
        assert acutance.measure(name, surface, **fields).status.value in ("ok", "not_converged")
    with pytest.raises(Unsupported, match=r"single examples do not exist.*more than 1 value per channel"):
        surface.example_gradients()
    for cut in (lambda: LossSurface(model, (x, y), microbatch=12), lambda: surface):
        parts = cut()
        parts.microbatch = 12
        with pytest.raises(NotInParts, match=r"depends on the other examples.*passes of 12"):
            parts.loss(parts.w + 1)


def test_a_model_that_takes_no_single_example_is_cut_where_none_is_left_over():
    class Squeezing(MLP):
        def forward(self, x):
            if len(x) == 1:
                raise ValueError("one example")
            return super().forward(x)

    parts = LossSurface(Squeezing(), mlp_data(), microbatch=7)
    torch.testing.assert_close(parts.gradient()[1], LossSurface(MLP(), mlp_data()).gradient()[1])
    with pytest.raises(NotInParts, match="cannot pass a single example, the last part of 24 in passes of 23"):
        LossSurface(Squeezing(), mlp_data(), microbatch=23).loss()
    with pytest.raises(Unsupported, match="one example"):
        parts.example_gradients()


def test_a_loss_that_runs_out_of_memory_is_not_said_to_read_the_model():
    def loss(logits):
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        _outcome(loss, torch.zeros(2, 3))
    assert _outcome(lambda logits: logits.nothing, torch.zeros(2, 3)) is None


class Following(MLP):
    """Follows a counter, or a cache of its weights, that its own passes change."""

    def __init__(self, how):
        super().__init__()
        self.how, self.calls, self.cache, self.kept = how, 0, None, []

    def forward(self, x):
        out = super().forward(x)
        if self.how == "counter":
            self.calls += 1
            return out * (1 + 1e-3 * self.calls)
        if self.how == "list":
            self.kept.append(1)
            return out * (1 + 1e-3 * len(self.kept))
        if self.how == "cache":
            self.cache = next(self.parameters()).sum() if self.cache is None else self.cache
            return out * (1 + 1e-3 * self.cache)
        return out * (1 + 1e-3 * (next(self.parameters()).sum() if self.how == "no cache" else 1))


MOVING = {"counter": "frozen", "list": "frozen", "cache": "no cache"}


@pytest.mark.parametrize("how", MOVING)
@pytest.mark.parametrize("name,fields", [
    ("worst_case", {"rho": 0.1, "steps": 4}), ("average_case", {"rho": 0.1, "draws": 6}),
    ("gradient_norm", {"rho": 0.1}), ("hessian_trace", {"probes": 3}),
])  # fmt: skip
def test_every_pass_of_a_search_sees_the_modules_as_the_first_one_did(how, name, fields):
    model, same = Following(how), Following(MOVING[how])
    same.load_state_dict(model.state_dict())
    for microbatch in (None, 8):
        values = [acutance.measure(name, m, mlp_data(), microbatch=microbatch, **fields).value for m in (model, same)]
        assert values[0] == values[1]
    assert (model.calls, model.cache, model.kept) == (0, None, [])


class Rebinding(MLP):
    """Binds what torch keeps in tables of its own anew in each pass: buffers, also of another module, weights, modules."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.register_buffer("t", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mu", torch.zeros(6, dtype=torch.float64))
        self.register_buffer("cache", None)
        self.norm = nn.BatchNorm1d(6, affine=False).double()
        self.gain = nn.Parameter(torch.ones(4, dtype=torch.float64), requires_grad=False)

    def forward(self, x):
        weight = next(self.parameters())
        if self.how == "counter":
            self.t = self.t + 1
            return super().forward(x) * self.t.clamp(max=100)
        if self.how in ("mean", "mean with its graph"):
            kept = 0.1 * weight.sum() + x.new_zeros(6)
            self.mu = 0.9 * self.mu + 0.1 * (kept.detach() if self.how == "mean" else kept)
            return super().forward(x - self.mu)
        if self.how == "layer":
            self.norm.running_mean = self.norm.running_mean + 0.1
            return super().forward(self.norm(x))
        if self.how == "cache":
            self.cache = weight.sum() if self.cache is None else self.cache
            return super().forward(x) * (1 + 1e-3 * self.cache)
        if self.how == "new buffer":
            if not hasattr(self, "late"):
                self.register_buffer("late", weight.sum())
            return super().forward(x) * (1 + 1e-3 * self.late)
        if self.how == "module":
            self.norm = nn.Sequential(self.norm, nn.Softsign())
            return super().forward(self.norm(x))
        self.gain = nn.Parameter(self.gain * 1.1, requires_grad=False)
        return super().forward(x) * self.gain


class Plain(Rebinding):
    """The first pass of each, bound to nothing."""

    def forward(self, x):
        weight = next(self.parameters())
        if self.how in ("mean", "mean with its graph"):
            kept = 0.1 * weight.sum() + x.new_zeros(6)
            return MLP.forward(self, x - (0.9 * self.mu + 0.1 * (kept.detach() if self.how == "mean" else kept)))
        if self.how == "layer":
            return MLP.forward(self, nn.functional.batch_norm(x, self.norm.running_mean + 0.1, self.norm.running_var))
        if self.how in ("cache", "new buffer"):
            return MLP.forward(self, x) * (1 + 1e-3 * weight.sum())
        if self.how == "module":
            return MLP.forward(self, nn.functional.softsign(self.norm(x)))
        return MLP.forward(self, x) * (1 if self.how == "counter" else self.gain * 1.1)


@pytest.mark.parametrize("how", [
    "counter", "mean", "mean with its graph", "layer", "cache", "new buffer", "module", "parameter",
])  # fmt: skip
def test_what_a_pass_binds_anew_is_bound_as_before_in_the_next_one(how):
    torch.manual_seed(0)
    model, same = Rebinding(how), Plain(how)
    same.load_state_dict(model.state_dict())
    tables = [
        (m, name, dict(vars(m)[name])) for m in model.modules() for name in ("_parameters", "_buffers", "_modules")
    ]
    free = "!gain" if how == "parameter" else "all"
    for name, fields in (("average_case", {"rho": 0.1, "draws": 6}), ("worst_case", {"rho": 0.1, "steps": 4})):
        if how in ("mean", "parameter") and name == "worst_case":
            continue  # a part is detached
        values = [acutance.measure(name, m, mlp_data(), parameters=free, **fields).value for m in (model, same)]
        assert values[0] == values[1]
    for module, name, before in tables:
        now = vars(module)[name]
        assert list(now) == list(before) and all(now[key] is value for key, value in before.items())


def test_a_counter_in_place_is_not_blamed_for_a_buffer_bound_anew():
    class Both(Rebinding):
        def forward(self, x):
            self.norm.num_batches_tracked += 1
            return super().forward(x)

    both, one = (
        acutance.measure("average_case", m("counter"), mlp_data(), rho=0.1, draws=3) for m in (Both, Rebinding)
    )
    assert both.value == one.value


def test_a_loss_that_reads_a_buffer_bound_anew_is_refused_and_one_of_a_constant_buffer_is_not():
    model = Rebinding("mean")
    for read, refused in ((lambda: model.mu, True), (lambda: model.norm.running_var, False)):
        surface = LossSurface(
            model, mlp_data(), loss=lambda f, t, r=read: nn.functional.cross_entropy(f, t) + r().sum()
        )
        with pytest.raises(UserError, match=r"leaves on the model \(mu\)") if refused else contextlib.nullcontext():
            surface.loss()


class Embedded(nn.Module):
    def __init__(self, kind, **fields):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = kind(9, 6, **fields), nn.Linear(6, 3)

    def forward(self, ids):
        found = self.table(ids)
        return self.head((found if found.dim() == 2 else found.mean(1)).tanh())


@pytest.mark.parametrize("fields", [{"sparse": True}, {"scale_grad_by_freq": True}], ids=str)
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_embeddings_have_the_gradient_of_the_loss_whatever_they_are_trained_with(kind, fields):
    ids = torch.randint(0, 4, (24, 5), generator=torch.Generator().manual_seed(0))
    points, model = (ids, torch.arange(24) % 3), Embedded(kind, **fields)
    surface, plain = LossSurface(model, points, dtype="float64"), LossSurface(Embedded(kind), points, dtype="float64")
    torch.testing.assert_close(surface.gradient()[1], plain.gradient()[1], rtol=0, atol=0)
    if kind is nn.Embedding:  # the other has no second derivative
        torch.testing.assert_close(surface.hvp(surface.w), plain.hvp(plain.w), rtol=0, atol=0)
        torch.testing.assert_close(surface.ggnvp(surface.w), plain.ggnvp(plain.w), rtol=0, atol=0)
    name = next(iter(fields))
    assert getattr(model.table, name) is True
    model.table(ids).sum().backward()
    assert model.table.weight.grad.is_sparse == (name == "sparse")


class SparseTable(Embedded):
    def forward(self, ids):
        return self.head(nn.functional.embedding(ids, self.table.weight, sparse=True).mean(1).tanh())


def test_a_sparse_gradient_that_a_model_makes_itself_is_taken_for_what_it_is():
    ids = torch.randint(0, 4, (24, 5), generator=torch.Generator().manual_seed(0))
    points = (ids, torch.arange(24) % 3)
    found, plain = LossSurface(SparseTable(nn.Embedding), points), LossSurface(Embedded(nn.Embedding), points)
    torch.testing.assert_close(found.gradient()[1], plain.gradient()[1])
    found.microbatch = 6
    torch.testing.assert_close(found.gradient(found.w + 0)[1], plain.gradient()[1])


class Heads(MLP):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        out = super().forward(x)
        return {"two": (out, out[:, :2]), "list": [out, out], "one": (out,), "none": (out, None)}[self.how]


@pytest.mark.parametrize("how,said", [("two", True), ("list", True), ("one", False), ("none", False)])
def test_which_of_several_outputs_is_measured_is_said_once(how, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = acutance.measure("average_case", Heads(how), mlp_data(), rho=0.1, draws=3)
    sentence = "the model returns 2 outputs: the first, of shape (4,) an example, is measured"
    assert list(found.notes) == [str(w.message) for w in caught] == [sentence] * said


def test_a_model_whose_weights_are_all_quantized_is_one_sentence():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 4)), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UserError, match="its weights are quantized, so none can move"):
        LossSurface(model, mlp_data())
    with pytest.raises(UserError, match="give a model with weights"):
        LossSurface(nn.Identity(), mlp_data())


class Rounding(MLP):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        if self.how == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).to(x.dtype)
        if self.how == "half":
            return super().forward(x).half().to(x.dtype)
        if self.how == "single":
            return super().forward(x).float().to(x.dtype)
        if self.how == "inputs":
            return super().forward(x.half().to(x.dtype))
        return super().forward(x)


@pytest.mark.parametrize("how,dtype,kind", [
    ("autocast", "float32", "bfloat16"), ("half", "float32", "float16"), ("half", "float64", "float16"),
    ("single", "float64", "float32"), ("single", "float32", ""), ("inputs", "float32", ""), ("", "float64", ""),
])  # fmt: skip
@pytest.mark.parametrize("name,fields", [("average_case", {"rho": 0.1, "draws": 3}), ("gradient_norm", {"rho": 0.1})])
def test_a_pass_that_is_coarser_than_the_weights_is_noted_once(how, dtype, kind, name, fields):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = acutance.measure(name, Rounding(how), mlp_data(), m=12, dtype=dtype, **fields)
    assert len(found.notes) == bool(kind)
    assert all(f"computes in {kind} inside" in note and note.endswith(f"compute in {dtype}") for note in found.notes)
    assert found.cost.checks == 0 or name == "gradient_norm"


CALLS = []


class Elsewhere(MLP):
    """Counts its passes where no module of it does."""

    def forward(self, x):
        CALLS.append(1)
        return super().forward(x) * (1 + 1e-4 * len(CALLS))


def test_a_count_that_no_module_keeps_is_refused_before_anything_is_measured():
    for name, fields in (("average_case", {"rho": 0.1}), ("worst_case", {"rho": 0.1})):
        with pytest.raises(
            UserError, match=r"different outputs for the same input .* keeps something from pass to pass"
        ):
            acutance.measure(name, Elsewhere(), mlp_data(), **fields)
