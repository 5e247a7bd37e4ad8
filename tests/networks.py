"""Small networks of every kind that second derivatives have to go through, in float64, with a batch each."""

import torch
from models import MLP, Attention, ConvBN, Tied, conv_data, mlp_data, seeded, tied_data, token_data
from torch import nn


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=6, num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    return BertForSequenceClassification(config).double()


def bert_data():
    mask = torch.ones(6, 5, dtype=torch.long)
    mask[2, 3:] = 0
    tokens = torch.randint(1, 12, (6, 5), generator=seeded(8)) * mask
    return {"input_ids": tokens, "attention_mask": mask}, torch.tensor([0, 1, 2, 0, 1, 2])


def vit():
    import timm

    torch.manual_seed(5)
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3}
    return timm.create_model("vit_tiny_patch16_224", **size).double()


def convnext():
    import timm

    torch.manual_seed(6)
    size = {"depths": (1, 1, 1, 1), "dims": (3, 3, 3, 4), "patch_size": 1, "num_classes": 3, "ls_init_value": 0.5}
    return timm.models.ConvNeXt(**size).double()


def image_data():
    return torch.randn(5, 3, 8, 8, generator=seeded(9), dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])


class GeluNorm(nn.Module):
    """LayerNorm, GELU, a residual."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.first, self.norm, self.last = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 4)
        self.double()

    def forward(self, x):
        return self.last(self.norm(x + nn.functional.gelu(self.first(x))))


NETWORKS = {
    "mlp": (MLP, mlp_data),
    "conv_bn": (ConvBN, conv_data),
    "attention": (Attention, token_data),
    "gelu_norm": (GeluNorm, mlp_data),
    "tied": (Tied, tied_data),
    "bert": (bert, bert_data),
    "vit": (vit, image_data),
    "convnext": (convnext, image_data),
}
