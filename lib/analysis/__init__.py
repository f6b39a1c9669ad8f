"""From per-fact rows to tables, and from tables to sentences."""
