"""What is decided before a Ray head starts: where it listens, whom its certificate names."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from tessera.config import parse_cluster
from tessera.local.ray_head import RayHead

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
