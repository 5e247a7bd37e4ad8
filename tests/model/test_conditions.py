"""What a pass computes is the surface's own affair, whatever the caller has switched on or off, and wrapped around."""

import copy
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import acutance
from acutance import LossSurface, UserError
from acutance.model.conditions import conditions, outside_inference_mode


class Net(nn.Module):
    """Two layers, the first one plain, checkpointed or recomputed by a function of one's own; makes a number itself."""

    def __init__(self, how="plain"):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
        self.last, self.how = nn.Linear(5, 3), how
        self.register_buffer("shift", torch.linspace(0, 1, 5))
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) / 2

    def forward(self, x):
        if self.how == "plain":
            h = self.first(x)
        elif self.how == "function":
            h = Recomputed.apply(x, self.first, *self.first.parameters())
        else:
            h = checkpoint(self.first, x, use_reentrant=self.how == "reentrant")
        return self.last(h + self.shift) * torch.tensor(1.1)


class Recomputed(torch.autograd.Function):
    """Keeps its input, and computes the rest again in the backward pass."""

    @staticmethod
    def forward(ctx, x, module, *parameters):
        ctx.module = module
        ctx.save_for_backward(x)
        with torch.no_grad():
            return module(x)

    @staticmethod
    def backward(ctx, g):
        with torch.enable_grad():
            out = ctx.module(ctx.saved_tensors[0])
            return None, None, *torch.autograd.grad(out, list(ctx.module.parameters()), g)


def data(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(9, 4, generator=generator).to(dtype), torch.arange(9) % 3


def direction(w):
    return torch.randn(w.shape, generator=torch.Generator().manual_seed(2)).to(w)


FIRST = {
    "loss": lambda s, w: s.loss(w),
    "gradient": lambda s, w: s.gradient(w)[1],
    "clean_gradient": lambda s, w: s.gradient()[1],
    "example_gradients": lambda s, w: torch.cat(list(s.example_gradients(w))),
    "activations": lambda s, w: s.activations("first")["first"],
}
SECOND = {
    "hvp": lambda s, w: s.hvp(w, w),
    "hvp_kept": lambda s, w: s.hvp(s.hvp(w)),
    "hvps": lambda s, w: s.hvps(torch.stack([w, s.w])),
    "jvp": lambda s, w: s.jvp(w, w),
    "jvp_kept": lambda s, w: s.jvp(w) + s.jvp(s.w),
    "vjp": lambda s, w: s.vjp(s.logits(), w),
    "ggnvp": lambda s, w: s.ggnvp(s.ggnvp(w), w),
    "normalized": lambda s, w: s.transformed().ggnvp(w),
}
ALL = FIRST | SECOND


def values(surface, which=ALL):
    w = surface.w + 0.3 * direction(surface.w)
    return {name: call(surface, w) for name, call in which.items()}


@contextmanager
def switched(write, on, off):
    write(on)
    try:
        yield
    finally:
        write(off)


def rounded(tensor):
    return tensor.bfloat16() if tensor.is_floating_point() else tensor


CALLERS = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default_dtype": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "default_device": lambda: torch.device("meta"),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "anomaly": torch.autograd.detect_anomaly,
    "saved_tensors_hooks": lambda: torch.autograd.graph.saved_tensors_hooks(rounded, torch.Tensor.float),
    "matmul_precision": lambda: switched(torch.set_float32_matmul_precision, "medium", "highest"),
}


def state():
    modes = torch.overrides._get_current_function_mode_stack()
    return (
        torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), len(modes),
        torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled(),
        torch._C._autograd._top_saved_tensors_default_hooks(True), torch.get_float32_matmul_precision(),
        torch.utils.checkpoint.CheckpointFunction, torch.backends.cudnn.enabled,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    return values(LossSurface(Net(), data()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("caller", CALLERS)
def test_values_are_the_same_whatever_the_caller_has_switched(caller, plain):
    points, net = data(), Net()
    w = LossSurface(Net(), data()).w
    w = w + 0.3 * direction(w)
    with CALLERS[caller]():
        before = state()
        surface = LossSurface(net, points)
        found = {name: call(surface, w) for name, call in ALL.items()}
        assert state() == before

        def broken(module, inputs):
            raise RuntimeError("broken on purpose")

        handle = net.register_forward_pre_hook(broken)
        for call in ALL.values():
            with pytest.raises((RuntimeError, UserError), match="broken"):
                call(LossSurface(net, points), w)
        handle.remove()
        assert state() == before
    assert all(torch.equal(found[name], plain[name]) for name in ALL), caller


def test_models_and_points_made_in_inference_mode(plain):
    with torch.inference_mode():
        net, (x, y) = Net(), data()
        surface = LossSurface(net, (x.clone(), y.clone()), initial=net)
        values(surface)
    found = values(surface)
    assert all(torch.equal(found[name], plain[name]) for name in ALL)
    assert torch.equal(surface.w0, surface.w) and not surface.restricted("last.*").w.is_inference()


def test_a_tensor_that_the_model_hides_is_one_sentence():
    net = Net()
    with torch.inference_mode():
        net.__dict__["hidden"] = torch.full((5,), 2.0)
    net.forward = lambda x: net.last(net.first(x) * net.hidden)
    with pytest.raises(UserError, match=r"inference_mode.*buffer"):
        LossSurface(net, data()).gradient()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("caller", ["inference_mode", "autocast", "no_grad", "default_dtype"])
def test_measures_compute_in_the_surface_s_conditions(caller):
    net, points = Net(), data()

    def found():
        return [
            acutance.measure(name, net, points, **fields).value
            for name, fields in (("worst_case", {"rho": 0.1, "steps": 3}), ("hessian_trace", {"probes": 2}))
        ]

    expected = found()
    with CALLERS[caller]():
        assert found() == expected


def test_what_a_worker_makes_is_made_outside_inference_mode():
    def work():
        yield torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        yield nn.Linear(2, 1)(torch.ones(1, 2)).requires_grad

    with torch.inference_mode():
        steps = outside_inference_mode(work())
        assert next(steps) == (False, True) and torch.is_inference_mode_enabled()
        assert list(steps) == [True] and torch.is_inference_mode_enabled()


def test_a_surface_inside_a_transform_is_one_sentence():
    surface = LossSurface(Net(), data())
    with pytest.raises(UserError, match="inside a transform"):
        torch.func.vmap(lambda scale: surface.loss(surface.w * scale))(torch.ones(2))


def test_autocast_s_kept_casts_are_of_no_other_point():
    """A model with an autocast of its own, called inside the caller's, whose end alone clears what is kept."""

    class Own(Net):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x).float()

    def gradients():
        surface = LossSurface(Own(), data())
        return [surface.gradient(surface.w * scale)[1] for scale in (1.0, 2.0, 3.0)]

    expected = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(gradients(), expected, strict=True))


# -- what a backward pass computes again ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("microbatch", [None, 4])
@pytest.mark.parametrize("how", ["reentrant", "checkpoint", "function"])
def test_recomputation_sees_the_weights_of_the_forward_pass(how, microbatch):
    which = FIRST if how == "function" else ALL
    found = values(LossSurface(Net(how), data(), dtype="float64", microbatch=microbatch), which)
    expected = values(LossSurface(Net(), data(), dtype="float64"), which)
    for name in which:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-11, atol=1e-13)


def test_gradients_of_a_checkpointed_model_are_those_of_torch_on_a_copy():
    surface = LossSurface(Net("checkpoint").double(), data(torch.float64))
    w = surface.w + 0.3 * direction(surface.w)
    model = copy.deepcopy(Net()).double()
    nn.utils.vector_to_parameters(w, model.parameters())
    x, y = data(torch.float64)
    loss = nn.functional.cross_entropy(model(x), y)
    g = torch.cat([p.reshape(-1) for p in torch.autograd.grad(loss, list(model.parameters()), create_graph=True)])
    h = torch.autograd.grad(g @ direction(w), list(model.parameters()))
    torch.testing.assert_close(surface.gradient(w)[1], g.detach(), rtol=1e-11, atol=1e-14)
    expected = torch.cat([p.reshape(-1) for p in h])
    torch.testing.assert_close(surface.hvp(direction(w), w), expected, rtol=1e-10, atol=1e-13)


# -- what is wrapped around a module ----------------------------------------------------------------------------


def never(graph, inputs):
    raise AssertionError("compiled code was asked for")


def compiled(net, where):
    if where == "top":
        return torch.compile(net, backend=never)
    if where == "in place":
        net.compile(backend=never)
    elif where == "inside":
        net.first = torch.compile(net.first, backend=never)
    else:
        net.forward = torch.compile(net.forward, backend=never)
    return net


@pytest.mark.parametrize("where", ["top", "in place", "inside", "function"])
def test_compiled_modules_are_measured_by_the_module_inside(where, plain):
    surface = LossSurface(compiled(Net(), where), data())
    which = ALL if where != "inside" else {name: call for name, call in ALL.items() if name != "activations"}
    found = values(surface, which)
    assert all(torch.equal(found[name], plain[name]) for name in which)
    assert (where == "inside") == any("_orig_mod" in name for name, *_ in surface.layers)


def test_data_parallel_modules_are_measured_by_the_module_inside(plain):
    surface = LossSurface(nn.DataParallel(Net()), data())
    assert torch.equal(surface.gradient()[1], plain["clean_gradient"]) and surface.layers[0][0] == "first.0.weight"


class FullyShardedDataParallel(nn.Sequential):
    """By name."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.jit.script(nn.Linear(4, 3)), "the model is TorchScript"),
        (lambda: torch.jit.trace(nn.Linear(4, 3), data()[0]), "the model is TorchScript"),
        (lambda: nn.Sequential(torch.jit.script(nn.Linear(4, 3))), "module '0' is TorchScript"),
        (lambda: FullyShardedDataParallel(nn.Linear(4, 3)), "wrapped in FullyShardedDataParallel"),
        (lambda: nn.Sequential(nn.DataParallel(nn.Linear(4, 3))), "module '0' is wrapped in DataParallel"),
        (lambda: lambda x: x, "the model is a function, no torch.nn.Module"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(make, said):
    with pytest.raises(UserError, match=said):
        LossSurface(make(), data())


def test_an_exported_program_s_module_is_a_module(plain):
    program = torch.export.export(Net(), data()[:1], dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    with pytest.raises(UserError, match="ExportedProgram, no"):
        LossSurface(program, data())
    torch.testing.assert_close(LossSurface(program.module(), data()).loss(), LossSurface(Net(), data()).loss())


# -- recurrent layers on a GPU ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "recurrent", "order", "enabled"), [
    ("cuda", True, 0, True), ("cuda", True, 1, False), ("cuda", True, 2, False), ("cuda", False, 2, True),
    ("cpu", True, 2, True),
])  # fmt: skip
def test_recurrent_layers_are_differentiated_without_cudnn(device, recurrent, order, enabled):
    made = SimpleNamespace(computing=torch.device(device), dtype=torch.float32, recurrent=recurrent, compiled=False)
    with ExitStack() as stack:
        stack.enter_context(conditions(made, order=order))
        assert torch.backends.cudnn.enabled is enabled
    assert torch.backends.cudnn.enabled
    assert LossSurface(Recurrent(), (torch.randn(3, 4, 2), torch.arange(3))).core.functional.recurrent


class Recurrent(nn.Module):
    """The last output of an LSTM."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(2, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0][:, -1]
