import sys
from pathlib import Path

import pytest
import torch

# The helpers beside the tests are plain modules; importlib mode does not put this folder on the path.
sys.path.insert(0, str(Path(__file__).parent))

torch.set_num_threads(1)


@pytest.fixture
def no_plugins_environment(monkeypatch):
    monkeypatch.delenv("ACUTANCE_PLUGINS", raising=False)
