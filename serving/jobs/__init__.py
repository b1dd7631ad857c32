"""Jobs: pictures handed over now, worked on beneath what clients wait for, fetched later.

`jobs` is what the routes and the composition root use; `house` puts the rest together.
"""
