import pytest


@pytest.fixture
def three_models(toy_config):
    """A study that is computed in a moment: 3 models, 4 batches, one target; what it measures is the test's own."""
    return toy_config | {"pools": [{"name": "toy", "size": 3}], "targets": ["test_error"], "groups": []}
