"""Tables of other makers: files, databases and stores of keys and vectors, read piece by piece.

Reading knows nothing of writing: a source (`source.py`) gives pieces of keys and rows, whoever takes them.
"""
