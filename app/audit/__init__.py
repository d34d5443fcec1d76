"""The audit: every row compared with both providers, and resources that no row knows."""
