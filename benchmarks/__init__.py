"""Benchmarks are programs: `python -m benchmarks.overhead`. Nothing here is imported by the product."""
