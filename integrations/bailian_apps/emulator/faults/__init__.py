"""Faults by name: what each does to an answer, and which calls it hits."""
