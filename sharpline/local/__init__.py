"""The local stack: every service of the loop on one machine."""
