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
    "hutchinson1990stochastic": r"""
@article{hutchinson1990stochastic,
  title   = {A Stochastic Estimator of the Trace of the Influence Matrix for {L}aplacian Smoothing Splines},
  author  = {Hutchinson, Michael F.},
  journal = {Communications in Statistics - Simulation and Computation},
  volume  = {19},
  number  = {2},
  pages   = {433--450},
  year    = {1990},
  url     = {https://doi.org/10.1080/03610919008812866}
}""",
    "meyer2021hutch": r"""
@inproceedings{meyer2021hutch,
  title     = {{Hutch++}: Optimal Stochastic Trace Estimation},
  author    = {Meyer, Raphael A. and Musco, Cameron and Musco, Christopher and Woodruff, David P.},
  booktitle = {Symposium on Simplicity in Algorithms (SOSA)},
  pages     = {142--155},
  publisher = {SIAM},
  year      = {2021},
  url       = {https://arxiv.org/abs/2010.09649}
}""",
    "epperly2024xtrace": r"""
@article{epperly2024xtrace,
  title   = {{XTrace}: Making the Most of Every Sample in Stochastic Trace Estimation},
  author  = {Epperly, Ethan N. and Tropp, Joel A. and Webber, Robert J.},
  journal = {SIAM Journal on Matrix Analysis and Applications},
  volume  = {45},
  number  = {1},
  pages   = {1--23},
  year    = {2024},
  url     = {https://arxiv.org/abs/2301.07825}
}""",
    "lanczos1950iteration": r"""
@article{lanczos1950iteration,
  title   = {An Iteration Method for the Solution of the Eigenvalue Problem of Linear Differential and Integral
             Operators},
  author  = {Lanczos, Cornelius},
  journal = {Journal of Research of the National Bureau of Standards},
  volume  = {45},
  number  = {4},
  pages   = {255--282},
  year    = {1950},
  url     = {https://doi.org/10.6028/jres.045.026}
}""",
    "ghorbani2019investigation": r"""
@inproceedings{ghorbani2019investigation,
  title     = {An Investigation into Neural Net Optimization via {H}essian Eigenvalue Density},
  author    = {Ghorbani, Behrooz and Krishnan, Shankar and Xiao, Ying},
  booktitle = {Proceedings of the 36th International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {97},
  pages     = {2232--2241},
  publisher = {PMLR},
  year      = {2019},
  url       = {https://proceedings.mlr.press/v97/ghorbani19b.html}
}""",
    "pan2022toward": r"""
@inproceedings{pan2022toward,
  title     = {Toward Understanding Why {A}dam Converges Faster Than {SGD} for Transformers},
  author    = {Pan, Yan and Li, Yuanzhi},
  booktitle = {OPT 2022: Optimization for Machine Learning (NeurIPS 2022 Workshop)},
  year      = {2022},
  url       = {https://arxiv.org/abs/2306.00204}
}""",
    "bisla2022lowpass": r"""
@inproceedings{bisla2022lowpass,
  title     = {Low-Pass Filtering {SGD} for Recovering Flat Optima in the Deep Learning Optimization Landscape},
  author    = {Bisla, Devansh and Wang, Jing and Choromanska, Anna},
  booktitle = {Proceedings of The 25th International Conference on Artificial Intelligence and Statistics},
  series    = {Proceedings of Machine Learning Research},
  volume    = {151},
  pages     = {8299--8339},
  publisher = {PMLR},
  year      = {2022},
  url       = {https://proceedings.mlr.press/v151/bisla22a.html}
}""",
    "mackay1992bayesian": r"""
@article{mackay1992bayesian,
  title   = {Bayesian Interpolation},
  author  = {MacKay, David J. C.},
  journal = {Neural Computation},
  volume  = {4},
  number  = {3},
  pages   = {415--447},
  year    = {1992},
  url     = {https://doi.org/10.1162/neco.1992.4.3.415}
}""",
    "maddox2020rethinking": r"""
@article{maddox2020rethinking,
  title   = {Rethinking Parameter Counting in Deep Models: Effective Dimensionality Revisited},
  author  = {Maddox, Wesley J. and Benton, Gregory and Wilson, Andrew Gordon},
  journal = {arXiv preprint arXiv:2003.02139},
  year    = {2020},
  url     = {https://arxiv.org/abs/2003.02139}
}""",
    "woodworth2020kernel": r"""
@inproceedings{woodworth2020kernel,
  title     = {Kernel and Rich Regimes in Overparametrized Models},
  author    = {Woodworth, Blake and Gunasekar, Suriya and Lee, Jason D. and Moroshko, Edward and Savarese, Pedro and
               Golan, Itay and Soudry, Daniel and Srebro, Nathan},
  booktitle = {Proceedings of the 33rd Conference on Learning Theory},
  series    = {Proceedings of Machine Learning Research},
  volume    = {125},
  pages     = {3635--3673},
  publisher = {PMLR},
  year      = {2020},
  url       = {https://proceedings.mlr.press/v125/woodworth20a.html}
}""",
    "schraudolph2002fast": r"""
@article{schraudolph2002fast,
  title   = {Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent},
  author  = {Schraudolph, Nicol N.},
  journal = {Neural Computation},
  volume  = {14},
  number  = {7},
  pages   = {1723--1738},
  year    = {2002},
  url     = {https://doi.org/10.1162/08997660260028683}
}""",
    "dauphin2024neglected": r"""
@inproceedings{dauphin2024neglected,
  title     = {Neglected {H}essian Component Explains Mysteries in Sharpness Regularization},
  author    = {Dauphin, Yann N. and Agarwala, Atish and Mobahi, Hossein},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {37},
  year      = {2024},
  url       = {https://arxiv.org/abs/2401.10809}
}""",
}


def entries(names: Sequence[str] | str) -> list[str]:
    """Return BibTeX entries.

    Args:
        names: citation keys of this file, or entries, which begin with ``@``; or a single one.

    Raises:
        UserError: for a key that is not in this file.
    """
    bibtex = []
    for name in [names] if isinstance(names, str) else names:
        if not name.lstrip().startswith("@") and name not in ENTRIES:
            raise UserError(f"unknown citation key '{name}'", did_you_mean(name, list(ENTRIES)))
        bibtex.append(ENTRIES.get(name, name).strip())
    return bibtex
