"""Which numbers of a model are its parameters: memory that is shared counts once, what stays as it is is said."""

import pytest
import torch
from models import MLP, mlp_data
from torch import nn

import acutance
from acutance import LossSurface, UserError
from acutance.errors import AcutanceWarning
from acutance.io.checkpoints import load_file

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 3


class Auto(nn.Module):
    """A decoder that is the encoder's transpose; either may come first."""

    def __init__(self, decoder_first=False):
        super().__init__()
        torch.manual_seed(0)
        first, second = nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False)
        self.add_module("d" if decoder_first else "e", second if decoder_first else first)
        self.add_module("e" if decoder_first else "d", first if decoder_first else second)
        self.d.weight = nn.Parameter(self.e.weight.t())

    def forward(self, x):
        return self.d(self.e(x).tanh())


def written_out(w):
    """The same autoencoder of its 12 numbers."""
    weight = w.view(3, 4)
    return ((torch.tanh(X.double() @ weight.t()) @ weight - X.double()) ** 2).sum(1).mean()


@pytest.mark.parametrize("decoder_first", [False, True])
def test_a_transposed_tie_counts_once_and_its_derivatives_are_exact(decoder_first):
    model = Auto(decoder_first).double()
    model.d.weight = nn.Parameter(model.e.weight.t())
    surface = LossSurface(model, (X.double(), X.double()), loss="mse")
    assert surface.w.numel() == 12 and surface.layers[0][2] == (3, 4)
    w = (
        surface.w + 0.1 * torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ).requires_grad_()
    assert torch.allclose(surface.loss(w), written_out(w))
    (gradient,) = torch.autograd.grad(written_out(w), w)
    assert torch.allclose(surface.gradient(w)[1], gradient)
    v = torch.randn(12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(written_out, surface.w)
    assert torch.allclose(surface.hvp(v), hessian @ v)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    acutance.measure("worst_case", surface, rho=0.1, steps=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.d.weight.data_ptr() == model.e.weight.data_ptr()
    both = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    assert LossSurface(model, (X.double(), X.double()), loss="mse", initial=both).w0.abs().max() == 0


class Parts(nn.Module):
    """A block of rows, a whole in another shape, and columns that only lie between those of others."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        whole = torch.randn(6, 4)
        if kind == "rows":
            self.part, self.whole = nn.Parameter(whole[2:4]), nn.Parameter(whole)
        elif kind == "shape":
            self.part, self.whole = nn.Parameter(whole.view(24)), nn.Parameter(whole)
        elif kind == "columns":
            self.part, self.whole = nn.Parameter(whole[:, ::2]), nn.Parameter(whole[:, 1::2])
        else:
            self.part, self.whole = nn.Parameter(whole[:, 1:3]), nn.Parameter(whole)

    def forward(self, x):
        return x[:, :3] * self.part.reshape(-1)[:3] + x[:, :3] * self.whole.reshape(-1)[8:11]


@pytest.mark.parametrize("kind,count", [("rows", 24), ("shape", 24), ("columns", 24)])
def test_parts_of_shared_memory_count_once(kind, count):
    model = Parts(kind)
    surface = LossSurface(model, (X, Y))
    assert surface.w.numel() == count
    moved = surface.w + 0.5
    with torch.no_grad():
        for tensor in {p.data_ptr(): p for p in sorted(model.parameters(), key=lambda p: p.numel())}.values():
            if kind == "columns" or tensor is model.whole:
                tensor.add_(0.5)
    assert torch.allclose(surface.logits(moved), model(X))


def test_memory_that_no_view_explains_is_refused():
    with pytest.raises(UserError, match=r"'part' and another of shape \(6, 4\) share memory"):
        LossSurface(Parts("block"), (X, Y))


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 3)
        self.q = nn.Parameter(torch.randint(-5, 5, (3, 3), dtype=torch.int8), requires_grad=False)

    def forward(self, x):
        return self.l(x) @ (self.q.float() / 10)


def test_what_is_left_out_and_what_is_frozen_is_said():
    with pytest.warns(AcutanceWarning, match=r"whole numbers stay as they are: q \(9 of int8\)"):
        assert LossSurface(Whole(), (X, Y)).w.numel() == 15
    model = MLP()
    first = next(iter(model.parameters())).requires_grad_(False)
    surface = LossSurface(model, mlp_data())  # as documented: no warning
    assert surface.notes[0].startswith(f"{first.numel()} parameters have requires_grad=False and move like the others")
    assert surface.w.numel() == sum(p.numel() for p in model.parameters())
    assert not LossSurface(MLP().requires_grad_(False), mlp_data()).notes  # all of them: nothing tells some from others


def test_measure_says_what_a_surface_says(tmp_path):
    # Of a checkpoint: a prefix that was taken off, an average that was passed over.
    state = {f"module.{name}": tensor for name, tensor in MLP().state_dict().items()}
    torch.save({"state_dict": state, "state_dict_ema": {name: t + 1 for name, t in state.items()}}, tmp_path / "f.pt")
    loaded = load_file(MLP(), tmp_path / "f.pt")
    with pytest.warns(AcutanceWarning, match="it also holds state_dict_ema") as told:
        e = acutance.measure("average_case", loaded, mlp_data(24), m=12, rho=0.1, draws=2)
    assert e.notes == tuple(vars(loaded)["load_notes"]) and len(told) == len(e.notes)  # once, not once an m-batch
    assert told[0].filename == __file__ and f"Note: {e.notes[0]}." in e.explain().splitlines()
    # Weights that stay as they are, and weights that are rounded.
    with pytest.warns(AcutanceWarning, match=r"whole numbers stay as they are: q"):
        assert "q (9 of int8)" in acutance.measure("average_case", Whole(), (X, Y), rho=0.1, draws=2).notes[0]
    with pytest.warns(AcutanceWarning, match="bfloat16 are evaluated in float32"):
        acutance.measure("average_case", MLP().bfloat16(), mlp_data(24), rho=0.1, draws=2)
    # What is as documented is a note without a warning; of a surface and of a model alike.
    model = MLP()
    next(iter(model.parameters())).requires_grad_(False)
    surface = LossSurface(model, mlp_data(24))
    for given in ((surface,), (model, mlp_data(24))):
        e = acutance.measure("average_case", *given, rho=0.1, draws=2)
        assert e.notes == tuple(surface.notes) and "requires_grad=False and move like the others" in e.notes[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantized_layers_are_said():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    quantized = nn.Sequential(model[0], torch.ao.quantization.quantize_dynamic(nn.Sequential(*model[1:]), {nn.Linear}))
    assert "the weights of quantized layers stay as they are: 1.1" in LossSurface(quantized, (X, Y)).notes


@pytest.mark.parametrize("change,message", [
    (lambda p: p.to_sparse(), "stored as sparse_coo"), (lambda p: torch.complex(p, p), "is complex"),
    (lambda p: p.to("meta"), "has no values"),
])  # fmt: skip
def test_parameters_that_cannot_be_moved_are_refused(change, message):
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(change(model.weight.detach()))
    with pytest.raises(UserError, match=f"'weight' .*{message}"):
        LossSurface(model, (X, Y))


class Auxiliary(MLP):
    def __init__(self):
        super().__init__()
        self.aux, self.losses = torch.zeros(()), []

    def forward(self, x):
        self.aux = next(self.parameters()).square().sum()
        self.losses[:] = [self.aux]
        return super().forward(x)


def test_a_loss_that_reads_what_a_forward_leaves_is_refused():
    x, y = mlp_data()
    for read in (lambda m: m.aux, lambda m: m.losses[0]):
        model = Auxiliary()
        model(x)  # at w* it has the right value already
        with pytest.raises(UserError, match=r"the loss reads what a forward pass leaves on the model \("):
            LossSurface(
                model, (x, y), loss=lambda f, t, m=model, r=read: nn.functional.cross_entropy(f, t) + r(m)
            ).loss()
    plain = LossSurface(Auxiliary(), (x, y), loss=lambda f, t: nn.functional.cross_entropy(f, t))
    assert torch.allclose(plain.loss(), LossSurface(MLP(), (x, y)).loss())


def test_check_says_that_two_classes_have_no_logit_normalization():
    from acutance.study.config import load_config, presets

    assert not load_config(presets()["sentiment"]).warnings
    told = load_config(presets()["sentiment"], ["measures.0.logit_norm=true"]).warnings
    assert any("4 definitions with logit_norm will be unsupported: 'sentiment4' has two classes" in t for t in told)
