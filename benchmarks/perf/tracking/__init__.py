"""What the benchmarks are made of: networks, example specs, bare passes, memory, and the committed figures."""
