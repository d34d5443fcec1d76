"""Prometheus metrics: rows counted in SQL when they are scraped, queues and counters read from Redis.

Nothing that is shown is kept in a process: every web process gives the same answer, for the whole installation.
"""
