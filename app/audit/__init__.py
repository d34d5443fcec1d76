"""The audit: compares every row with both providers, and finds resources that no row refers to."""
