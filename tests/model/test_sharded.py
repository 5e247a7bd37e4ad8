"""Models that several processes hold parts of: measured by all of them as they lie, or refused in one sentence by all."""

import math
import pickle
import warnings
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.utils.parametrizations import weight_norm

import acutance
from acutance import Unsupported, UserError
from acutance.model.shares import Share
from acutance.monitor import Monitor
from acutance.numerics.draws import Streams
from acutance.surface.loss_surface import LossSurface
from acutance.surface.pieces import Apart

X, Y = torch.randn(40, 5, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 3
TOKENS = torch.randint(0, 9, (20, 6), generator=torch.Generator().manual_seed(2))


def net(seed=0, hidden=7, kind=torch.float32):
    """Seven rows are cut unevenly among two processes, and of one row the second holds nothing."""
    torch.manual_seed(seed)
    layers = nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 4), nn.Tanh(), nn.Linear(4, 1), nn.Linear(1, 3)
    return nn.Sequential(*layers).to(kind).eval()


class Tokens(nn.Module):
    """Tied weights, an embedding's padding and a bias of the module's own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(9, 4, padding_idx=8)
        self.mix, self.head, self.bias = nn.Linear(4, 4), nn.Linear(4, 9, bias=False), nn.Parameter(torch.randn(9))
        self.head.weight = self.embedding.weight
        self.eval()

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embedding(tokens)))).mean(1) + self.bias


def mesh(shape=(2,)):
    return init_device_mesh("cpu", shape, mesh_dim_names=("outer", "inner")[-len(shape) :])


def sharded(way, model=None, **options):
    model = model or net(hidden=8 if way == "tensor parallel" else 7)
    if way == "in part":
        fully_shard(model[2], mesh=mesh(), **options)
    elif way == "tensor parallel":
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}  # of the second the second axis is cut
        parallelize_module(model, mesh(), plan)
    elif way == "at once":
        fully_shard(model, mesh=mesh(), **options)
    else:
        layers = [model.mix] if way == "tokens" else [part for part in model if list(part.parameters())]
        for layer in (*layers, model):
            fully_shard(layer, mesh=mesh(), **options)
    return model


def whole(way):
    return Tokens() if way == "tokens" else net(hidden=8 if way == "tensor parallel" else 7)


def points(way):
    return (TOKENS, TOKENS[:, 0]) if way == "tokens" else (X, Y)


WAYS = ["by layers", "at once", "in part", "tensor parallel", "tokens"]
CASES = {
    "loss": ("loss", {}),
    "average": ("average_case", {"rho": 0.3, "draws": 3}),
    "average by element": ("average_case", {"rho": 0.3, "draws": 2, "scaling": "elementwise", "norm": "linf"}),
    "average by filter": ("average_case", {"rho": 0.3, "draws": 2, "scaling": "filter"}),
    "average by layer": ("average_case", {"rho": 0.3, "draws": 2, "scaling": "layer"}),
    "norm": ("gradient_norm", {"scaling": "none"}),
    "l1 by layer": ("gradient_norm", {"norm": "linf", "scaling": "layer"}),
    "linf by filter": ("gradient_norm", {"norm": "l1", "scaling": "filter", "logit_norm": True}),
    "SAM": ("sam_sharpness", {"rho": 0.3, "scaling": "elementwise"}),
    "critical": ("critical_sharpness", {}),
    "along the gradient": ("directional_sharpness", {"product": "loss", "scaling": "filter"}),
    "along noise": ("directional_sharpness", {"product": "loss", "direction": "random", "scaling": "layer"}),
    "basin": ("basin_size", {"draws": 2, "scaling": "layer"}),
}
CASES["part"] = ("gradient_norm", {"scaling": "none", "parameters": "2.*"})
IN_PARTS = ["average by layer", "norm", "critical"]
FEWER = {
    "in part": [*IN_PARTS, "SAM"],
    "at once": ["average by filter", "SAM"],
    "tokens": [*IN_PARTS, "linf by filter"],
}


def asked(way):
    """The measures of a way, and examples in one pass."""
    cases = FEWER.get(way, CASES)
    return [(case, None) for case in cases] + [(case, 16) for case in cases if case in IN_PARTS]


REFUSED = {
    "worst_case": {"rho": 0.1}, "hessian_trace": {}, "directional_sharpness": {},
    "average_case": {"rho": 0.1, "variance_reduction": "linear"}, "pacbayes_orig": {}, "parameter_norm": {},
}  # fmt: skip


def bits(model):
    own = (p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters())
    return [p.detach().view(torch.int16 if p.element_size() == 2 else torch.int32).clone() for p in own]


def values(way):
    model = sharded(way, whole(way) if way == "tokens" else None)
    with warnings.catch_warnings(action="ignore"):  # torch says that the loss of the user's own pass has a view in it
        nn.functional.cross_entropy(model(points(way)[0]), points(way)[1]).backward()
    grads = [p.grad for p in model.parameters()]
    kept, before, state = [g.clone() for g in grads], bits(model), torch.get_rng_state()
    found = {}
    for case, microbatch in asked(way):
        name, fields = CASES[case]
        estimate = acutance.measure(name, model, points(way), microbatch=microbatch, **fields)
        found[case, microbatch] = estimate.status, estimate.value, estimate.extras, estimate.message
    surface = LossSurface(model, points(way))
    found["logits"] = surface.clean_logits().tolist()
    found["kinds"] = [kind for _, kind, _, _ in surface.layers]
    same = all(torch.equal(a, b) for a, b in zip(before, bits(model)))
    same &= all(p.grad is g for p, g in zip(model.parameters(), grads))
    same &= all(torch.equal(whole_of(g), whole_of(k)) for g, k in zip(grads, kept))
    return found, same and torch.equal(state, torch.get_rng_state())


def whole_of(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Stale(nn.Module):
    """Computes with weights that were gathered once."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(4)))
        self.gathered = [self.weight.detach().clone()]

    def forward(self, x):
        return x @ self.gathered[0]


def said(act):
    try:
        found = act()
    except (UserError, Unsupported) as error:
        return str(error)
    return f"{found.status}: {found.message}" if isinstance(found, acutance.Estimate) else "not refused"


class Planned:
    """Failures in the last forward, backward or loss that a measure made before; no attribute of a module, for these are restored."""

    def __init__(self):
        self.made, self.last = dict.fromkeys(("forward", "backward", "loss"), 0), {}

    def count(self, what):
        self.made[what] += 1
        if self.made[what] == self.last.get(what):
            raise ArithmeticError(f"in the {what}")


class Fails(nn.Module):
    def __init__(self, planned):
        super().__init__()
        self.planned = planned
        self.register_buffer("passes", torch.zeros(()))  # which nothing reads

    def forward(self, x):
        self.passes += 1
        self.planned.count("forward")
        return Same.apply(x, self.planned)


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, planned):
        ctx.planned = planned
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        ctx.planned.count("backward")
        return g, None


def failures(way):
    """What is left of a model after a pass failed half-way, and what is measured then."""
    found = {}
    for where, (name, fields) in {"forward": FEW[0], "backward": FEW[1], "loss": FEW[0]}.items():
        model, planned = net(), Planned()
        model.insert(3, Fails(planned).eval())
        sharded(way, model)
        before = bits(model)

        def loss(logits, targets, planned=planned):
            planned.count("loss")
            return nn.functional.cross_entropy(logits, targets)

        options = {"loss": loss if where == "loss" else "cross_entropy", **fields}
        acutance.measure(name, model, (X, Y), **options)
        planned.last, planned.made = {where: planned.made[where]}, dict.fromkeys(planned.made, 0)
        try:
            acutance.measure(name, model, (X, Y), **options)
        except ArithmeticError as error:
            same = all(torch.equal(a, b) for a, b in zip(before, bits(model)))
            planned.last.clear()
            again = [acutance.measure(name, model, (X, Y), **fields).value for name, fields in FEW]
            found[where] = str(error), same, again
    return found


def older():
    """The same with what torch had before modules could be reset by it."""
    if (reset := vars(FSDPModule).get("reset_iter_state")) is not None:
        del FSDPModule.reset_iter_state
    try:
        return {way: failures(way) for way in ("by layers", "at once")}
    finally:
        if reset is not None:
            FSDPModule.reset_iter_state = reset


FEW = [CASES["average"], CASES["norm"]]


def refusals(rank):
    found = {
        name: said(partial(acutance.measure, name, sharded("by layers"), (X, Y), **f)) for name, f in REFUSED.items()
    }
    both = fully_shard(net(), mesh=mesh((1, 2)))
    found["mesh"] = said(lambda: LossSurface(both, (X, Y)))
    summed = net()
    summed[0].weight = nn.Parameter(DTensor.from_local(summed[0].weight.data, mesh(), [Partial()]))
    found["partial"] = said(lambda: LossSurface(summed, (X, Y)))
    normed = net()
    weight_norm(normed[0])
    found["parametrized"] = said(lambda: LossSurface(sharded("at once", normed), (X, Y)))
    found["recurrent"] = said(lambda: LossSurface(fully_shard(nn.LSTM(5, 3), mesh=mesh()), (X, Y)))
    found["type"] = said(lambda: LossSurface(sharded("at once"), (X, Y), dtype="float64"))
    found["points"] = said(lambda: acutance.measure("loss", sharded("at once"), (X + rank, Y)))
    other = net(seed=rank)
    fully_shard(other[2], mesh=mesh())
    found["copies"] = said(lambda: LossSurface(other, (X, Y)))
    broken = sharded("at once")
    with torch.no_grad():
        broken[0].weight.to_local()[0] = math.nan if rank == 1 else 0.0
    found["NaN"] = said(lambda: LossSurface(broken, (X, Y)))
    halves = sharded("at once", net(kind=torch.bfloat16))
    found["half"] = said(lambda: acutance.measure("gradient_norm", halves, (X, Y), dtype="native", scaling="none"))
    frozen = net()
    frozen[0].weight.requires_grad_(False)
    sharded("at once", frozen)
    found["frozen"] = said(lambda: acutance.measure("gradient_norm", frozen, (X, Y), scaling="none"))
    stepping = sharded("at once")
    stepping[0].weight.register_post_accumulate_grad_hook(lambda p: None)
    found["hook"] = said(lambda: acutance.measure("gradient_norm", stepping, (X, Y), scaling="none"))
    waiting = sharded("at once")
    waiting.set_requires_gradient_sync(False)
    found["waiting"] = said(lambda: acutance.measure("gradient_norm", waiting, (X, Y), scaling="none"))
    surface, written = LossSurface(model := sharded("at once"), (X, Y)), None
    with torch.no_grad():
        model[5].bias.to_local().add_(1.0 if rank == 0 else 0.0)
        written = bits(model)
    found["written"] = said(lambda: acutance.measure("loss", surface))
    assert all(torch.equal(a, b) for a, b in zip(written, bits(model)))
    factor = sharded("at once")
    factor.set_reduce_scatter_divide_factor(1.0)  # the name that every torch has
    found["factor"] = said(lambda: acutance.measure("gradient_norm", factor, (X, Y), scaling="none"))
    statistics = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).eval()
    statistics[1].running_mean += rank
    found["buffers"] = said(lambda: LossSurface(sharded("at once", statistics), (X, Y)))
    found["stale"] = said(lambda: acutance.measure("loss", sharded("at once", Stale()), (X, Y)))
    found["features"] = said(lambda: LossSurface(sharded("at once"), (X, Y)).last_layer())
    if rank == 0:  # where one process works alone
        model = sharded("at once")
        alone = {
            "study": lambda: acutance.study({"a": model, "b": net()}, (X, Y), ["average_case"]),
            "rank": lambda: acutance.rank({"a": model, "b": net()}, (X, Y)),
            "landscape": lambda: acutance.landscape(model, (X, Y)),
            "monitor": partial(monitored, model),
        }
        found["alone"] = {name: said(act) for name, act in alone.items()}
    return found


def moved(surface):
    """A point at noise, rounded at random in half precision."""
    draw = Streams("test").noise("normal", "noise", 0, surface.size)
    return surface.piecewise_point().place(draw, 0.01, surface.dither)


def moved_in_parts(surface):
    """A point along parts that lie apart, of which each process has its own."""
    draw = Streams("test").noise("normal", "noise", 0, surface.size)
    whole = torch.cat([block.clone() for block in draw.blocks()]).split(surface.parameters.sizes)
    portion = surface.core.functional.portion(surface.parameters.free)
    if portion is not None:
        counts = zip(whole, portion.shares, portion.sizes, strict=True)
        whole = [part[share.chosen(0, count, 0)] if count else part[:0] for part, share, count in counts]
    return surface.piecewise_point().place(Apart(whole, portion=portion), 0.01, surface.dither)


MOVES = {"along noise": moved, "in parts": moved_in_parts}


class Off(nn.Module):
    """Outputs that are off by as much as kernels of another machine might be."""

    def __init__(self, far):
        super().__init__()
        self.far = far

    def forward(self, x):
        return x + self.far * torch.arange(3)


def trained(model):
    """Steps of training between measures of two surfaces that lie beside each other."""
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9), []
    for _ in range(3):
        with warnings.catch_warnings(action="ignore"):
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
            optimizer.zero_grad()
            model(X)  # whose graph nobody goes back through
        surfaces = [LossSurface(model, (x, Y), dtype="native") for x in (X, 2 * X)]
        found += [acutance.measure(name, s, **fields).value for name, fields in FEW for s in surfaces]
    return found


def monitored(model):
    with TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Monitor(["gradient_norm"], (X, Y), every=1, out=f"{folder}/run", report=False) as monitor:
            monitor.step(model, optimizer)
        raise UserError(" ".join(str(w.message) for w in caught))


def further(rank):
    found = {}
    halves = sharded("by layers", net(kind=torch.bfloat16))
    estimate = acutance.measure("average_case", halves, (X, Y), dtype="native", rho=0.3, draws=3)
    found["bf16"] = estimate.value, estimate.extras
    for name, model in {"float32": sharded("by layers"), "bfloat16": halves}.items():
        surface = LossSurface(model, (X, Y), dtype="native")
        for how, move in MOVES.items():
            with move(surface).held():
                found["moved", how, name] = [whole_of(p).tolist() for p in surface.model.parameters()]
        found["still", name] = [whole_of(p).tolist() for p in surface.model.parameters()]
    coarse = sharded("at once", mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        acutance.measure("loss", coarse, (X, Y))
    found["coarse"] = " ".join(str(w.message) for w in caught)
    frozen = net()
    frozen[0].weight.requires_grad_(False)
    sharded("at once", frozen)
    fields = {"scaling": "none", "parameters": "!0.weight"}
    found["frozen"] = acutance.measure("gradient_norm", frozen, (X, Y), **fields).value
    rounding = sharded("at once", nn.Sequential(*net(), Off(rank * 1e-4)).eval())
    found["rounding"] = [acutance.measure(name, rounding, (X, Y), **fields).value for name, fields in FEW]
    found["trained"] = trained(sharded("at once"))
    state = get_model_state_dict(sharded("at once"), options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        model = net(1)
        model.load_state_dict(state)
        found["gathered"] = acutance.measure("average_case", model, (X, Y), rho=0.3, draws=3).value
    return found


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = {
        "values": {way: values(way) for way in WAYS},
        "failures": {way: failures(way) for way in ("by layers", "at once")},
        "refusals": refusals(rank),
        "older": older(),
        "further": further(rank),
    }
    (folder / str(rank)).write_bytes(pickle.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Return what two processes found, in their order."""
    if not distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    folder = tmp_path_factory.mktemp("sharded")
    multiprocessing.spawn(work, (folder,), nprocs=2)
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(2)]


@contextmanager
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("way", WAYS)
def test_processes_find_what_one_that_holds_all_finds(processes, way):
    (first, same), (second, same_too) = (found["values"][way] for found in processes)
    assert same and same_too and first == second
    # Sums in another order, and small differences of losses.
    for case, microbatch in asked(way):
        (status, value, extras, message), (name, fields) = first[case, microbatch], CASES[case]
        with one_thread():
            expected = acutance.measure(name, whole(way), points(way), microbatch=microbatch, dtype="native", **fields)
        assert (status, message) == (expected.status, expected.message), case
        rel = 1e-4 if name == "directional_sharpness" else 1e-6
        assert value == pytest.approx(expected.value, rel=rel, abs=2e-8), (case, microbatch)
        numbers = {k: v for k, v in expected.extras.items() if not isinstance(v, str) and k != "product_error"}
        assert {k: extras[k] for k in numbers} == pytest.approx(numbers, rel=10 * rel, abs=1e-7), case
    surface = LossSurface(whole(way), points(way))
    assert torch.allclose(torch.tensor(first["logits"]), surface.clean_logits(), rtol=0, atol=1e-6)
    assert first["kinds"] == [kind for _, kind, _, _ in surface.layers]


@pytest.mark.parametrize("torch_of", ["failures", "older"])
@pytest.mark.parametrize("way", ["by layers", "at once"])
def test_a_pass_that_fails_leaves_the_weights_as_they_were(processes, way, torch_of):
    expected = [acutance.measure(name, net(), (X, Y), dtype="native", **fields).value for name, fields in FEW]
    for found in processes:
        assert list(found[torch_of][way]) == ["forward", "backward", "loss"]
        for where, (error, same, again) in found[torch_of][way].items():
            assert where in error and same and again == pytest.approx(expected, rel=1e-6)


SENTENCES = {
    "mesh": "is sharded over a mesh of 2 dimensions (DTensor)", "partial": "is placed as P", "points": "given other points",
    "parametrized": "module '0' is sharded, and has parametrized weights", "recurrent": "recurrent layer",
    "type": "dtype float64 was asked for", "copies": "given other values of the parameters that each holds whole",
    "NaN": "parameter '0.weight' has 5 non-finite value(s)", "half": "a gradient of sharded weights in bfloat16",
    "frozen": "gives no gradient in 0.weight (requires_grad=False)", "hook": "register_post_accumulate_grad_hook",
    "waiting": "set_requires_gradient_sync(True)", "written": "were written to since this surface was made",
    "buffers": "given buffers (running statistics) of other values",
    "stale": "the outputs of the sharded model do not follow what processes hold of it",
    "features": "it asks for the weights of its last layer, and here the weights are sharded over 2 processes",
    "factor": "set_gradient_divide_factor",
}  # fmt: skip


def test_what_is_not_measured_is_refused_in_one_sentence_by_all(processes):
    first, second = (found["refusals"] for found in processes)
    for name, sentence in first.pop("alone").items():
        assert "the model is sharded over processes (DTensor), and here one of them would work alone" in sentence, (
            name,
            sentence,
        )
    assert first == second
    for name in REFUSED:
        assert first[name].startswith("unsupported: "), (name, first[name])
        assert "sharded over 2 processes (DTensor): gather its weights" in first[name]
        assert "get_model_state_dict" in first[name] and "full_state_dict=True" in first[name]
    for name, sentence in SENTENCES.items():
        assert sentence in first[name], (name, first[name])


def test_half_precision_moves_as_in_one_process(processes):
    expected = acutance.measure("average_case", net(kind=torch.bfloat16), (X, Y), dtype="native", rho=0.3, draws=3)
    for found in processes:
        value, extras = found["further"]["bf16"]
        assert value == pytest.approx(expected.value, rel=1e-6) and extras == pytest.approx(expected.extras, rel=1e-6)


@pytest.mark.parametrize("how", MOVES)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_weights_move_where_they_lie_as_those_of_one_process(processes, kind, how):
    surface, name = LossSurface(net(kind=kind), (X, Y), dtype="native"), str(kind).removeprefix("torch.")
    still = [p.tolist() for p in surface.model.parameters()]
    expected = [p.tolist() for p in MOVES[how](surface).pieces.values()]
    assert expected != still
    for found in processes:
        assert found["further"]["moved", how, name] == expected and found["further"]["still", name] == still


def test_a_coarser_type_inside_is_told(processes):
    assert all("computes in bfloat16 inside its forward pass" in found["further"]["coarse"] for found in processes)


def test_training_goes_on_between_measures(processes):
    expected = pytest.approx(trained(net()), rel=1e-5)
    assert all(found["further"]["trained"] == expected for found in processes)


def test_outputs_are_those_of_the_first_process(processes):
    first, second = (found["further"]["rounding"] for found in processes)
    assert first == second
    assert first == pytest.approx([acutance.measure(name, net(), (X, Y), dtype="native", **f).value for name, f in FEW])


def test_frozen_parameters_are_left_out(processes):
    fields = {"scaling": "none", "parameters": "!0.weight"}
    expected = acutance.measure("gradient_norm", net(), (X, Y), dtype="native", **fields).value
    assert [found["further"]["frozen"] for found in processes] == pytest.approx([expected] * 2, rel=1e-6)


def test_gathered_weights_are_measured_as_the_sentence_says(processes):
    expected = acutance.measure("average_case", net(), (X, Y), rho=0.3, draws=3).value
    assert processes[0]["further"]["gathered"] == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_shares_are_those_of_torch(axis, count):
    numbers = torch.arange(4 * 7 * 3).view(4, 7, 3)
    parts, places = numbers.chunk(count, axis), []
    for rank in range(count):
        share = Share.cut(numbers.shape, axis, rank, count)
        part = parts[rank] if rank < len(parts) else numbers.narrow(axis, 0, 0)
        assert share.shape == part.shape
        found = []
        for start in range(0, 84, 11):
            block = numbers.view(-1)[start : start + 11]
            low, high = share.before(start), share.before(start + len(block))
            found += block[share.chosen(low, high, start)].tolist() if high > low else []
        assert found == part.flatten().tolist()
        places += found
    assert sorted(places) == list(range(84))


def test_weights_of_deepspeed_are_refused_though_they_look_empty():
    model = net()
    weight = model[0].weight
    weight.ds_id, weight.data = 0, torch.empty(0)
    with pytest.raises(UserError, match=r"parameter '0.weight' is partitioned by DeepSpeed.*zero_to_fp32"):
        LossSurface(model, (X, Y))
