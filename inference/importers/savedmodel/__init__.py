"""SavedModels of TensorFlow: a process that has it reads, flattens and scores one; this one never imports it."""
