"""The correlations that the paper prints, as tables: what docs/reproducing.md expects of each setting."""

from __future__ import annotations

from acutance.analysis.published import published

NAMES = {
    "imagenet1k_scratch": "ViT-B/16 from scratch on ImageNet-1k",
    "imagenet1k_from_in21k": "ViT-B/16 pretrained on ImageNet-21k",
    "imagenet1k_from_clip": "CLIP ViT-B/32 fine-tuned on ImageNet",
    "mnli_from_bert": "BERT fine-tuned on MNLI",
    "cifar10_resnet18": "ResNet-18 on CIFAR-10",
    "cifar10_vit": "ViT on CIFAR-10",
}
KINDS = {"worst_case": "worst-case", "average_case": "avg-case"}
SCALINGS = {"none": "standard", "elementwise": "adaptive"}
BALLS = {"l2": "ℓ2", "linf": "ℓ∞"}


def table(setting: str) -> str:
    """Return one block of Tables 1-4: a row a definition and radius, a column a target."""
    rows = published(setting)
    targets = list(dict.fromkeys(rows["printed_target"]))
    by = ["spec.scaling", "measure", "spec.norm", "spec.logit_norm", "spec.rho"]
    lines = [
        f"| sharpness | logit norm. | ρ | {' | '.join(targets)} |",
        f"|---|---|---|{'---|' * len(targets)}",
    ]
    for (scaling, measure, norm, logit_norm, rho), part in rows.groupby(by, sort=False):
        taus = part.set_index("printed_target")["tau"]
        name = f"{SCALINGS[scaling]} {KINDS[measure]} {BALLS[norm]}"
        values = " | ".join(f"{taus[target]:.2f}" if target in taus else "" for target in targets)
        lines.append(f"| {name} | {'yes' if logit_norm else 'no'} | {rho:g} | {values} |")
    return "\n".join(lines)


def page() -> str:
    """Return the page of all six blocks."""
    settings = list(dict.fromkeys(published()["setting"]))
    numbers = dict(published().groupby("setting")["table"].first())
    blocks = [f"## {NAMES[name]}\n\nTable {numbers[name]}, `{name}`.\n\n{table(name)}\n" for name in settings]
    return (
        "# What the paper prints\n\nThe 384 rank correlations of Tables 1 to 4 of Andriushchenko et al. (2023). They ship with acutance: "
        "`acutance compare RUN published --setting NAME` sets a run beside them. The paper gives no intervals.\n\n" + "\n".join(blocks)
    )
