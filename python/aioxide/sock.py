"""What `sock_*` and its neighbours refuse. The operations themselves are native."""

from __future__ import annotations

try:
    import ssl
except ImportError:  # a Python without OpenSSL
    ssl = None  # type: ignore[assignment]


def check_ssl_socket(sock: object) -> None:
    """Raise TypeError for an `ssl.SSLSocket`: it cannot be driven by readiness alone."""
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")
