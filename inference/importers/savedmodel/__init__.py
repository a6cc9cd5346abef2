"""SavedModels of TensorFlow: a process that has TensorFlow reads, flattens and scores one; this one never imports it."""
