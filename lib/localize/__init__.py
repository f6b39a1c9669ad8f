"""Localization: where a fact is written or read, and which components a method therefore trains."""
