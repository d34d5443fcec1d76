"""What runs on a developer's machine alone: the sandbox, and the local stack around it."""
