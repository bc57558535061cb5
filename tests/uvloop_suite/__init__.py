"""uvloop's own tests, from its source distribution, run on aioxide."""
