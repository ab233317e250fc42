"""Certificates: CAs, what they issue, and a Secret's files as the kubelet mounts them."""

import datetime
import os
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


class Identity:
    """A certificate and its key, as PEM."""

    def __init__(self, certificate, key):
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM)
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        self.key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        self.expires = certificate.not_valid_after_utc.timestamp()


class Authority:
    """A CA. Its certificates are for servers and clients, like those of Istio's CA; with `is_old` all keys are RSA."""

    def __init__(self, name, is_old=False):
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.new_key = (lambda: rsa.generate_private_key(65537, 2048)) if is_old else (lambda: ec.generate_private_key(ec.SECP256R1()))
        self.key = self.new_key()
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = sealed(self.name, self.key.public_key(), self.name, self.key, 2 * DAY, [
            (x509.BasicConstraints(ca=True, path_length=None), True), (usage, True)])
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names, lasts=DAY):
        """Issues a certificate with SPIFFE ids and DNS names; with a negative `lasts` it has expired."""
        key = self.new_key()
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        extensions = [(x509.BasicConstraints(ca=False, path_length=None), True), (x509.ExtendedKeyUsage(usages), False)]
        if names:
            # Critical, since the subject is empty.
            extensions.append((x509.SubjectAlternativeName([general(name) for name in names]), True))
        return Identity(sealed(x509.Name([]), key.public_key(), self.name, self.key, lasts, extensions), key)


def general(name):
    return x509.UniformResourceIdentifier(name) if "://" in name else x509.DNSName(name)


def sealed(subject, key, issuer, issuer_key, lasts, extensions):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), now - 2 * DAY, now + lasts)
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    return builder.sign(issuer_key, hashes.SHA256())


class Secret:
    """A directory that the kubelet has mounted: all files change at once, by one symlink."""

    def __init__(self, directory, **files):
        self.directory, self.version = directory, 0
        directory.mkdir()
        self.put(**files)

    def put(self, **files):
        """Replaces all files. `tls_crt` is the file `tls.crt`."""
        self.version += 1
        data = self.directory / f"..{self.version}"
        data.mkdir()
        for name, content in files.items():
            (data / name.replace("_", ".")).write_bytes(content)
        os.symlink(data.name, self.directory / "..new")
        os.replace(self.directory / "..new", self.directory / "..data")
        for name in files:
            link = self.directory / name.replace("_", ".")
            if not link.is_symlink():
                os.symlink(f"..data/{link.name}", link)

    def path(self, name):
        return self.directory / name


def identity_files(identity, *authorities):
    """The files of a Secret: the certificate, its key, and the CAs of the other side."""
    return {"tls_crt": identity.certificate, "tls_key": identity.key,
            "ca_crt": b"".join(authority.certificate for authority in authorities)}


def context(secret, *, alpn=("h2",), version=None, ciphers=None, identity=True):
    """The settings of a client in Python that trusts the `ca.crt` of a Secret, and presents its certificate."""
    settings = ssl.create_default_context(cafile=secret.path("ca.crt"))
    if version:
        # OpenSSL offers TLS 1.1 only below security level 1.
        settings.set_ciphers(ciphers or "DEFAULT:@SECLEVEL=0")
        settings.minimum_version = settings.maximum_version = version
    if alpn:
        settings.set_alpn_protocols(list(alpn))
    if identity:
        settings.load_cert_chain(secret.path("tls.crt"), secret.path("tls.key"))
    return settings
