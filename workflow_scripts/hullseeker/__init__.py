"""The library that the workflow's scripts share: one module per idea."""
