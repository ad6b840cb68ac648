"""Metrics of attribution maps, one kind a file; `docs/attribution_metrics.md`."""
