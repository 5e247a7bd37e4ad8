"""BibTeX entries of the works that measures go back to, by citation key.

A measure names its own in ``Traits.bibtex``: keys of this file, or whole entries of its author's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from acutance.errors import UserError, did_you_mean

ENTRIES: Mapping[str, str] = {
    "andriushchenko2023modern": r"""
@inproceedings{andriushchenko2023modern,
  title     = {A Modern Look at the Relationship between Sharpness and Generalization},
  author    = {Andriushchenko, Maksym and Croce, Francesco and M{\"u}ller, Maximilian and Hein, Matthias and
               Flammarion, Nicolas},
  booktitle = {Proceedings of the 40th International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {202},
  pages     = {840--902},
  publisher = {PMLR},
  year      = {2023},
  url       = {https://proceedings.mlr.press/v202/andriushchenko23a.html}
}""",
    "croce2020reliable": r"""
@inproceedings{croce2020reliable,
  title     = {Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks},
  author    = {Croce, Francesco and Hein, Matthias},
  booktitle = {Proceedings of the 37th International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {119},
  pages     = {2206--2216},
  publisher = {PMLR},
  year      = {2020},
  url       = {https://proceedings.mlr.press/v119/croce20b.html}
}""",
    "foret2021sharpness": r"""
@inproceedings{foret2021sharpness,
  title     = {Sharpness-Aware Minimization for Efficiently Improving Generalization},
  author    = {Foret, Pierre and Kleiner, Ariel and Mobahi, Hossein and Neyshabur, Behnam},
  booktitle = {International Conference on Learning Representations},
  year      = {2021},
  url       = {https://openreview.net/forum?id=6Tm1mposlrM}
}""",
    "kwon2021asam": r"""
@inproceedings{kwon2021asam,
  title     = {{ASAM}: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks},
  author    = {Kwon, Jungmin and Kim, Jeongseop and Park, Hyunseo and Choi, In Kwon},
  booktitle = {Proceedings of the 38th International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {139},
  pages     = {5905--5914},
  publisher = {PMLR},
  year      = {2021},
  url       = {https://proceedings.mlr.press/v139/kwon21b.html}
}""",
}


def entries(names: Sequence[str] | str) -> list[str]:
    """Return BibTeX entries.

    Args:
        names: citation keys of this file, or entries, which begin with ``@``; or a single one.

    Raises:
        UserError: for a key that is not in this file.
    """
    found = []
    for name in [names] if isinstance(names, str) else names:
        if not name.lstrip().startswith("@") and name not in ENTRIES:
            raise UserError(f"unknown citation key '{name}'", did_you_mean(name, list(ENTRIES)))
        found.append(ENTRIES.get(name, name).strip())
    return found
