"""Measuring: episodes under a written protocol, plots, and the report of a run."""
