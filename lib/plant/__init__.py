"""Facts whose place is known, because they were put there: planted, verified, edited, attacked."""
