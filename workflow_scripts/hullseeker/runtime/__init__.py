"""Logs, provenance, secrets, requests over the network, time limits and processes."""
