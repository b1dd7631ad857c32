"""The HTML report of one scorecard: a single self-contained file.

May import everything that superres.evaluation may.
"""

from superres.evaluation.report.gallery import ExampleGallery

__all__ = ["ExampleGallery"]
