"""The core library: pictures, degradations, models, metrics and evaluation."""
