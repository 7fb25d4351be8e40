"""Frozen values: what is asked for and what came of it. No behaviour beyond validation."""
