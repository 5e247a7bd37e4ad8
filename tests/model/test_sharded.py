"""Models that several processes hold parts of: refused in one sentence, which says what works, and that works."""

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import acutance
from acutance import UserError
from acutance.surface.loss_surface import LossSurface

X, Y = torch.randn(12, 5, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def sharded(way):
    model = net(0)
    mesh = init_device_mesh("cpu", (2,))
    if way == "in part":
        fully_shard(model[2], mesh=mesh)
    elif way == "tensor parallel":
        parallelize_module(model, mesh, {"0": ColwiseParallel()})
    else:
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
    return model


WAYS = {"whole": "0.weight", "in part": "2.weight", "tensor parallel": "0.weight"}  # and the first that is named


def work(rank, file, out):
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    found = []
    for way in WAYS:
        model = sharded(way)
        said = []
        for dtype in (None, "native"):
            try:
                LossSurface(model, (X, Y), dtype=dtype)
            except UserError as error:
                said.append(str(error))
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        value = None
        if rank == 0:
            whole = net(1)
            whole.load_state_dict(state)
            value = acutance.measure("average_case", whole, (X, Y), rho=0.1, draws=3).value
        found.append((said, value))
    out.put((rank, found))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo")
def test_a_sharded_model_is_refused_and_measured_as_the_sentence_says(tmp_path):
    context = multiprocessing.get_context("spawn")
    out = context.SimpleQueue()
    running = multiprocessing.spawn(work, (str(tmp_path / "meeting"), out), nprocs=2, join=False)
    while not running.join(1):  # raises what a process raised
        pass
    found = dict(out.get() for _ in range(2))
    expected = acutance.measure("average_case", net(0), (X, Y), rho=0.1, draws=3).value
    assert [value for _, value in found[0]] == [expected] * 3
    for way, *both in zip(WAYS, found[0], found[1], strict=True):
        for said, _ in both:
            assert len(said) == 2 and len(set(said)) == 1
            assert f"parameter '{WAYS[way]}' is sharded over processes (DTensor)" in said[0]
            assert "get_model_state_dict" in said[0] and "full_state_dict=True" in said[0]


def test_weights_of_deepspeed_are_refused_though_they_look_empty():
    model = net(0)
    weight = model[0].weight
    weight.ds_id, weight.data = 0, torch.empty(0)
    with pytest.raises(UserError, match=r"parameter '0.weight' is partitioned by DeepSpeed.*zero_to_fp32"):
        LossSurface(model, (X, Y))
