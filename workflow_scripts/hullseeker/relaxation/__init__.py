"""Relaxation to a minimum: the minimiser, the engines, and how an end is judged."""
