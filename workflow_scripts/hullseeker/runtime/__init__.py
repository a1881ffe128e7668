"""Logs, provenance, secrets, HTTP requests, time limits and processes."""
