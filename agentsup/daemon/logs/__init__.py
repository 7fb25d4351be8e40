"""What the services print, on disk: the side that writes and the side that reads."""
