"""The chaos soak: a throw-away stack under load, faults and kills, then healed and compared with the providers."""
