"""Numbers that the checks on the real model expect, one module a session.

Each module has a function `found()`, which computes the numbers with `lib`, not with the solutions
of the exercises, so that a mistake in a solution shows. It may write small tables for the students
to `course/tables`.
"""
