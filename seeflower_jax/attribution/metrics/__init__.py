"""Metrics of attribution maps, one kind per file; see `docs/attribution_metrics.md`."""
