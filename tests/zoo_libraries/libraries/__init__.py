"""A file per library: its models, how they are called, and the schema of their features."""
