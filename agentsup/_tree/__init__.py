"""Supervisors: who owns which calls, and for how long."""
