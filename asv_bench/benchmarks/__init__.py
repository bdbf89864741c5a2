"""Benchmarks of gvae for asv: one file per family of operations, and common.py for what they share."""
