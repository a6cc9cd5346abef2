"""What runs in the process that has TensorFlow: it imports nothing else of ringpull, so its interpreter need not have it.

`ringpull.inference.importers.savedmodel.process` starts it and speaks with it.
"""
