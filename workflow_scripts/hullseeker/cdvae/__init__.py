"""CDVAE (Xie et al. 2021, arXiv:2110.06197), written anew: see docs/cdvae.md for what follows the paper and what differs."""
