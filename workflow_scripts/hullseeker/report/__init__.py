"""Presentation of results: rendered tables, figures, summaries of refused and failed rows."""
