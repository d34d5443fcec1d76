"""What Trunkline exists for: the saga that connects a number, and everything that keeps it going."""
