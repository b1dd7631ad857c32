"""Where pictures come from: public sets, own folders, the embedded sample.

Imports nothing else of training.
"""
