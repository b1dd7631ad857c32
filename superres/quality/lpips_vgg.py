"""LPIPS on VGG16's features, which the authors recommend as a loss rather than as a metric."""

from superres.quality.lpips import load_lpips
from superres.quality.metric import QualityMetric, weights_needed

METRIC = QualityMetric(
    name="lpips_vgg", load=lambda weights: load_lpips(weights_needed("LPIPS", weights), "vgg")
)
