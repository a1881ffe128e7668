"""Crystals from the Materials Project, from files and from prototypes, and the selection of rows."""
