"""The study: where does robustness end, and why there? PLAN.md comes first."""
