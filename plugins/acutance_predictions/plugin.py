"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl

FAMILIES = {
    "agreement_line": {"agreement_on_the_line": "AgreementOnTheLine"},
    "calibration": {
        "expected_calibration_error": "ExpectedCalibrationError",
        "negative_log_likelihood": "NegativeLogLikelihood",
        "brier_score": "BrierScore",
        "temperature": "Temperature",
    },
    "disagreement": {"disagreement": "Disagreement"},
    "error_estimates": {
        "average_confidence": "AverageConfidence",
        "difference_of_confidences": "DifferenceOfConfidences",
        "average_thresholded_confidence": "AverageThresholdedConfidence",
    },
    "output_norms": {"mano": "MaNo", "nuclear_norm": "NuclearNorm"},
    "pairs.barrier": {"linear_barrier": "LinearBarrier"},
    "pairs.task_vectors": {"task_vector_cosine": "TaskVectorCosine", "subspace_overlap": "SubspaceOverlap"},
    "transport": {"cot": "ConfidenceTransport"},
    "confidence": {
        "mean_confidence": "MeanConfidence",
        "prediction_entropy": "PredictionEntropy",
        "confidence_margin": "ConfidenceMargin",
    },
    "representations.spectra": {
        "rankme": "RankMe",
        "feature_stable_rank": "FeatureStableRank",
        "effective_rank": "EffectiveRank",
        "diff_erank": "DiffErank",
    },
    "representations.decay": {"alpha_req": "AlphaReq"},
    "representations.dimension": {"intrinsic_dimension": "IntrinsicDimension"},
    "representations.classes": {
        "neural_collapse": "NeuralCollapse",
        "class_distance_normalized_variance": "ClassDistanceNormalizedVariance",
        "davies_bouldin": "DaviesBouldin",
    },
    "representations.mixup": {"mixup_accuracy": "MixupAccuracy", "mixup_davies_bouldin": "MixupDaviesBouldin"},
    "representations.augmentation": {"augmentation_consistency": "AugmentationConsistency"},
    "representations.depth": {"prediction_depth": "PredictionDepth"},
    "representations.similarity": {"centred_kernel_alignment": "CentredKernelAlignment", "cka": "CKA"},
    "representations.tangent": {"ntk_alignment": "NTKAlignment"},
    "inputs.sensitivity": {
        "input_gradient_norm": "InputGradientNorm",
        "jacobian_norm": "JacobianNorm",
        "geometric_complexity": "GeometricComplexity",
    },
    "training.losses": {
        "sum_of_training_losses": "SumOfTrainingLosses",
        "loss_at_step": "LossAtStep",
        "gradient_norm_along_training": "GradientNormAlongTraining",
    },
    "training.lengths": {
        "trajectory_length": "TrajectoryLength",
        "trajectory_tortuosity": "TrajectoryTortuosity",
    },
    "training.topology": {
        "lifetime_sum": "LifetimeSum",
        "positive_magnitude": "PositiveMagnitude",
    },
}


@hookimpl
def register_measures() -> dict[str, str]:
    """Return the measures, family by family."""
    return {
        name: f"acutance_predictions.{family}:{class_name}"
        for family, members in FAMILIES.items()
        for name, class_name in members.items()
    }
