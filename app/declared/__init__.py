"""Agents and their numbers as a file declares them: what differs from what stands, and making it so."""
