"""Carrier accounts and voice projects: their rows, credentials and checks."""
