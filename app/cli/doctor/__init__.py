"""The doctor: what must hold before a number can be connected, and how to mend it where it does not."""
