"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl

FAMILIES = {
    "norms": {
        "parameter_norm": "ParameterNorm",
        "distance_from_initialization": "DistanceFromInitialization",
        "parameter_count": "ParameterCount",
    },
    "margin.output": {"output_margin": "OutputMargin", "inverse_squared_margin": "InverseSquaredMargin"},
    "margin.scaled": {"normalized_margin": "NormalizedMargin", "hidden_margin": "HiddenMargin"},
    "weights.matrices": {
        "stable_rank": "StableRank",
        "frobenius_distance": "FrobeniusDistance",
        "spectral_distance": "SpectralDistance",
    },
    "weights.norm_products": {
        "log_product_of_spectral_norms": "LogProductOfSpectralNorms",
        "log_sum_of_spectral_norms": "LogSumOfSpectralNorms",
        "log_product_of_frobenius_norms": "LogProductOfFrobeniusNorms",
        "log_sum_of_frobenius_norms": "LogSumOfFrobeniusNorms",
    },
    "weights.path_norm": {"path_norm": "PathNorm"},
    "weights.heavy_tail": {
        "power_law_alpha": "PowerLawAlpha",
        "alpha_hat": "AlphaHat",
        "log_alpha_norm": "LogAlphaNorm",
        "mp_soft_rank": "MPSoftRank",
    },
    "weights.spectral_complexity": {
        "fro_over_spec": "FroOverSpec",
        "spectral_orig_main": "SpectralOrigMain",
        "spectral_init_main": "SpectralInitMain",
    },
    "pac_bayes": {
        "pacbayes_flatness": "PacBayesFlatness",
        "pacbayes_magnitude_flatness": "PacBayesMagnitudeFlatness",
    },
    "pac_bayes_bounds": {
        "pacbayes_orig": "PacBayesOrig",
        "pacbayes_init": "PacBayesInit",
        "pacbayes_magnitude_orig": "PacBayesMagnitudeOrig",
        "pacbayes_magnitude_init": "PacBayesMagnitudeInit",
    },
    "worst_radius": {
        "sharpness_flatness": "SharpnessFlatness",
        "sharpness_magnitude_flatness": "SharpnessMagnitudeFlatness",
        "sharpness_orig": "SharpnessOrig",
        "sharpness_init": "SharpnessInit",
    },
    "basin": {"basin_size": "BasinSize"},
    "gradients": {
        "fisher_trace": "FisherTrace",
        "gradient_variance": "GradientVariance",
        "gradient_noise_scale": "GradientNoiseScale",
        "gradient_signal_to_noise": "GradientSignalToNoise",
    },
    "gradient_agreement": {
        "gradient_confusion": "GradientConfusion",
        "gradient_coherence": "GradientCoherence",
    },
    "gradient_alignment": {"gradient_weight_alignment": "GradientWeightAlignment"},
    "information": {"tic": "TakeuchiCriterion", "soft_rank_tic": "SoftRankCriterion"},
    "learning_coefficient": {"local_learning_coefficient": "LocalLearningCoefficient"},
    "flatness.one_step": {
        "sam_sharpness": "SamSharpness",
        "keskar_sharpness": "KeskarSharpness",
        "eps_flatness": "EpsFlatness",
    },
    "flatness.critical": {
        "critical_sharpness": "CriticalSharpness",
    },
    "flatness.relative_critical": {"relative_critical_sharpness": "RelativeCriticalSharpness"},
    "flatness.averages": {
        "low_pass_filter": "LowPassFilter",
        "local_entropy": "LocalEntropy",
        "local_energy": "LocalEnergy",
    },
    "flatness.entropy_gradient": {
        "gradient_of_local_entropy": "GradientOfLocalEntropy",
    },
    "flatness.fisher_rao": {
        "fisher_rao": "FisherRao",
    },
    "flatness.relative_flatness": {
        "relative_flatness": "RelativeFlatness",
    },
    "flatness.scale_free": {
        "normalized_sharpness": "NormalizedSharpness",
        "minimum_sharpness": "MinimumSharpness",
    },
    "flatness.geodesic": {
        "geodesic_sharpness": "GeodesicSharpness",
    },
}


@hookimpl
def register_measures() -> dict[str, str]:
    """Return the measures, family by family."""
    return {
        name: f"acutance_classic.{family}:{class_name}"
        for family, members in FAMILIES.items()
        for name, class_name in members.items()
    }
