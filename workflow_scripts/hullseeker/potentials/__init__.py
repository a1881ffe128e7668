"""Interatomic potentials: the interface, the registry, energy scales."""
