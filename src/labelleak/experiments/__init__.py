"""Experiments: many trials of many settings, written down as records as they finish."""
