"""Crystals from the Materials Project and from files, prototypes, and which rows are used."""
