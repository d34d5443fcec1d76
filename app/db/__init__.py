"""PostgreSQL: engine and sessions, the rows, the queries."""

import app.db.audits  # every model is known wherever one is: migrations compare them all
import app.db.bulks  # noqa: F401  # an operation refers to its bulk by name: whoever knows one table must know both
