"""Many numbers in one request: items, files, and the dispatcher that opens their operations."""
