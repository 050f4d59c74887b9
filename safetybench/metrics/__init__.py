"""Metrics: figures of utility and similarity, pure functions of what judges saw."""
