"""The two providers behind Protocols: what the saga may ask of them, and the three ways in which they fail."""
