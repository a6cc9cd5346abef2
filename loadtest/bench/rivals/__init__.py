"""What people serve such a model with today, each as good as a careful user would make it in an afternoon.

Each module is a server program: `python -m ringpull.loadtest.bench.rivals.NAME --rows N` prints `ready PORT`. All speak
gRPC with one method that takes `Request.to_bytes()` and returns the scores as float32. `echo` is no rival but the floor
under all of them.
"""

METHOD = "/bench.Rival/Score"
