"""What a model answers: in one format, in all, and what else changed."""
