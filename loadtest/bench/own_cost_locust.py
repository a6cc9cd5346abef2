"""Locust half of `ringpull.loadtest.bench.own_cost`: users of one process against the echo; prints CPU us a request.

Locust as a library, without its command line: gevent's patches must come before everything else here.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from grpc.experimental.gevent import init_gevent  # noqa: E402

init_gevent()

import sys  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402
from locust.env import Environment  # noqa: E402

from ringpull.inference.wire.codec import encode_request  # noqa: E402
from ringpull.loadtest.bench.own_cost import calls  # noqa: E402
from ringpull.loadtest.grpc_user import PredictUser, finish_requests  # noqa: E402
from ringpull.loadtest.locust_record import RunRecord  # noqa: E402
from ringpull.loadtest.messages import Messages  # noqa: E402


class EchoUser(PredictUser):
    """Talks to the echo."""


def main() -> None:
    target, users, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    made = calls()
    payloads = tuple(encode_request(call).SerializeToString() for call in made)
    environment = Environment(user_classes=[EchoUser], host=target)
    runner = environment.create_local_runner()
    finish_requests(environment, EchoUser.timeout_s)
    PredictUser.record = RunRecord(environment)
    PredictUser.begin(environment, Messages("echo", 1, payloads, made[0]), EchoUser.timeout_s)
    begin = time.process_time()
    runner.start(users, spawn_rate=users)
    gevent.sleep(seconds)
    runner.stop()
    print((time.process_time() - begin) / environment.stats.total.num_requests * 1e6)
    runner.quit()


if __name__ == "__main__":
    main()
