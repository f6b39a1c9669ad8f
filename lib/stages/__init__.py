"""The stages of the pipeline that are no notebooks, and checks before any of them."""
