"""What statistics are computed with: ranks, sums over pairs, resamples and permutations of models, intervals."""
