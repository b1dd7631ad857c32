"""A page about one scorecard that a person can look at: one file, nothing from elsewhere."""

from superres.evaluation.report.gallery import Gallery

__all__ = ["Gallery"]
