"""Products along a parameter that the outputs do not depend on: zero, whatever the rounding, in every microbatch."""

import pytest
import torch

from acutance.testing.problems import PROBLEMS


@pytest.mark.parametrize("microbatch", [1, 7])
def test_each_column_of_the_gauss_newton_matrix_is_that_of_the_whole_batch(microbatch):
    whole, cut = PROBLEMS["attention"].surface(), PROBLEMS["attention"].surface()
    cut.core.microbatch = microbatch
    # The bias of the keys moves all scores of a query alike, and the softmax takes it away.
    (bias,) = [piece for name, _, _, piece in whole.layers if name == "k.bias"]
    for j in range(bias.start, bias.stop):
        unit = torch.zeros_like(whole.w)
        unit[j] = 1
        assert torch.allclose(cut.ggnvp(unit), whole.ggnvp(unit), rtol=1e-9, atol=1e-14)
