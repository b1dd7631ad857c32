"""A page about one scorecard that a person can look at: one file, nothing from elsewhere.

May import everything that superres.evaluation may.
"""

from superres.evaluation.report.gallery import ExampleGallery

__all__ = ["ExampleGallery"]
