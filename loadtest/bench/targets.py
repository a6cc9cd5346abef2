"""Targets of the benches: one bound for each key of the last line that has one."""

from __future__ import annotations

from dataclasses import dataclass

ROW_FACTOR = 1.05
KEY_BYTES = 9


def limit(row_bytes: int) -> float:
    """Return the bound of `resident_vs_raw`: bytes of memory per byte of rows."""
    return ROW_FACTOR + KEY_BYTES / row_bytes


@dataclass(frozen=True, slots=True)
class Target:
    """One key of the last line, what it says, and what it should reach."""

    key: str
    what: str
    against: str
    minimum: float | None = None
    maximum: float | None = None
    aim: float | None = None

    @property
    def reach(self) -> str:
        """The bound in words."""
        if self.minimum is not None:
            bound = f">= {self.minimum:g}"
        else:
            bound = "stated" if self.maximum is None else f"<= {self.maximum:.4g}"
        return bound if self.aim is None else f"{bound}, aim {self.aim:g}"

    def reached(self, value: float) -> bool:
        """Say whether a figure is within the bound; one that is only stated always is."""
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)


TARGETS = (
    Target("kernel_vs_torch_d16", "shard kernel, dim 16", "torch embedding_bag given row numbers", minimum=0.7, aim=1),
    Target("kernel_vs_torch_d64", "shard kernel, dim 64", "the same", minimum=0.8, aim=1),
    Target("kernel_vs_torch_d128", "shard kernel, dim 128", "the same", minimum=0.8, aim=1),
    Target("kernel_vs_torch_with_map_d64", "shard kernel, dim 64", "torch + key -> row", minimum=2),
    Target("int8_vs_float32_d128", "int8 rows, dim 128", "our float32 rows", minimum=1.3),
    Target("bf16_vs_float32_d128", "bfloat16 rows, dim 128", "our float32 rows", minimum=1.3),
    Target("topk_vs_numpy", "top 10 of 1 M x 64 float32, one query", "numpy matmul + argpartition", minimum=1.0),
    Target("topk_vs_numpy_q16", "the same, 16 queries at once", "the same"),
    Target("topk_vs_numpy_int8", "top 10 of 1 M x 64 int8, one query", "numpy on float32 rows it holds", minimum=2),
    Target("topk_e2e_ms", "top 10 of 471,880 items over 2 shards, ms", ""),
    Target("topk_pull_p99_beside_scans", "p99 of a pull of 100 keys beside scans", "the same alone"),
    Target("shard_vs_redis", "one shard over TCP, pooled rows/s", "Redis MGET + numpy", minimum=25),
    Target("route_ns_per_key", "routing for 4 shards, ns per key", ""),
    Target("merge_ns_per_partial", "merge, ns per partial of dim 64", ""),
    Target("dense_bf16_vs_float32_128", "dense program in bfloat16, 128 rows, CPU time", "in float32"),
    Target("dense_bf16_vs_float32_1024", "the same, 1,024 rows", "in float32", minimum=1.5),
    Target("dense_compiled_vs_eager_128", "dense program as a script, 128 rows", "operator by operator", minimum=1.0),
    Target("e2e_vs_inprocess", "DLRM over gRPC, samples/s", "the model in process, no server", aim=0.7),
    Target("e2e_vs_grpc_torch", "the same", "plain grpc.aio around it", minimum=0.95, aim=1.05),
    Target("e2e_remote_vs_grpc_torch", "the same, local reads off", "plain grpc.aio around it", minimum=0.8, aim=0.9),
    Target("e2e_vs_triton", "DLRM over gRPC, --heads auto", "Triton, as many instances", minimum=0.9, aim=1),
    Target("e2e_one_head_vs_triton", "the same, one head", "Triton, 2 instances"),
    Target("e2e_bf16_vs_grpc_torch", "one head in bfloat16", "plain grpc.aio, float32", minimum=1.15, aim=1.3),
    Target("e2e_bf16_vs_triton", "--heads auto in bfloat16", "Triton, float32", minimum=1.05, aim=1.2),
    Target("e2e_one_head_bf16_vs_triton", "one head in bfloat16", "Triton, float32"),
    Target("e2e_vs_redis_torch", "DLRM over gRPC, one head", "Redis + torch", minimum=10),
    Target("e2e_vs_ray_serve", "the same", "Ray Serve gRPC", minimum=2),
    Target("cpu_vs_grpc_torch", "CPU per sample of all servers", "plain grpc.aio around it", maximum=1.2, aim=1.05),
    Target("cpu_vs_triton", "the same", "Triton, 2 instances"),
    Target("cpu_us_per_sample", "CPU us per sample, head + shards", ""),
    Target("p99_vs_inprocess", "p99 at half the top rate", "one request in process", maximum=10, aim=6),
    Target("p99_vs_triton", "p99 at half the slower one's top, --heads auto", "Triton", maximum=1.3, aim=1),
    Target("p99_vs_triton_at_0_25", "the same at a quarter", "Triton"),
    Target("p99_vs_triton_at_0_75", "the same at three quarters", "Triton"),
    Target("p99_vs_triton_at_equal_use", "the same where both take as much of the cores", "Triton"),
    Target("queue_p99_vs_triton", "p99 of a queue of our CPU a request, same arrivals", "one of Triton's CPU"),
    Target("din_bytes_vs_unpooled", "DIN with masked means, bytes between head and shards", "unpooled", maximum=0.5),
    Target("din_rate_vs_unpooled", "the same, requests/s", "unpooled"),
    Target("goodput_at_3x", "answers in time/s at 3 x the top rate", "the top rate", minimum=0.9),
    Target("goodput_at_3x_vs_bare", "the same", "a bare server that refuses unread"),
    Target("settled_p99_ms_at_3x", "p99 of what is accepted there, ms", ""),
    Target("metrics_rate_small", "requests of 1 candidate/s with metrics", "without", minimum=0.97),
    Target("metrics_rate_whole", "the same, of 128 candidates", "without", minimum=0.97),
    Target("tokens_rate_small", "requests of 1 candidate/s with a token", "without", minimum=0.9),
    Target("tokens_rate_whole", "the same, of 128 candidates", "without", minimum=0.95),
    Target("quotas_rate_small", "requests of 1 candidate/s with quotas", "without tokens", minimum=0.9),
    Target("quotas_rate_whole", "the same, of 128 candidates", "without tokens", minimum=0.95),
    Target("oip_vs_own_grpc", "DLRM over the Open Inference Protocol, requests/s", "our own gRPC", minimum=0.9),
    Target("tfs_vs_own_grpc", "the same, TensorFlow Serving's gRPC", "our own gRPC", minimum=0.9),
    Target("oip_http_binary_vs_own_grpc", "the same, Open Inference over HTTP, binary", "our own gRPC"),
    Target("rest_vs_own_grpc", "the same, TensorFlow Serving's REST", "our own gRPC"),
    Target("lookup_vs_redis", "rows by key of 64 floats, keys per CPU s", "Redis MGET or pipeline", minimum=10),
    Target("lookup_bytes_vs_redis", "the same, rows of 400 bytes", "Redis MGET or pipeline", minimum=2),
    Target("small_vs_echo", "requests of 1 candidate/s", "bare grpc.aio echo", minimum=0.6, aim=0.7),
    Target("us_per_feature_1", "CPU us per feature of a lone request, 1 candidate", "", maximum=6, aim=3),
    Target("us_per_feature_128", "the same, 128 candidates", "", maximum=20, aim=12),
    Target("gpu_dense_vs_copy_8192", "dense part on a GPU, 8,192 rows", "copying their bytes", maximum=1.3),
    Target("onnx_vs_inprocess", "ONNX DLRM served, requests/s", "onnxruntime in process, one thread"),
    Target("push_visible_p50_ms", "push of 128 until another process's prediction shows it, p50, ms", "", maximum=10),
    Target("push_visible_p99_ms", "the same, p99", "", maximum=100),
    Target("push_cpu_us_per_row_1024", "CPU us a row of pushes of 1,024 x 64, head + shard", "", maximum=0.4),
    Target("push_vs_redis", "CPU a row of Redis MSET, synced every second", "the same pushes", minimum=3),
    Target("lookup_newer_0", "look-ups in 3 M rows that take pushes, none pushed", "base only", maximum=1.03),
    Target("lookup_newer_100k", "the same, 100 k newer rows, none hit", "base only", maximum=1.1),
    Target("lookup_newer_1m", "the same, 1 M newer rows", "base only", maximum=1.3, aim=1.2),
    Target("predict_p99_while_pushing", "p99 of predictions while 20 k rows/s are pushed", "no pushes", maximum=1.25),
    Target("replay_s_per_gib", "restart with 1 GiB of log, s more than", "without", maximum=2),
    Target("delta_bytes_vs_rows", "bytes of a delta's tables", "its rows", maximum=1.05),
    Target("delta_publish_vs_full", "delta of 3 %, told the ids, export to live, s", "in full", maximum=0.1),
    Target("cpu_per_sample_8_vs_1_shards", "CPU per sample, 8 shards", "1 shard"),
    Target("resident_vs_raw", "memory of a table's shards", "raw bytes of its rows", maximum=limit(4 * 64)),
    Target("load_vs_read", "version on disk to ready", "reading the same files"),
    Target("p99_during_vs_before", "p99 while shards, copies, versions change", "calm before", maximum=2, aim=1.5),
)


def reach_of(key: str) -> str:
    """Return the bound of a key in words; empty when it has none."""
    return next((target.reach for target in TARGETS if target.key == key), "")
