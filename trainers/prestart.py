"""Processes that Ray starts before anybody needs them: its internal request for prestarted workers.

An actor takes over an idle process only if no task has run in it and its runtime environment is the same, letter for
letter (WorkerFitForLease in ray/src/ray/raylet/worker_pool.cc), and idle ones are ended after a second where all CPUs
are in use. Processes of this request stay for as long as it says.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

_ASK_FOR_S = 10.0


def prestart(node: Mapping[str, Any], runtime_env: str, num: int, keep_for_s: int) -> None:
    """Have processes started on a node, for actors to come; nobody waits for them.

    Where Ray refuses, a warning says so: the run does without.

    Args:
        node: One of ``ray.nodes()``.
        runtime_env: Of the actors, as Ray writes it.
        num: How many.
        keep_for_s: How long those stay that no actor takes.
    """
    import grpc

    try:
        _ask(node, runtime_env, num, keep_for_s)
    except (grpc.RpcError, OSError) as error:
        log.warning("no process is started ahead on %s: %s", node["NodeManagerAddress"], error)


def runtime_env_with(variables: Mapping[str, str]) -> str:
    """What Ray writes for an actor that this process, or one which it has started, gives environment variables."""
    import ray

    env = json.loads(ray.get_runtime_context().get_runtime_env_string())
    env["env_vars"] = {**env.get("env_vars", {}), **variables}
    return json.dumps(env, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _ask(node: Mapping[str, Any], runtime_env: str, num: int, keep_for_s: int) -> None:
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.common_pb2 import Language
    from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
    from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub
    from ray.core.generated.runtime_environment_pb2 import RuntimeEnvInfo

    request = PrestartWorkersRequest(
        language=Language.PYTHON,
        job_id=bytes.fromhex(ray.get_runtime_context().get_job_id()),
        runtime_env_info=RuntimeEnvInfo(serialized_runtime_env=runtime_env),
        keep_alive_duration_secs=keep_for_s,
        num_workers=num,
    )
    channel = init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")
    with channel:
        NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=_ASK_FOR_S)
