"""What is decided before a Ray head starts: where it listens, whom its certificate names, what HAProxy answers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from cryptography import x509

from tessera.config import parse_cluster
from tessera.local.ray_head import RayHead, _write_haproxy_wrapper

HEAD = '[[nodes]]\nname = "pc2"\n'
SECOND = '[[nodes]]\nname = "pc1"\n'


def environment(tmp_path: Path, text: str) -> dict[str, str]:
    (tmp_path / "ray").mkdir()
    return RayHead(tmp_path, parse_cluster(text), {}).environment()


def test_one_node_stays_on_loopback_with_certificates(tmp_path: Path) -> None:
    found = environment(tmp_path, HEAD)

    assert found["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert found["RAY_USE_TLS"] == "1"


def test_two_nodes_with_addresses_have_one_certificate_for_all_of_them(tmp_path: Path) -> None:
    found = environment(tmp_path, f'{HEAD}address = "10.1.2.1"\n{SECOND}address = "10.1.2.2"\n')

    certificate = x509.load_pem_x509_certificate(Path(found["RAY_TLS_SERVER_CERT"]).read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name) for name in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "10.1.2.1", "10.1.2.2"}
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in found


def test_a_node_without_an_address_leaves_the_choice_to_ray_and_goes_without_certificates(tmp_path: Path) -> None:
    found = environment(tmp_path, f'{HEAD}address = "10.1.2.1"\n{SECOND}')

    assert "RAY_USE_TLS" not in found


def test_what_haproxy_says_by_itself_is_a_503_that_may_be_tried_again(tmp_path: Path) -> None:
    written = tmp_path / "haproxy.cfg"
    written.write_text(
        "    errorfile 502 /tmp/500.http\n"
        "    bind *:9101\n"
        "    http-request return status 404 content-type text/plain lf-string \"Path '%[path]' not found.\"\n"
    )
    _write_haproxy_wrapper(tmp_path, "/bin/true")

    ports = {"RAY_SERVE_HAPROXY_METRICS_PORT": "9101", "RAY_SERVE_HAPROXY_STATS_PORT": "8404"}
    subprocess.run([tmp_path / "haproxy-on-loopback", "-f", written], env={**os.environ, **ports}, check=True)

    error, bind, fallback = written.read_text().splitlines()
    assert error == f"    errorfile 502 {tmp_path}/unavailable.http"
    assert bind == "    bind 127.0.0.1:9101"
    assert fallback.startswith(
        "    http-request return status 503 content-type application/problem+json hdr Retry-After 2"
    )
    answer = (tmp_path / "unavailable.http").read_bytes()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["code"] == "unavailable"
