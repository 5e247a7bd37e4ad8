"""Products of a language model with a real vocabulary beside hessian-eigenthings; moves of bf16 weights beside forwards."""

import pytest
import torch
from test_measures import clock, synchronize
from tracking.memory import peak_bytes

import acutance
from acutance import LossSurface, Streams

VOCABULARY, BLOCKS, LENGTH = 50304, 8, 128
transformers = pytest.importorskip("transformers")


def gpt2(device):
    """Return (model, tokens): two layers of width 64 before a vocabulary of 50304."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4, attn_implementation="eager"
        )
        model = transformers.GPT2LMHeadModel(config).eval().to(device)
        return model, torch.randint(0, VOCABULARY, (BLOCKS, LENGTH)).to(device)


def products(kind, model, tokens, v):
    """Return (ours, theirs, a function that frees our graphs): one product each with all that it needs."""
    peer = pytest.importorskip("hessian_eigenthings", reason="pip install acutance[bench]")
    from acutance_text.next_token import next_token

    surface = LossSurface(model, ({"input_ids": tokens, "use_cache": False}, tokens), loss=next_token)
    surface.hvp(v)  # the opening checks of a surface are made once a model
    batches = [{"input_ids": tokens, "labels": tokens, "use_cache": False}]
    if kind == "hvp":
        return surface.hvp, peer.HessianOperator(model, batches, peer.hf_lm_loss()).matvec, surface.release
    forward = peer.GGNOperator(model, batches, peer.hf_lm_forward(), peer.hf_lm_loss_of_output())
    return surface.ggnvp, forward.matvec, surface.release


@pytest.mark.parametrize("kind", ["hvp", "ggnvp"])
def test_product(compare, kind, device):
    """The first product at w*, for which the graph is made, against the peer's, which makes one for each."""
    model, tokens = gpt2(device)
    v = Streams("benchmark").normal("v", 0, torch.empty(sum(p.numel() for p in model.parameters()), device=device))
    ours, theirs, release = products(kind, model, tokens, v)

    def work():
        release()
        ours(v)
        synchronize(device)

    def bare():
        theirs(v)
        synchronize(device)

    expected = theirs(v).detach()
    assert torch.linalg.vector_norm(ours(v) - expected) <= 1e-5 * torch.linalg.vector_norm(expected)
    release()
    peaks = {}
    if device == "cpu":
        peaks = {"peak_mb": peak_bytes(work, device) / 1e6, "peer_peak_mb": peak_bytes(bare, device) / 1e6}
    compare(work, bare, 3, 0.8, seconds=clock(device), against="hessian-eigenthings", **peaks)


def test_native_average_case(compare, device):
    """Two draws over the weights of a Llama in bfloat16 against three forwards and the noise of two draws."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=32000, hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8,
            num_key_value_heads=2, max_position_embeddings=512,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config).eval().to(device)
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
        tokens = torch.randint(0, 32000, (1, 512)).to(device)
    from acutance_text.next_token import next_token

    surface = LossSurface(model, ({"input_ids": tokens, "use_cache": False}, tokens), loss=next_token, dtype="native")
    surface.clean()
    before = surface.cost

    def work():
        surface.release()
        acutance.measure("average_case", surface, rho=0.3, draws=2, scaling="elementwise")
        synchronize(device)

    @torch.no_grad()
    def bare():
        for _ in range(int(made.forwards)):
            model(input_ids=tokens, use_cache=False)
        for k in range(2):
            for _ in Streams("benchmark").noise("normal", "l2", k, surface.size).blocks():
                pass
        synchronize(device)

    work()
    made = surface.cost - before
    compare(work, bare, 3, 1.15, seconds=clock(device), forwards=made.forwards)
