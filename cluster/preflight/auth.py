"""Whether a cluster asks those who speak to it for a token."""

from __future__ import annotations

import os

_ASK_FOR_S = 5.0


def asks_for_token(gcs_address: str) -> bool | None:
    """Speak to a cluster's control store without a token, as a stranger would.

    Args:
        gcs_address: Host and port of the control store.

    Returns:
        Whether it refused; None where it did not answer.
    """
    import grpc
    from ray.core.generated.gcs_service_pb2 import InternalKVKeysRequest
    from ray.core.generated.gcs_service_pb2_grpc import InternalKVGcsServiceStub

    with _channel(gcs_address) as channel:
        try:
            InternalKVGcsServiceStub(channel).InternalKVKeys(
                InternalKVKeysRequest(prefix=b"luthier-preflight"), timeout=_ASK_FOR_S
            )
        except grpc.RpcError as error:
            return (
                True if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED) else None
            )
    return False


def _channel(address: str):  # type: ignore[no-untyped-def]
    """A channel of our own: Ray's adds the token."""
    import grpc

    options = [("grpc.enable_http_proxy", 0)]
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(address, options)
    from ray._common.tls_utils import load_certs_from_env

    chain, key, authority = load_certs_from_env()
    credentials = grpc.ssl_channel_credentials(certificate_chain=chain, private_key=key, root_certificates=authority)
    return grpc.secure_channel(address, credentials, options)


def local_cluster_asks_for_token() -> bool:
    """Whether a cluster that this process starts will: Ray's default is yes."""
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
