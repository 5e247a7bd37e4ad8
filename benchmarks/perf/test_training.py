"""Training of the pool cifar10_trained, beside a plain loop of torch over tensors on the same device."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_measures import clock, synchronize

from acutance.training import initialised, train
from acutance.training.recipe import Recipe
from acutance_vision.datasets.cifar import Cifar10, Cifar10Spec
from acutance_vision.released import resnet18

SETTINGS = {"plain": {}, "mixup": {"mixup": 0.5}, "randaugment": {"augment": True}}


def plain_loop(model, x, y, batch, precision):
    """Train one epoch as one would write it by hand: nothing but the passes and the steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    model.train()
    for rows in torch.randperm(len(y), device=x.device).split(batch):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_epoch_of_resnet18(compare, device, settings):
    """Images a second: at least 70% of the plain loop's, also with augmentation."""
    gpu = device == "cuda"
    n, width, batch = (10_240, 64, 128) if gpu else (256, 16, 64)
    precision = "bfloat16" if gpu else "float32"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, 32, 32, generator=generator).clamp_(-1.5, 1.5).to(device)
    y = (torch.arange(n) % 10).to(device)
    model = initialised(lambda: resnet18(width), 0).to(device)
    if gpu:
        model.to(memory_format=torch.channels_last)
    beside = copy.deepcopy(model)
    recipe = Recipe(learning_rate=0.05, epochs=1, batch_size=batch, **SETTINGS[settings])
    augment = Cifar10(Cifar10Spec(augmentation="randaugment")).augment

    def ours():
        train(model, x, y, recipe, augment, precision=precision)
        synchronize(device)

    def theirs():
        plain_loop(beside, x, y, batch, precision)
        synchronize(device)

    ours()
    theirs()
    compare(ours, theirs, rounds=4, bound=1 / 0.7, seconds=clock(device), against="a plain loop", images=n)
