"""Starts everything Trunkline needs on one machine: stores, sandbox, and the processes of the Procfile."""
