"""Benchmarks: what a row of published data asks, and by which rule scores become figures."""
