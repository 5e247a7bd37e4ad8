"""Measures of a Llama with 1.1 billion random bf16 weights, in the memory of inference: time and peak beside its forwards.

    python benchmarks/large_language_model.py [--layers 22] [--tokens 512] [--parts average,critical,profile] [--record]

Peaks are the process's high-water mark (Linux), above that of a bare forward, as a share of the weights in their own
type; seconds are CPU time of one thread, beside that of as many bare forwards and drawing the noise. ``--record`` keeps
them under ``results/large_language_model``, and makes the page there anew.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import acutance
from acutance import Streams
from acutance.surface import LossSurface
from acutance_text.causal import next_token

SHAPE = {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32,
    "num_key_value_heads": 4, "max_position_embeddings": 2048,
}  # fmt: skip
BLOCK = 1 << 20
FOLDER = Path(__file__).parent / "results" / "large_language_model"


def llama(layers: int) -> LlamaForCausalLM:
    """Return the model, made without a second copy of its weights."""
    config = LlamaConfig(**SHAPE, num_hidden_layers=layers, torch_dtype="bfloat16")
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    torch.set_default_dtype(torch.float32)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are made, not stored
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() < 2:
                p.fill_(1.0)
                continue
            for part in p.view(-1).split(BLOCK):
                part.copy_(torch.empty(len(part)).normal_(generator=generator).mul_(0.02))
    return model.eval()


def noise(p: torch.Tensor) -> torch.Tensor:
    """Return a step of a tenth of the weights: a loss near that of chance rises along noise, not towards zero."""
    found = torch.empty_like(p)
    generator = torch.Generator().manual_seed(2)
    for part in found.view(-1).split(BLOCK):
        part.copy_(torch.empty(len(part)).normal_(generator=generator).mul_(0.002))
    return found


def peak() -> int:
    """Return the most memory that the process has held since ``reset``, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def reset() -> None:
    """Count the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


def drawn(kind: str, size: int) -> None:
    """Draw noise for so many weights, and keep none."""
    for _ in Streams(1).noise(kind, "x", 0, size).blocks():
        pass


def page(folder: Path) -> str:
    """Return the page of what is kept in a folder."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    first = found[0]
    lines = [
        "# A language model of a billion weights", "",
        f"`python benchmarks/large_language_model.py --parts PART --tokens T --record`: the shape of TinyLlama with "
        f"{first['parameters'] / 1e9:.2f} billion random weights in bf16 ({first['bytes'] / 1e9:.1f} GB), `surface.dtype: native`, one thread, "
        f"torch {first['torch']}.", "",
        "Time is CPU time over that of as many bare forwards and of the normal noise; the peak is what the measure holds above the peak of "
        "a bare forward, as a share of the weights.", "",
        "| measure | settings | tokens | forwards | time (s) | ratio | peak | status |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    known = {"measure", "value", "status", "forwards", "seconds", "ratio", "peak_share"}
    for about in found:
        for row in about["rows"]:
            settings = ", ".join(f"{name}={value}" for name, value in row.items() if name not in known)
            lines.append(
                f"| `{row['measure']}` | {settings} | {about['tokens']} | {row['forwards']:g} | {row['seconds']:.0f} | "
                f"{row['ratio']:.2f} | {row['peak_share']:.2f} | {row['status']} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    """Time the parts, print a row each, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--parts", default="average,critical,profile")
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = llama(asked.layers)
    size = sum(p.numel() for p in model.parameters())
    ids = torch.randint(0, SHAPE["vocab_size"], (1, asked.tokens), generator=torch.Generator().manual_seed(1))
    rows: list[dict[str, object]] = []

    def timed(work: object) -> tuple[float, int, object]:
        reset()
        start = time.process_time()
        result = work()  # type: ignore[operator]
        return time.process_time() - start, peak(), result

    def bare() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)

    bare()
    forward, bare_peak, _ = timed(bare)
    normal = timed(lambda: drawn("normal", size))[0]
    about = {
        "parameters": size, "bytes": 2 * size, "tokens": asked.tokens, "forward_s": forward, "normal_noise_s": normal,
        "torch": torch.__version__,
    }  # fmt: skip
    print(about, flush=True)
    surface = LossSurface(model, ({"input_ids": ids}, ids), loss=next_token, dtype="native")
    steps = {name: noise(p) for name, p in model.named_parameters()} if "critical" in asked.parts else None
    held = 2 * size if steps else 0  # the step itself, which the user has
    if steps is not None:
        surface.core.functional.update = lambda: steps
    surface.clean()

    def row(name: str, noise: float, **settings: object) -> None:
        before = surface.cost.forwards
        seconds, most, estimate = timed(lambda: acutance.measure(name, surface, **settings))
        forwards = surface.cost.forwards - before
        rows.append(
            {
                "measure": name, **settings, "value": estimate.value, "status": estimate.status.value,  # type: ignore[attr-defined]
                "forwards": forwards, "seconds": seconds, "ratio": seconds / (forwards * forward + noise),
                "peak_share": (most - bare_peak - held) / (2 * size),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)

    if "average" in asked.parts:
        row("average_case", 2 * normal, rho=0.05, draws=2, scaling="elementwise")
    if "critical" in asked.parts:
        row("critical_sharpness", 0, direction="update", rtol=0.1)
    if "profile" in asked.parts:
        for layer in range(asked.layers)[:: max(asked.layers // 3, 1)]:
            row("average_case", 0, rho=0.05, draws=2, scaling="elementwise", parameters=f"model.layers.{layer}.*")
    if asked.record:
        FOLDER.mkdir(exist_ok=True)
        name = f"{asked.parts.replace(',', '-')}-{asked.tokens}.json"
        (FOLDER / name).write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")
        (FOLDER / "README.md").write_text(page(FOLDER))


if __name__ == "__main__":
    main()
