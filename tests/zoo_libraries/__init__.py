"""Models of public recommender libraries, exported as those build them and served from three shards: `make zoo`."""
