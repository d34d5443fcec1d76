"""Bulks, which provision many numbers by one request: items, files, and the dispatcher that starts items."""
