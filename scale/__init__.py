"""Larger models and several machines: plan, paper profiles, cluster, GPU check (docs/SCALE.md)."""
