"""What Trunkline talks about: statuses and their legal moves, phone numbers, errors. No database, no Flask."""
