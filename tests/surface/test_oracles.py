"""Jacobian and Gauss-Newton products, gradients of single examples, activations, initial weights: against dense answers."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from models import (
    MLP,
    Attention,
    ConvBN,
    Tied,
    assert_untouched,
    conv_data,
    mlp_data,
    seeded,
    snapshot,
    tied_data,
    token_data,
)  # fmt: skip
from torch import nn
from torch.func import functional_call

import acutance
from acutance import LossSurface, Unsupported, UserError


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=8, num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    return BertForSequenceClassification(config).double()


def bert_data():
    mask = torch.ones(6, 5, dtype=torch.long)
    mask[2, 3:] = 0
    # Padding (token 0) only where it is masked: autograd gives the row of padding_idx no gradient.
    tokens = torch.randint(1, 20, (6, 5), generator=seeded(8)) * mask
    return {"input_ids": tokens, "attention_mask": mask}, torch.tensor([0, 1, 2, 0, 1, 2])


def vit():
    import timm

    torch.manual_seed(5)
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3}
    return timm.create_model("vit_tiny_patch16_224", **size).double()


def vit_data():
    return torch.randn(5, 3, 8, 8, generator=seeded(9), dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])


CASES = {
    "mlp": (MLP, mlp_data, "layers.0*"),
    "conv_bn": (ConvBN, conv_data, "*bn*"),
    "attention": (Attention, token_data, "norm*,q.*"),
    "tied": (Tied, tied_data, "head.*,unused"),
    "bert": (bert, bert_data, "*LayerNorm*"),
    "vit": (vit, vit_data, "!head*"),
}


@pytest.fixture(params=CASES)
def case(request):
    build, data, part = CASES[request.param]
    return build(), data(), part


def views(surface, part):
    return {
        "whole": surface,
        "normalized": surface.transformed(),
        "released": surface.transformed(norm_scale="released"),
        "restricted": surface.restricted(part),
        "both": surface.restricted(part).transformed(),
    }


def outputs(surface, w, rows=slice(None)):
    """What the loss sees, (n, K), by other means than the surface's: torch.func and the formula."""
    named = {name: w[where].view(shape) for name, _, shape, where in surface.layers}
    whole = {name: p.detach() for name, p in surface.model.named_parameters()} | named
    model, x = surface.model.eval(), surface.inputs
    if isinstance(x, dict):
        raw = functional_call(model, whole, (), {key: value[rows] for key, value in x.items()})
    else:
        raw = functional_call(model, whole, (x[rows],))
    raw = getattr(raw, "logits", raw)
    if not surface.logit_norm:
        return raw
    if surface.norm_scale == "paper":
        return raw / raw.std(1, correction=0, keepdim=True)
    return F.normalize(raw - raw.mean(1, keepdim=True))


def jacobian(surface, w):
    """(n, K, p)."""
    return torch.autograd.functional.jacobian(lambda w: outputs(surface, w), w)


def gauss_newton(surface, w, example_loss):
    """(p, p): the mean over the examples of J^T H J, H the Hessian of each example's loss."""
    J, z, n = jacobian(surface, w), outputs(surface, w).detach(), surface.n
    total = torch.zeros(len(w), len(w), dtype=torch.float64)
    for i in range(n):
        H = torch.autograd.functional.hessian(lambda f, i=i: example_loss(f, surface.targets[i]), z[i])
        total += J[i].T @ H @ J[i] / n
    return total


def point(surface, scale=0.05, seed=0):
    return surface.w + scale * torch.randn(surface.w.shape, generator=seeded(seed), dtype=torch.float64)


def noise(shape, seed=1):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


# -- Jacobian products ------------------------------------------------------------------------------


def test_jacobian_products_equal_the_dense_jacobian(case):
    model, data, part = case
    for name, view in views(LossSurface(model, data), part).items():
        v, u = noise(view.w.shape), noise(view.logits().shape, 2)
        for w in (None, point(view)):
            J = jacobian(view, view.w if w is None else w)
            close(view.jvp(v, w), J @ v)
            close(view.vjp(u, w), torch.einsum("nkp,nk->p", J, u))
            assert view.jvp(v, w).abs().max() > 0, name


def test_jvp_equals_finite_differences_through_layer_norm_and_attention(case):
    """Guards the choice of the double backward: forward mode, differentiated again, fails this through LayerNorm."""
    model, data, _ = case
    surface = LossSurface(model, data)
    v, eps = noise(surface.w.shape), 1e-6
    for view in (surface, surface.transformed()):
        difference = (view.logits(view.w + eps * v) - view.logits(view.w - eps * v)) / (2 * eps)
        close(view.jvp(v), difference, 1e-6)


def test_ggnvp_equals_finite_differences_of_the_two_factors(case):
    """J(w)^T s(w) with s = H J v fixed at w*, through LayerNorm and attention, without any second derivative."""
    model, data, _ = case
    surface = LossSurface(model, data)
    v, u, eps = noise(surface.w.shape), noise(surface.w.shape, 3), 1e-6

    def along(d):
        return (surface.logits(surface.w + eps * d) - surface.logits(surface.w - eps * d)) / (2 * eps)

    p = surface.logits().softmax(1)
    s, t = along(v), along(u)
    expected = ((p * s * t).sum(1) - (p * s).sum(1) * (p * t).sum(1)).mean()
    torch.testing.assert_close(u @ surface.ggnvp(v), expected, rtol=1e-5, atol=1e-9)


# -- Gauss-Newton -----------------------------------------------------------------------------------


def ce(f, y):
    return F.cross_entropy(f[None], y[None])


def test_ggnvp_equals_the_explicit_product(case):
    model, data, part = case
    found = views(LossSurface(model, data), part)
    for name in ("whole", "normalized", "restricted", "both"):
        view = found[name]
        for w in (None, point(view)):
            G = gauss_newton(view, view.w if w is None else w, ce)
            v = noise(view.w.shape)
            close(view.ggnvp(v, w), G @ v)
            # Positive semi-definite, normalized or not: the split is at what the loss sees.
            assert torch.linalg.eigvalsh(G).min() > -1e-12 * G.trace()
            assert v @ view.ggnvp(v, w) >= 0


def test_ggnvp_of_a_linear_model_is_its_hessian():
    model = nn.Linear(6, 4).double()
    surface = LossSurface(model, mlp_data())
    v = noise(surface.w.shape)
    close(surface.ggnvp(v), surface.hvp(v))


LOSSES = {
    "mse": ("mse", lambda f, y: ((f - y) ** 2).sum()),
    "custom": (
        lambda f, y: (torch.sin(f) * y).sum(1).mean() + (f**4).mean(1).mean(),
        lambda f, y: (torch.sin(f) * y).sum() + (f**4).mean(),
    ),
    "linear": (lambda f, y: (f * y).sum(1).mean(), lambda f, y: (f * y).sum()),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("microbatch", [None, 7])
def test_ggnvp_and_example_gradients_of_other_losses(name, microbatch):
    loss, per_example = LOSSES[name]
    target = noise((24, 4), 5)
    surface = LossSurface(MLP(), (mlp_data()[0], target), loss=loss, microbatch=microbatch)
    v = noise(surface.w.shape)
    expected = gauss_newton(surface, surface.w, per_example) @ v
    torch.testing.assert_close(surface.ggnvp(v), expected, rtol=1e-10, atol=1e-12)
    assert name != "linear" or not surface.ggnvp(v).any()
    J = jacobian(surface, surface.w)
    z = surface.logits()
    rows = [
        J[i].T @ torch.autograd.functional.jacobian(lambda f, i=i: per_example(f, target[i]), z[i]) for i in range(24)
    ]
    found = torch.cat(list(surface.example_gradients()))
    close(found, torch.stack(rows))
    close(found.mean(0), surface.gradient()[1])


def test_float32_products_are_float64_ones_rounded():
    model, data = Attention().float(), token_data()
    single, double = LossSurface(model, data), LossSurface(model, data, dtype="float64")
    v, u = noise(double.w.shape), noise(double.logits().shape, 2)
    for a, b in ((single, double), (single.transformed(), double.transformed())):
        for found, exact in ((a.jvp(v), b.jvp(v)), (a.vjp(u), b.vjp(u)), (a.ggnvp(v), b.ggnvp(v))):
            assert (found.double() - exact).norm() < 1e-5 * exact.norm()
        assert a.vjp(u).dtype == a.ggnvp(v).dtype == torch.float32 and a.jvp(v).dtype == a.logits().dtype


# -- gradients of single examples -------------------------------------------------------------------

VECTORISED = {"mlp", "conv_bn", "attention", "tied", "vit"}


@pytest.mark.parametrize("name", CASES)
def test_example_gradients_equal_autograd(name):
    build, data, part = CASES[name]
    for view in views(LossSurface(build(), data()), part).values():
        for w in (None, point(view)):
            leaf = (view.w if w is None else w).clone().requires_grad_()
            rows = [
                torch.autograd.grad(
                    F.cross_entropy(outputs(view, leaf, slice(i, i + 1)), view.targets[i : i + 1]), leaf
                )[0]
                for i in range(view.n)
            ]
            found = torch.cat(list(view.example_gradients(w, chunk=4)))
            close(found, torch.stack(rows))
            close(found.mean(0), view.gradient(view.w if w is None else w)[1])
        # BERT looks at its mask, which vmap refuses: one by one, and as exact.
        assert view.core.vectorises is (name in VECTORISED)


def test_models_that_vmap_cannot_take_are_taken_one_by_one():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.lstm, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 4)

        def forward(self, x):
            return self.head(self.lstm(x[:, None])[0][:, -1])

    class Branching(MLP):
        def forward(self, x):
            return super().forward(x) * (2 if bool((x[:, 0] > 0).all()) and len(x) == 1 else 1)

    def stiff(f, y):
        return F.cross_entropy(f, y) * (1 + 0 * f.sum().item())

    for surface in (
        LossSurface(Recurrent().double(), mlp_data()),
        LossSurface(MLP(), mlp_data(), loss=stiff),
    ):
        found = torch.cat(list(surface.example_gradients(chunk=5)))
        assert surface.core.vectorises is False and surface.cost.backwards == 24
        close(found.mean(0), surface.gradient()[1], 1e-9)
    # A model whose answer for one example depends on how many there are has no gradient of one example.
    with pytest.raises(Unsupported, match="gradients of single examples do not exist"):
        LossSurface(Branching(), mlp_data()).example_gradients()


def test_a_batching_rule_that_is_wrong_is_not_used():
    class Wrong(torch.autograd.Function):
        generate_vmap_rule = False

        @staticmethod
        def forward(x):
            return x * 3

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            return g * 3

        @staticmethod
        def vmap(info, in_dims, x):
            return x * 5, in_dims[0]

    class Model(MLP):
        def forward(self, x):
            return Wrong.apply(super().forward(x))

    surface = LossSurface(Model(), mlp_data())
    close(torch.cat(list(surface.example_gradients())).mean(0), surface.gradient()[1])
    assert surface.core.vectorises is False


def test_example_gradients_at_other_targets():
    inputs, targets = mlp_data()
    others = (targets + 1) % 4
    for build in (lambda s: s, lambda s: s.transformed(), lambda s: s.restricted("*weight")):
        found = build(LossSurface(MLP(), (inputs, targets))).example_gradients(targets=others)
        expected = build(LossSurface(MLP(), (inputs, others))).example_gradients()
        close(torch.cat(list(found)), torch.cat(list(expected)))
    surface = LossSurface(MLP(), (inputs, targets))
    list(surface.example_gradients(targets=others))
    close(torch.cat(list(surface.example_gradients())).mean(0), surface.gradient()[1])
    with pytest.raises(UserError, match="labels run from 4 to 4"):
        surface.example_gradients(targets=torch.full_like(targets, 4))
    with pytest.raises(UserError, match=r"targets has shape \(3,\), those of this surface have \(24,\)"):
        surface.example_gradients(targets=targets[:3])
    with pytest.raises(Unsupported, match="need a loss with a name"):
        LossSurface(MLP(), (inputs, targets), loss=F.cross_entropy).example_gradients(targets=others)
    numbers = LossSurface(MLP(), (inputs, torch.zeros(24, 4)), loss="mse")
    assert torch.cat(list(numbers.example_gradients(targets=numbers.logits()))).abs().max() < 1e-12


def test_a_model_that_mixes_examples_has_no_example_gradients():
    class Mixing(MLP):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    surface = LossSurface(Mixing(), mlp_data())
    with pytest.raises(Unsupported, match="depends on the other examples"):
        surface.example_gradients()
    assert surface.jvp(surface.w).shape == (24, 4)


def test_chunks_are_bounded_and_come_one_at_a_time():
    surface = LossSurface(MLP(), mlp_data(24))
    gradients = surface.example_gradients(chunk=10)
    before = surface.cost
    assert before.forwards == before.backwards == 0 < before.checks  # two examples in both ways
    assert next(gradients).shape == (10, surface.w.numel())
    assert (surface.cost - before).forwards == (surface.cost - before).backwards == 10
    assert [len(chunk) for chunk in gradients] == [10, 4]
    assert (surface.cost - before).forwards == (surface.cost - before).backwards == 24
    assert [len(c) for c in LossSurface(MLP(), mlp_data(24), microbatch=9).example_gradients()] == [9, 9, 6]
    with pytest.raises(UserError, match="chunk: must be at least 1"):
        surface.example_gradients(chunk=0)


def test_the_default_chunk_fits_its_memory(monkeypatch):
    surface = LossSurface(MLP(), mlp_data(24))
    monkeypatch.setattr("acutance.surface.per_example.CHUNK_BYTES", 8 * surface.w.numel() * 7)
    assert [len(chunk) for chunk in surface.example_gradients()] == [7, 7, 7, 3]
    monkeypatch.setattr("acutance.surface.per_example.CHUNK_BYTES", 1)
    assert len(list(surface.example_gradients())) == 24


# -- microbatches, ledger, memory -------------------------------------------------------------------


@pytest.mark.parametrize("microbatch", [1, 4, 100])
def test_microbatches_change_nothing_but_memory(case, microbatch):
    model, data, _ = case
    whole, cut = LossSurface(model, data), LossSurface(model, data, microbatch=microbatch)
    v, u = noise(whole.w.shape), noise(whole.logits().shape, 2)
    for a, b in ((whole, cut), (whole.transformed(), cut.transformed())):
        close(b.jvp(v), a.jvp(v))
        close(b.vjp(u), a.vjp(u))
        close(b.ggnvp(v), a.ggnvp(v))
        close(torch.cat(list(b.example_gradients())), torch.cat(list(a.example_gradients())))


def spent(surface, call):
    before = surface.cost
    call()
    cost = surface.cost - before
    return cost.forwards / surface.n, cost.backwards / surface.n, cost.hvps / surface.n


def test_products_are_counted_and_share_one_linearization():
    surface = LossSurface(MLP(), mlp_data())
    v, u, w = surface.w, surface.logits(), surface.w + 1
    other = surface.transformed()
    assert spent(surface, lambda: surface.vjp(u)) == (1, 1, 0)
    assert spent(surface, lambda: surface.vjp(u)) == (0, 1, 0)
    assert spent(surface, lambda: surface.jvp(v)) == (0, 2, 0)
    assert spent(surface, lambda: surface.jvp(v)) == (0, 1, 0)
    assert spent(surface, lambda: surface.ggnvp(v)) == (0, 2, 0)
    # A view that differs in the transform only starts from the same graph.
    assert spent(surface, lambda: other.ggnvp(v)) == (0, 2, 0)
    assert spent(surface, lambda: surface.restricted("*bias").ggnvp(v[:14])) == (1, 3, 0)
    assert spent(surface, lambda: surface.ggnvp(v, w)) == (1, 3, 0)
    assert spent(surface, lambda: surface.ggnvp(v, w)) == (1, 3, 0)
    surface.release()
    assert spent(surface, lambda: surface.ggnvp(v)) == (1, 3, 0)
    surface.microbatch = 5
    assert spent(surface, lambda: surface.ggnvp(v)) == (1, 3, 0)
    assert spent(surface, lambda: surface.ggnvp(v)) == (1, 3, 0)
    assert spent(surface, lambda: surface.activations("layers.*")) == (1, 0, 0)
    list(surface.example_gradients(w))  # two examples, computed in both ways, decide how
    assert spent(surface, lambda: list(surface.example_gradients(w))) == (1, 1, 0)


def test_a_surface_and_its_graphs_go_at_once_with_the_last_reference():
    surface = LossSurface(MLP(), mlp_data())
    surface.ggnvp(surface.w)
    surface.transformed().hvp(surface.w)
    (kept,) = surface.core.linearizations.values()
    gone = [weakref.ref(kept), weakref.ref(surface), weakref.ref(surface.transformed())]
    gc.disable()
    try:
        del surface, kept
        assert [reference() for reference in gone] == [None, None, None]
    finally:
        gc.enable()


# -- nothing is left behind -------------------------------------------------------------------------


class Fragile(Attention):
    fail = None
    backward = None

    def forward(self, x):
        y = super().forward(x)
        if self.fail:
            raise self.fail
        if self.backward and y.requires_grad:
            y.register_hook(self.raise_in_backward)
        return y

    def raise_in_backward(self, g):
        # A kept graph holds this hook for good.
        if self.backward:
            raise self.backward


def calls(surface):
    v, u = torch.ones_like(surface.w), torch.ones(surface.n, 3, dtype=surface.w.dtype)
    found = []
    for view in (surface, surface.transformed()):
        for w in (None, surface.w + 0.1):
            found += [
                lambda view=view, w=w: view.hvp(v, w),
                lambda view=view, w=w: view.jvp(v, w),
                lambda view=view, w=w: view.vjp(u, w),
                lambda view=view, w=w: view.ggnvp(v, w),
                lambda view=view, w=w: list(view.example_gradients(w)),
            ]
        found.append(lambda view=view: view.activations("norm*,q"))
    return found


def hooks(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]


def test_everything_is_restored(case):
    model, data, _ = case
    model.train()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before, hooked = snapshot(model), hooks(model)
    surface = LossSurface(model, data, dtype="float32")
    u = torch.ones_like(surface.logits())
    for view in (surface, surface.transformed()):
        view.jvp(torch.ones_like(surface.w))
        view.vjp(u)
        view.ggnvp(torch.ones_like(surface.w))
        list(view.example_gradients())
        view.activations("*")
    assert_untouched(model, before)
    assert hooks(model) == hooked


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fail", "backward"])
def test_everything_is_restored_after_an_exception(error, where):
    model = Fragile()
    surface = LossSurface(model, token_data())
    surface.loss()
    setattr(model, where, error)
    before, hooked, cost = snapshot(model), hooks(model), surface.cost
    grad_mode, flash = torch.is_grad_enabled(), torch.backends.cuda.flash_sdp_enabled()
    for i, call in enumerate(calls(surface)):
        if where == "backward" and i % 11 == 10:
            continue  # activations make no backward pass
        with pytest.raises(type(error)):
            call()
        assert_untouched(model, before)
        assert hooks(model) == hooked
        assert torch.is_grad_enabled() == grad_mode and torch.backends.cuda.flash_sdp_enabled() == flash
    assert surface.cost.hvps == cost.hvps and surface.cost.backwards == cost.backwards
    # What failed left nothing behind that the next answer is taken from.
    setattr(model, where, None)
    fresh = LossSurface(Attention(), token_data())
    for again, expected in zip(calls(surface), calls(fresh), strict=True):
        a, b = again(), expected()
        assert isinstance(a, dict | list) or torch.equal(a, b)


def test_an_iterator_left_half_way_leaves_nothing_behind():
    model = MLP()
    surface = LossSurface(model, mlp_data())
    surface.loss()
    before = snapshot(model)
    gradients = surface.example_gradients(chunk=3)
    next(gradients)
    assert_untouched(model, before)
    assert torch.backends.cuda.flash_sdp_enabled() and torch.is_grad_enabled()
    gradients.close()
    assert_untouched(model, before)


def test_ambient_modes_change_nothing():
    surface = LossSurface(Attention().float(), token_data())
    v, u = torch.ones_like(surface.w), torch.ones(10, 3)

    def everything():
        surface.release()
        gradients = torch.cat(list(surface.example_gradients()))
        return (
            surface.hvp(v),
            surface.jvp(v),
            surface.vjp(u),
            surface.ggnvp(v),
            gradients,
            *surface.activations("*").values(),
        )

    plain = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(everything(), plain, strict=True))
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(everything(), plain, strict=True))


# -- refusals ---------------------------------------------------------------------------------------


def custom_backward(decorate):
    class Op(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @decorate
        def backward(ctx, g):
            return g * 2

    class Model(MLP):
        def forward(self, x):
            first, last = self.layers
            return last(Op.apply(self.activation(first(x))))

    return Model()


def test_an_operation_whose_backward_cannot_be_differentiated_is_refused():
    def detached(f):
        return lambda ctx, g: f(ctx, g).detach()

    once = LossSurface(custom_backward(torch.autograd.function.once_differentiable), mlp_data())
    cut = LossSurface(custom_backward(detached), mlp_data())
    for surface, message in ((once, "second derivative"), (cut, "cut off from its input")):
        for call in (surface.jvp, surface.ggnvp):
            with pytest.raises(Unsupported, match=message):
                call(noise(surface.w.shape))
        # A plain backward pass is all that this needs.
        J = jacobian(LossSurface(MLP(lambda x: 2 * torch.tanh(x)), mlp_data()), surface.w)
        u = noise((24, 4))
        close(surface.vjp(u), torch.einsum("nkp,nk->p", J, u))


def test_wrong_shapes_are_one_sentence():
    surface = LossSurface(MLP(), mlp_data())
    v, u = surface.w, torch.ones(24, 4, dtype=torch.float64)
    for call, message in (
        (lambda: surface.jvp(v[:3]), r"v has shape \(3,\), this surface has 114 free parameters"),
        (lambda: surface.ggnvp(v[:3]), "v has shape"),
        (lambda: surface.hvp(v[:3]), "v has shape"),
        (lambda: surface.hvps(v), "vs has shape"),
        (lambda: surface.vjp(u[:5]), r"u has shape \(5, 4\), the logits have \(24, 4\)"),
        (lambda: surface.jvp(v, v[:3]), "w has shape"),
        (lambda: surface.example_gradients(v[:3]), "w has shape"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_a_surface_without_data_says_so():
    surface = LossSurface(MLP(), None)
    for call in (
        lambda: surface.jvp(surface.w),
        lambda: surface.vjp(surface.w),
        lambda: surface.ggnvp(surface.w),
        lambda: surface.example_gradients(),
        lambda: surface.activations("*"),
    ):
        with pytest.raises(Unsupported, match="has no data"):
            call()


def test_weights_that_the_logits_do_not_depend_on_have_no_derivative():
    surface = LossSurface(Tied(), tied_data()).restricted("unused")
    for view in (surface, surface.transformed()):
        v, u = torch.ones(3, dtype=torch.float64), torch.ones(9, 7, dtype=torch.float64)
        assert not view.jvp(v).any() and view.jvp(v).shape == (9, 7)
        for product in (view.vjp(u), view.ggnvp(v), *torch.cat(list(view.example_gradients()))):
            assert product.shape == (3,) and not product.any()


# -- activations ------------------------------------------------------------------------------------


def test_activations_are_what_the_modules_put_out():
    model, (x, y) = MLP(), mlp_data()
    first = model.layers[0](x).detach()
    expected = {"layers.0": first, "layers.1": model.layers[1](torch.tanh(first)).detach()}
    for microbatch in (None, 1, 7):
        for names in ("layers.*", ["layers.0", "layers.1"], "layers.1, layers.0"):
            found = LossSurface(model, (x, y), microbatch=microbatch).activations(names)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value)
                assert not found[name].requires_grad
    assert LossSurface(model, (x, y)).restricted("*bias").transformed().activations("layers.0").keys() == {"layers.0"}


def test_activations_of_dicts_tuples_repeated_and_in_place_modules():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.relu = nn.Linear(6, 4), nn.ReLU(inplace=True)
            self.lstm = nn.LSTM(4, 4, batch_first=True)
            self.positions = nn.Embedding(3, 4)
            self.idle = nn.ModuleList([nn.Linear(2, 2)])
            self.double()

        def forward(self, x):
            x = self.relu(self.first(x))
            x, _ = self.lstm(x[:, None] + self.positions(torch.arange(3)))
            return self.relu(-x[:, -1])

    model, (x, y) = Odd(), mlp_data()
    first = model.first(x).detach()
    for microbatch in (None, 1, 3):
        found = LossSurface(model, (x, y), microbatch=microbatch).activations("*")
        # The embedding has one row a position, also where there are as many examples as positions.
        assert found.keys() == {"first", "relu", "lstm", "relu#2"}
        torch.testing.assert_close(found["first"], first)
        torch.testing.assert_close(found["relu"], first.relu())
        assert found["lstm"].shape == (24, 3, 4)
        torch.testing.assert_close(found["relu#2"], (-found["lstm"][:, -1]).relu())
    surface = LossSurface(model, (x[:3], y[:3]))
    with pytest.raises(UserError, match=r"'positions' matches positions: no call of these gives one row an example"):
        surface.activations("positions")
    with pytest.raises(UserError, match=r"'idle\*' matches idle, idle.0: no call"):
        surface.activations("first,idle*")
    with pytest.raises(UserError, match=r"'frist' matches no module \(did you mean 'first'"):
        surface.activations(["first", "frist"])
    with pytest.raises(UserError, match="no module is named"):
        surface.activations([])


def test_activations_of_transformers():
    surface = LossSurface(bert(), bert_data(), microbatch=4)
    found = surface.activations("bert,bert.encoder,bert.encoder.layer.*,classifier")
    torch.testing.assert_close(found["classifier"], surface.logits())
    assert found["bert"].shape == found["bert.encoder"].shape == (6, 5, 8)
    images = LossSurface(vit(), vit_data())
    assert images.activations("blocks.0.attn")["blocks.0.attn"].shape == (5, 5, 8)


# -- names, layers and initial weights --------------------------------------------------------------


def test_layers_describe_the_flat_vector_of_every_view(case):
    model, data, part = case
    surface = LossSurface(model, data)
    for view in views(surface, part).values():
        ends = [0]
        named = view.unflatten(view.w)
        for name, kind, shape, where in view.layers:
            torch.testing.assert_close(view.w[where].view(shape), model.get_parameter(name).detach(), rtol=0, atol=0)
            assert torch.equal(named[name], view.w[where].view(shape))
            assert kind == type(model.get_submodule(name.rpartition(".")[0])).__name__
            assert where.start == ends[-1] and where.stop - where.start == shape.numel()
            ends.append(where.stop)
        assert ends[-1] == view.w.numel() and len(named) == len(view.layers)


def test_a_tied_parameter_comes_once_and_goes_by_any_of_its_names():
    surface = LossSurface(Tied(), tied_data())
    assert [(name, kind) for name, kind, _, _ in surface.layers] == [
        ("unused", "Tied"), ("embed.weight", "Embedding"), ("frozen.weight", "Linear"), ("frozen.bias", "Linear"),
    ]  # fmt: skip
    for pattern in ("head.weight", "embed.*", "head.*,embed.*", "!frozen*,!unused"):
        (layer,) = surface.restricted(pattern).layers
        assert layer == ("embed.weight", "Embedding", torch.Size([7, 4]), slice(0, 28))
    assert [name for name, *_ in surface.restricted("!head*").layers] == ["unused", "frozen.weight", "frozen.bias"]


def test_initial_weights_follow_the_views():
    model, start = Tied(), Tied()
    with torch.no_grad():
        for p in start.parameters():
            p.add_(1)
    expected = LossSurface(start, tied_data()).w
    state = start.state_dict()
    for initial in (start, state, {k: v for k, v in state.items() if k not in ("embed.weight", "shift")}):
        surface = LossSurface(model, tied_data(), initial=initial)
        assert torch.equal(surface.w0, expected) and surface.w0.dtype == surface.w.dtype
        for view in (surface.restricted("frozen*"), surface.restricted("frozen*").transformed()):
            for name, value in view.unflatten(view.w0).items():
                assert torch.equal(value, start.get_parameter(name))
    assert LossSurface(model, None, parameters="frozen*", dtype="float32", initial=start).w0.dtype == torch.float32
    with pytest.raises(Unsupported, match="initial weights of this model are not known"):
        _ = LossSurface(model, tied_data()).w0


def test_initial_weights_that_do_not_fit_are_one_sentence():
    state = MLP().state_dict()
    wrong = MLP()
    with torch.no_grad():
        wrong.layers[0].bias[0] = float("inf")
    for initial, message in (
        ({k: v for k, v in state.items() if k != "layers.0.bias"}, "do not fit the model: missing: layers.0.bias"),
        (state | {"layers.7.bias": torch.ones(2)}, "unexpected: layers.7.bias"),
        (MLP(dims=(6, 9, 4)), r"shape: layers.0.weight is \(9, 6\), the model has \(10, 6\)"),
        (wrong, "initial weights of 'layers.0.bias' are not finite"),
    ):
        with pytest.raises(UserError, match=message):
            LossSurface(MLP(), mlp_data(), initial=initial)


def test_measure_takes_initial_weights():
    start = MLP()
    with torch.no_grad():
        start.layers[0].bias.add_(2)
    found = acutance.measure("toy_distance", MLP(), initial=start)
    assert found.value == pytest.approx((10 * 4) ** 0.5)
    surface = LossSurface(MLP(), mlp_data(), initial=start.state_dict())
    assert acutance.measure("toy_distance", surface).value == found.value
    with pytest.raises(UserError, match="has its initial weights already"):
        acutance.measure("toy_distance", surface, initial=start)
    assert acutance.measure("toy_distance", MLP()).status == "unsupported"


def test_a_study_asks_the_pool_only_for_what_a_measure_declares(toy_config, tmp_path):
    from acme_toy.plugin import ToyPool

    toy_config["pools"][0]["fault"] = "initial"
    asked = []
    original = ToyPool.initial

    def initial(self, entry, spec):
        if spec.fault:
            asked.append(entry.id)
        return original(self, entry, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyPool, "initial", initial)
        toy_config["measures"] = [{"name": "weight_norm"}]
        acutance.run(toy_config, tmp_path / "without", report=False)
        assert asked == []
        toy_config["measures"] = [{"name": "weight_norm"}, {"name": "toy_distance"}]
        done = acutance.run(toy_config, tmp_path / "with", report=False)
    assert set(asked) == {f"toy{i}" for i in range(6)}
    table = done.results[done.results["measure"].str.endswith("toy_distance")].set_index("model")
    # A pool that cannot give them fails no other measure.
    assert table["status"].to_dict() == {f"toy{i}": {1: "failed", 2: "unsupported"}.get(i, "ok") for i in range(6)}
    assert "the initial weights of toy1 are gone" in table.loc["toy1", "message"]
    others = done.results[done.results["measure"].str.endswith("weight_norm")]
    assert (others["status"] == "ok").all() and len(others) == 6
    pool = ToyPool()
    entry = pool.entries(pool.Spec())[4]
    direct = acutance.measure("toy_distance", pool.load(entry, pool.Spec()), initial=pool.initial(entry, pool.Spec()))
    assert table.loc["toy4", "value"] == pytest.approx(direct.value, rel=1e-12)
