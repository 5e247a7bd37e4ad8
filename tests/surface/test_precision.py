"""TF32 is off during a pass on a GPU, and afterwards what the user had set; the flags exist without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from acutance.model.conditions import Conditions

CUDA = torch.device("cuda")


def old():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()


def new():
    places = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)
    return tuple(place.fp32_precision for place in places)


@pytest.fixture
def restored():
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


def check(flags, off):
    outside = flags()
    with Conditions(CUDA, torch.float32, grad=False):
        assert flags() == off
    assert flags() == outside
    with pytest.raises(RuntimeError), Conditions(CUDA, torch.float32, grad=False):
        raise RuntimeError
    assert flags() == outside


@pytest.mark.parametrize("convolutions", [True, False])
@pytest.mark.parametrize("products", ["highest", "high", "medium"])
def test_tf32_is_off_inside_and_as_it_was_outside(convolutions, products, restored):
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)
    check(old, (False, False, "highest"))


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has one interface")
def test_a_user_of_the_new_interface_stays_in_it():
    """In a process of its own: torch does not forget that the new interface was used."""
    script = (
        "import sys, torch; sys.path.insert(0, 'tests/surface'); sys.path.insert(0, 'tests'); import test_precision as t\n"
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'; torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "assert t.new() == ('ieee', 'tf32', 'tf32'); t.check(t.new, ('ieee', 'ieee', 'ieee'))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
