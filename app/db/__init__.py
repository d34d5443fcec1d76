"""PostgreSQL: engine and sessions, the rows, the queries."""
