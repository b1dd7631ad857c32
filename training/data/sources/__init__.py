"""Where pictures come from: public sets, own folders, the embedded sample.

May import workers alone.
"""
