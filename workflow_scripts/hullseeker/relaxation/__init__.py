"""Structure relaxation: minimisers, batched engines, and convergence and failure criteria."""
