"""Attacks on an edit, one module each: `attack(target, settings)` yields read-outs of answers."""
