"""The asynchronous half of services: their processes, probes, messages and health."""
