"""Typical mistakes in the exercises of the course, one module a session.

Each function is named after the hint that it must get; what follows `__` only keeps names apart.
A module has `MUTANTS`, {exercise: its mistakes}; `real(worked)`, the mistakes that the check on the
real model must recognize, with what it is given; `named(found)`, the numbers that the notes name.
"""
