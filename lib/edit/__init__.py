"""Editing: train only the chosen matrices until the new answer is given; store what changed."""
