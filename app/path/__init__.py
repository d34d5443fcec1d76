"""The path of a call as data: what we want, what both providers have, and whether a call would get through. Pure."""
