"""How fast elementwise work beside a pass can be: the memory that it has to move, at the bandwidth that is measured.

    python benchmarks/roofline.py [--record]

For a step of ``worst_case`` and a draw of ``average_case``, on networks with many weights that a pass hardly uses: the
vectors of all weights that go through memory, beside the bare pass. A ratio to bare passes below the last column is out
of reach on this machine. ``--record`` keeps the figures, and the page, under ``results/roofline``.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER / "perf"))

import torch  # noqa: E402
from tracking.bare import Bare  # noqa: E402
from tracking.machine import machine  # noqa: E402
from tracking.networks import NETWORKS, make  # noqa: E402

RESULTS = FOLDER / "results" / "roofline"
ROUNDS = 30
# Vectors that are read and written, beside what a forward, a backward and the drawing of noise do.
TRAFFIC = {
    "worst_case linf": (
        "backward",
        6,
        "gradient, iterate, the one before and w* are read; the next and its point written",
    ),
    "worst_case l2": ("backward", 10, "those, and four read before, for the inner products that the projection needs"),
    "average_case": ("forward", 3, "noise and w* are read, the point written"),
}


def seconds(work, rounds: int = ROUNDS) -> float:
    """Return the median time of one call, in seconds of the processor."""
    work()
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return median(found)


def figures(name: str) -> dict[str, object]:
    """Return what a network's vectors and passes take."""
    model, inputs, targets = make(NETWORKS[name], "cpu")
    bare = Bare(model, inputs, targets)
    a, b, out = torch.zeros(3, bare.p).unbind()
    vector = seconds(lambda: torch.add(a, b, alpha=0.5, out=out)) / 3
    passes = {"forward": seconds(lambda: bare.forward(bare.n)), "backward": seconds(lambda: bare.backward(bare.n))}
    noise = seconds(bare.noise)
    rows = []
    for work, (kind, vectors, what) in TRAFFIC.items():
        alone = passes[kind] + (noise if work == "average_case" else 0)
        floor = 1 + vectors * vector / alone
        rows.append({"work": work, "vectors": vectors, "what": what, "bare_ms": 1e3 * alone, "ratio": floor})
    return {"network": name, "parameters": bare.p, "gb_per_s": 4e-9 * bare.p / vector, "rows": rows}


def page(about: dict[str, object], networks: list[dict[str, object]]) -> str:
    """Return the figures as a page."""
    lines = [
        "# How fast elementwise work beside passes can be", "",
        f"`python benchmarks/roofline.py --record`; {about['processor']}, one thread, torch {about['torch']}. Bandwidth is that of "
        "a + s b on vectors of the same size, three of which it moves.", "",
        "| network | weights | GB/s | work | vectors moved | bare passes (ms) | least ratio |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for found in networks:
        for row in found["rows"]:
            lines.append(
                f"| {found['network']} | {found['parameters']:,} | {found['gb_per_s']:.1f} | {row['work']} | {row['vectors']}: {row['what']} | "
                f"{row['bare_ms']:.1f} | {row['ratio']:.2f} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print, and keep what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true")
    torch.set_num_threads(1)
    about, networks = machine(), [figures(name) for name in ("bert", "mlp")]
    print(page(about, networks))
    if parser.parse_args().record:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "figures.json").write_text(json.dumps({"machine": about, "networks": networks}, indent=2) + "\n")
        (RESULTS / "README.md").write_text(page(about, networks))


if __name__ == "__main__":
    main()
