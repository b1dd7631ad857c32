"""Public picture sets: downloaded, verified against their checksums, unpacked.

May import sources and workers.
"""
