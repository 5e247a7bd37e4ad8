"""worst_case of a GPT-2 with 124 million random weights: vectors held, and time beside its bare passes.

    python benchmarks/gpt2_search.py [--tokens 64] [--steps 5] [--rounds 3] [--record]

Vectors are counted from torch's allocators, beside what a bare forward and backward needs; seconds are CPU time of one
thread, in rounds that take turns with the bare passes. ``--record`` keeps them under ``results/gpt2_search``, and makes
the page there anew.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import acutance
from acutance.surface import LossSurface
from acutance_text.causal import next_token

sys.path.insert(0, str(Path(__file__).parent / "perf"))
from tracking.memory import peak_bytes, stretches, vectors

FOLDER = Path(__file__).parent / "results" / "gpt2_search"
RADII = {"l2": 0.01, "linf": 0.0005}


def page(folder: Path) -> str:
    """Return the page of what is kept in a folder."""
    about = json.loads((folder / "figures.json").read_text())
    lines = [
        "# A search over GPT-2", "",
        f"`python benchmarks/gpt2_search.py --record`: `worst_case` in {about['steps']} steps over {about['parameters'] / 1e6:.0f} million random "
        f"weights in float32 ({about['bytes'] / 1e9:.1f} GB), one block of {about['tokens']} tokens, one thread, torch {about['torch']}.", "",
        f"Vectors are as long as the weights, beside these, what a bare pass needs, and three copies of the logits, of {about['logits']:.2f} vectors each "
        "(those at w*, at the best point and of the last pass). Time is CPU time, beside that of as many bare forwards and backwards; the ratio is given of every round.", "",
        "| norm | scaling | start | vectors | time (s) | bare passes (s) | ratios |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in about["rows"]:
        lines.append(
            f"| {row['norm']} | {row['scaling']} | {row['start']} | {row['held'] - 3 * about['logits']:.2f} | {row['seconds']:.1f} | {row['bare']:.1f} | "
            f"{', '.join(f'{ratio:.2f}' for ratio in row['ratios'])} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Time the searches, print a row each, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--norms", default="linf,l2")
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).eval()
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    ids = torch.randint(0, 50257, (1, asked.tokens), generator=torch.Generator().manual_seed(1))
    surface = LossSurface(model, ({"input_ids": ids}, ids), loss=next_token)
    surface.loss()

    def loss() -> torch.Tensor:
        logits = model(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])

    def forward() -> None:
        with torch.no_grad():
            loss()

    def backward() -> None:
        torch.autograd.grad(loss(), parameters)

    peaks = {"forward": peak_bytes(forward, "cpu"), "backward": peak_bytes(backward, "cpu")}
    rows = []
    for norm in asked.norms.split(","):
        settings = {"norm": norm, "rho": RADII[norm], "scaling": "elementwise", "start": "random", "steps": asked.steps}

        def work(settings: dict = settings) -> object:
            surface.release()
            return acutance.measure("worst_case", surface, **settings)

        before = surface.cost
        held = stretches(work, "cpu", surface.core)
        cost = surface.cost - before
        turns = []
        for _ in range(asked.rounds):
            start = time.process_time()
            work()
            middle = time.process_time()
            for _ in range(round(cost.backwards)):
                backward()
            for _ in range(round(cost.forwards - cost.backwards)):
                forward()
            turns.append((middle - start, time.process_time() - middle))
        turns.sort(key=lambda pair: pair[0] / pair[1])
        seconds, bare = turns[len(turns) // 2]
        rows.append(
            {
                **settings, "forwards": cost.forwards, "backwards": cost.backwards,
                "held": vectors(held, peaks, 4 * size), "seconds": seconds, "bare": bare, "ratio": seconds / bare,
                "ratios": [one / other for one, other in turns],
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    if asked.record:
        about = {
            "parameters": size,
            "bytes": 4 * size,
            "tokens": asked.tokens,
            "steps": asked.steps,
            "logits": asked.tokens * model.config.vocab_size / size,
            "torch": torch.__version__,
            "rows": rows,
        }
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / "figures.json").write_text(json.dumps(about, indent=2) + "\n")
        (FOLDER / "README.md").write_text(page(FOLDER))


if __name__ == "__main__":
    main()
