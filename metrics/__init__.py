"""Figures of merit, each with its recipe, its source and what it needs.

    python -c "import metrics; print(*(f'{row.name}: {row.recipe}' for row in metrics.METRICS.values()), sep='\\n')"

`MetricSet` is the evaluation's door; `METRICS` is the table; the rest are pure functions of arrays.
"""

from metrics.niqe import niqe
from metrics.pictures import (
    MS_SSIM_MIN_SIDE,
    EdgeAgreement,
    bsds_tolerance_px,
    colour_distance,
    edge_f1,
    ms_ssim,
    psnr,
)
from metrics.sets import Interval, frechet_distance, hific_patches, kernel_distance, mean_interval
from metrics.table import FAST, METRICS, MetricSet, SetValue, Tools, choose_metrics

__all__ = [
    "FAST",
    "METRICS",
    "MS_SSIM_MIN_SIDE",
    "EdgeAgreement",
    "Interval",
    "MetricSet",
    "SetValue",
    "Tools",
    "bsds_tolerance_px",
    "choose_metrics",
    "colour_distance",
    "edge_f1",
    "frechet_distance",
    "hific_patches",
    "kernel_distance",
    "mean_interval",
    "ms_ssim",
    "niqe",
    "psnr",
]
