"""Quality metrics with definition, source and requirements, and image formats to compare with.

    from metrics import MetricSet
    MetricSet(("psnr", "ms_ssim")).measure(original, reconstruction)

`METRICS` is the table and `MetricSet` measures; `images` and `sets` are pure functions of arrays,
`networks` those with weights; `baselines` compresses with image formats at the same size.
"""

from metrics.images import (
    MS_SSIM_MIN_SIDE,
    EdgeAgreement,
    bsds_tolerance_px,
    color_distance,
    edge_f1,
    halved,
    ms_ssim,
    pattern,
    psnr,
)
from metrics.metric_set import MetricSet, SetValue
from metrics.sets import Interval, frechet_distance, hific_patches, kernel_distance, mean_interval
from metrics.table import FAST, METRICS, choose_metrics, is_per_image
from metrics.tools import Tools, Unavailable

__all__ = [
    "FAST",
    "METRICS",
    "MS_SSIM_MIN_SIDE",
    "EdgeAgreement",
    "Interval",
    "MetricSet",
    "SetValue",
    "Tools",
    "Unavailable",
    "bsds_tolerance_px",
    "choose_metrics",
    "color_distance",
    "edge_f1",
    "frechet_distance",
    "halved",
    "hific_patches",
    "is_per_image",
    "kernel_distance",
    "mean_interval",
    "ms_ssim",
    "pattern",
    "psnr",
]
