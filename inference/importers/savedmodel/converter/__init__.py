"""What runs in the process that has TensorFlow: it imports nothing else of ringpull, which need not be there.

`ringpull.inference.importers.savedmodel.process` starts it and speaks with it.
"""
