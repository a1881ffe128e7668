"""CDVAE (Xie et al. 2021, arXiv:2110.06197): docs/cdvae.md lists what follows the paper and what differs."""
