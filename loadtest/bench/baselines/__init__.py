"""Baselines, what people serve such a model with today, each as good as a careful user would make it in an afternoon.

Each module is a server program: `python -m ringpull.loadtest.bench.baselines.NAME --rows N` prints `ready PORT`. All
speak gRPC. Those with a protocol of their own, Ray Serve and Triton, are asked by it; the others have one method that
takes `Request.to_bytes()` and returns the scores as float32.
"""

METHOD = "/bench.Baseline/Score"
