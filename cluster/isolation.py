"""A local cluster that reaches for nothing outside this machine.

Three things would be asked of the network at the start, whatever the settings say (ray 2.60.0, torch 2.13.0):

- Ray finds this machine's address by the route to a public name server. Told that clusters are off, as on macOS, it
  takes the loopback address.
- Ray's API server asks the metadata service of three clouds which of them this is, also where usage statistics are off
  (``ray/_common/usage/usage_lib.py``). Without the dashboard that is all that this process is for, so it is not started.
- torch asks the name server what the address of the process group's first worker is called, for its log
  (``torch/csrc/distributed/c10d/socket.cpp``). The resolver is told to try no server; names in ``/etc/hosts`` are known.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from luthier.config import RunConfig
from luthier.paths import is_uri

_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_RESOLVER = "RES_OPTIONS"  # of glibc: resolv.conf(5)
_NO_SERVER = "attempts:0"


@contextmanager
def isolated(cfg: RunConfig, *, dashboard: bool) -> Iterator[None]:
    """For the length of a block, ``ray.init`` starts clusters that listen and talk on the loopback interface alone.

    Args:
        cfg: Where it names a place by a URI, names are looked up as ever.
        dashboard: Whether the cluster is to have its dashboard, whose process then asks for the cloud after all.
    """
    from ray._private import ray_constants, services

    names = (_CLUSTERS, _RESOLVER)
    variables = {name: os.environ.get(name) for name in names}
    constant, start_api_server = ray_constants.ENABLE_RAY_CLUSTER, services.start_api_server
    os.environ[_CLUSTERS] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    if not _needs_names(cfg):
        os.environ[_RESOLVER] = _NO_SERVER  # the processes of the cluster inherit it
    if not dashboard:
        services.start_api_server = _start_nothing
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER, services.start_api_server = constant, start_api_server
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _needs_names(cfg: RunConfig) -> bool:
    """Whether something that the run reads or writes lies on another machine."""
    return any(is_uri(place) for place in (cfg.storage_path, cfg.registry.uri))


def _start_nothing(*_: Any, **__: Any) -> tuple[None, None]:
    """What Ray takes for an API server that did not start, and goes on without."""
    return None, None
