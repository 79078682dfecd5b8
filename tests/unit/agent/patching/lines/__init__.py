"""Probes on lines."""
