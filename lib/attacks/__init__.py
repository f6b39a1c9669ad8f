"""Attacks on an edit: one module each, all (model, facts, settings) -> one row per fact."""
