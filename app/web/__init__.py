"""What every HTTP process shares: server, request ids, problems, strict bodies, limits, readiness."""
