"""CLIP's visual tower in timm with a linear head on normalized features, and the names of OpenAI's state dicts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acutance.errors import UserError, some

VISUAL = ("model.visual.", "visual.")
TOP = {
    "conv1.weight": "patch_embed.proj.weight", "ln_pre.weight": "norm_pre.weight", "ln_pre.bias": "norm_pre.bias",
    "ln_post.weight": "norm.weight", "ln_post.bias": "norm.bias",
}  # fmt: skip
BLOCK = {
    "ln_1": "norm1", "ln_2": "norm2", "attn.in_proj_": "attn.qkv.", "attn.out_proj": "attn.proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip


class ClipClassifier(nn.Module):
    """logits = W f / ||f|| + b, with f the projected features of the visual tower: parameters as in CLIP, no others."""

    def __init__(self, tower: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.tower = tower
        self.proj = nn.Linear(int(tower.num_features), features, bias=False)  # type: ignore[arg-type]
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(F.normalize(self.proj(self.tower(images)), dim=-1))
        return logits


def from_clip(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return a state of ``ClipClassifier`` from one of Wortsman et al.; the text tower is left out.

    Raises:
        UserError: for a state without visual tower or head.
    """
    prefix = next((p for p in VISUAL if f"{p}conv1.weight" in state), None)
    names = ("conv1.weight", "class_embedding", "positional_embedding", "proj")
    needed = [f"{prefix or VISUAL[0]}{name}" for name in names]
    missing = [name for name in (*needed, "classification_head.weight") if name not in state]
    if prefix is None or missing:
        raise UserError(f"{where}: has no {some(missing)}", "a state dict of model soups has them")
    head = {"head.weight": state["classification_head.weight"]}
    head["head.bias"] = state.get("classification_head.bias", torch.zeros(len(head["head.weight"])))
    renamed = {"proj.weight": state[f"{prefix}proj"].T.contiguous()} | head
    for name, tensor in state.items():
        if not name.startswith(prefix) or name == f"{prefix}proj":
            continue
        renamed |= {f"tower.{to}": value for to, value in _renamed(name.removeprefix(prefix), tensor).items()}
    return {name: tensor.float() for name, tensor in renamed.items()}


def _renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a tensor of CLIP's visual tower by its name and in its shape in timm."""
    if name == "class_embedding":
        return {"cls_token": tensor.view(1, 1, -1)}
    if name == "positional_embedding":
        return {"pos_embed": tensor.unsqueeze(0)}
    if name.startswith("transformer.resblocks."):
        _, _, number, rest = name.split(".", 3)
        for clip_name, timm_name in BLOCK.items():
            if rest.startswith(clip_name):
                return {f"blocks.{number}.{timm_name}{rest.removeprefix(clip_name)}": tensor}
    return {TOP.get(name, name): tensor}
