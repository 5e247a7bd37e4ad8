"""Small files in the published layouts of language models: TensorFlow checkpoints of BERT, Hugging Face folders."""

import struct

import torch
import transformers

from acutance_text.sentiment import FILES
from acutance_text.tf_checkpoint import masked


def slow_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def block(pairs):
    out, last = b"", b""
    for key, value in pairs:
        shared = next((i for i, (a, b) in enumerate(zip(last, key, strict=False)) if a != b), min(len(last), len(key)))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    out += struct.pack("<II", 0, 1)
    return out, out + b"\0" + struct.pack("<I", masked(slow_crc(out + b"\0")))


def write(prefix, arrays):
    data, pairs = b"", [(b"", b"\x08\x01")]
    for name in sorted(arrays):
        raw = arrays[name].tobytes()
        dims = b"".join(b"\x12" + varint(len(d)) + d for d in (b"\x08" + varint(n) for n in arrays[name].shape))
        kind = {"float32": 1, "int64": 9}[str(arrays[name].dtype)]
        entry = b"\x08" + varint(kind) + b"\x12" + varint(len(dims)) + dims + b"\x20" + varint(len(data))
        entry += b"\x28" + varint(len(raw)) + b"\x35" + struct.pack("<I", masked(slow_crc(raw)))
        pairs.append((name.encode(), entry))
        data += raw
    content, first = block(pairs)
    index, second = block([(b"zz", varint(0) + varint(len(content)))])
    footer = varint(0) + varint(0) + varint(len(first)) + varint(len(index))
    (prefix.parent / f"{prefix.name}.index").write_bytes(
        first + second + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    )
    (prefix.parent / f"{prefix.name}.data-00000-of-00001").write_bytes(data)


def published_name(name):
    """Write a name of transformers as BERT's own code does, for a function of its own."""
    if name.startswith("classifier"):
        return "output_weights" if name.endswith("weight") else "output_bias"
    head, _, last = name.rpartition(".")
    if "LayerNorm" in head:
        last = {"weight": "gamma", "bias": "beta"}[last]
    elif head.endswith("_embeddings"):
        return head.replace(".", "/")
    elif last == "weight":
        last = "kernel"
    return f"{head.replace('layer.', 'layer_').replace('.', '/')}/{last}"


def tensorflow_arrays(model):
    """Return the arrays of a BERT classifier as BERT's own code names and turns them."""
    arrays = {}
    for name, p in model.named_parameters():
        theirs = published_name(name)
        arrays[theirs] = (p.detach().T if theirs.endswith("kernel") else p.detach()).contiguous().numpy()
    return arrays


def tiny_bert(seed=0, classes=3):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=24, num_labels=classes,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def tiny_gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=13, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    return transformers.GPT2LMHeadModel(config)


def ratings(n, positive=0.5):
    return "".join(
        f"{i}_1\t{(2 if i < n * positive else -1.5) if i % 5 else 0.1}\tSentence {i}'s\ttab.\r\n" for i in range(n)
    )


def rated_files():
    return {name: ratings(100 if domain == "movie" else 40) for domain, name in FILES.items()}


def write_ratings(folder):
    for name, text in rated_files().items():
        (folder / name).write_text(text, newline="")
