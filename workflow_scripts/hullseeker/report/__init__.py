"""What a person reads: rendered tables, figures, lists of refusals."""
