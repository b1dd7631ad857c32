"""Sources of pictures: public sets, users' own folders, the embedded sample.

May import workers alone.
"""
