"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_datasets() -> dict[str, str]:
    """Return the text datasets."""
    return {
        "mnli": "acutance_text.mnli:Mnli",
        "hans": "acutance_text.mnli:Hans",
        "sentiment4": "acutance_text.sentiment:Sentiment4",
        "text": "acutance_text.text_sets:OwnText",
        "tokens": "acutance_text.blocks:Tokens",
        "sentiment4_tokens": "acutance_text.blocks:Sentiment4Tokens",
    }


@hookimpl
def register_pools() -> dict[str, str]:
    """Return the pools of transformers."""
    return {
        "transformers": "acutance_text.transformers_pool:Transformers",
        "causal": "acutance_text.causal:Causal",
        "adapters": "acutance_text.adapters:Adapters",
        "hub_revisions": "acutance_text.revisions:Revisions",
        "bert_feather": "acutance_text.feather:BertFeather",
        "finetuned": "acutance_text.finetuned:FineTuned",
        "causal_trained": "acutance_text.trained_lm:TrainedCausal",
    }
