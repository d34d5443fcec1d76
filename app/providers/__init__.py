"""The two providers behind Protocols: what the saga calls, and the three kinds of errors that a call raises."""
