"""The parts of `agentsup up`."""
