"""Small files in the published layouts of vision models: Steiner et al. (2021) and Wortsman et al. (2022a)."""

import numpy as np
import torch

TINY = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
NAME = "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01-res_224"
SCRATCH = "B_16-i1k-300ep-lr_0.001-aug_light0-wd_0.03-do_0.1-sd_0.1--imagenet2012-steps_20k-lr_0.03-res_224"


def write_jax(model, path, **changes):
    """Write a timm vision transformer as the JAX code would have."""
    s = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    d, heads = TINY["embed_dim"], TINY["num_heads"]
    out = {
        "embedding/kernel": s["patch_embed.proj.weight"].transpose(2, 3, 1, 0), "embedding/bias": s["patch_embed.proj.bias"],
        "cls": s["cls_token"], "Transformer/posembed_input/pos_embedding": s["pos_embed"],
        "Transformer/encoder_norm/scale": s["norm.weight"], "Transformer/encoder_norm/bias": s["norm.bias"],
        "head/kernel": s["head.weight"].T, "head/bias": s["head.bias"],
    }  # fmt: skip
    for i in range(TINY["depth"]):
        block, t = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for j, norm in ((0, "norm1"), (2, "norm2")):
            out |= {
                f"{t}LayerNorm_{j}/scale": s[f"{block}{norm}.weight"],
                f"{t}LayerNorm_{j}/bias": s[f"{block}{norm}.bias"],
            }
        for j, part in enumerate(("query", "key", "value")):
            rows = slice(j * d, (j + 1) * d)
            a = f"{t}MultiHeadDotProductAttention_1/{part}/"
            out[a + "kernel"] = s[f"{block}attn.qkv.weight"][rows].T.reshape(d, heads, d // heads)
            out[a + "bias"] = s[f"{block}attn.qkv.bias"][rows].reshape(heads, d // heads)
        a = f"{t}MultiHeadDotProductAttention_1/out/"
        out[a + "kernel"] = s[f"{block}attn.proj.weight"].T.reshape(heads, d // heads, d)
        out[a + "bias"] = s[f"{block}attn.proj.bias"]
        for j in (0, 1):
            m = f"{t}MlpBlock_3/Dense_{j}/"
            out |= {m + "kernel": s[f"{block}mlp.fc{j + 1}.weight"].T, m + "bias": s[f"{block}mlp.fc{j + 1}.bias"]}
    np.savez(path, **{k: v for k, v in {**out, **changes}.items() if v is not None})


def clip_state(d=32, heads=4, depth=2, features=16, classes=5):
    g = torch.Generator().manual_seed(1)
    v = "model.visual."
    shapes = {f"{v}conv1.weight": (d, 3, 16, 16), f"{v}class_embedding": (d,), f"{v}positional_embedding": (5, d), f"{v}proj": (d, features),
              "classification_head.weight": (classes, features), "classification_head.bias": (classes,), "model.logit_scale": (),
              "model.positional_embedding": (7, 8)}  # fmt: skip
    for norm in ("ln_pre", "ln_post"):
        shapes |= {f"{v}{norm}.weight": (d,), f"{v}{norm}.bias": (d,)}
    for i in range(depth):
        b = f"{v}transformer.resblocks.{i}."
        for name, shape in (("attn.in_proj_", (3 * d, d)), ("attn.out_proj.", (d, d)), ("mlp.c_fc.", (4 * d, d)), ("mlp.c_proj.", (d, 4 * d)),
                            ("ln_1.", (d,)), ("ln_2.", (d,))):  # fmt: skip
            shapes |= {f"{b}{name}weight": shape, f"{b}{name}bias": shape[:1]}
    return {name: torch.randn(shape, generator=g) * 0.2 for name, shape in shapes.items()}
