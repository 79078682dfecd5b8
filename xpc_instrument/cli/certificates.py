"""`xpc-instrument certificates DIR NAME...`: a CA for a fleet, and a certificate of it for each member.

Rules:
- DIR holds the CA (`ca.pem`, `ca.key`) and a folder for each name with all that this member needs, and nothing else: `certificate.pem`,
  `key.pem`, `ca.pem`. The CA's key stays in DIR.
- Nothing is overwritten, but with --force the certificate and key of a name; the CA never, since all others would be worth nothing.
- Folders have mode 0700 and files 0600, before anything is in them.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import stat
from pathlib import Path
from typing import Any, Tuple

from ..core.model.errors import CertificatesError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_CA_DAYS = 3650
_MOST_DAYS = 3650
# Clocks of a fleet differ; a certificate holds from a little before it was made.
_EARLIER = datetime.timedelta(hours=1)


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "certificates",
        help="make the certificates for TLS in a fleet",
        description="Make a CA in DIR, if there is none, and for each NAME a folder DIR/NAME with what this member needs for TLS: its "
        "certificate, its private key, and the CA's certificate. Copy each folder to where its member runs; DIR/ca.key stays where it is, "
        "for whoever has it can make members. Needs the extra `tls`.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder of the CA; made if it does not exist")
    parser.add_argument("names", metavar="NAME", nargs="+", type=_name, help="a member: an application, a team's scripts")
    parser.add_argument("--days", metavar="N", type=_days, default=365, help="how long the certificates hold; default: 365")
    parser.add_argument("--force", action="store_true", help="replace the certificates and keys that these names have (never the CA)")
    parser.set_defaults(run=run)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text) or text in ("ca.pem", "ca.key"):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot name a member; expected 1 to 64 of the characters A-Z a-z 0-9 _ . - and no . or - at the start"
        )
    return text


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of days from 1 to {_MOST_DAYS}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Make them, and say what to do with them."""
    try:
        import cryptography.x509  # noqa: F401 - asked for here, where it can be answered
    except ImportError as error:
        raise CertificatesError(
            f"the package cryptography is needed ({error}): pip install cryptography, or xpc-instrument with its extra tls"
        ) from None
    folder = Path(os.path.abspath(options.folder))
    _make_folder(folder)
    existing = [folder / name for name in options.names if os.path.lexists(folder / name)]
    if existing and not options.force:
        raise CertificatesError(f"{existing[0]} exists already; choose another name, or replace what is in it with --force")
    authority = _authority(folder)
    for name in dict.fromkeys(options.names):
        _issue(folder / name, name, authority, options.days)
        print(f"{folder / name}: certificate.pem, key.pem, ca.pem")
    _explain(folder / options.names[0], folder / options.names[-1])
    return 0


def _explain(example: Path, other: Path) -> None:
    print(
        "\nCopy each folder to where its member runs, and keep ca.key here. In the config of an application:\n\n"
        "[manager]\n"
        f'tls-certificate = "{example}/certificate.pem"\n'
        f'tls-key = "{example}/key.pem"\n'
        f'tls-ca = "{example}/ca.pem"\n\n'
        "In a probe script, with a folder of its own, and on the command line:\n\n"
        f'xpc_instrument.connect(..., tls=xpc_instrument.TLS.from_folder("{other}"))\n'
        f"xpc-instrument ls APP --authkey-file FILE --tls-dir {other}"
    )


# files -------------------------------------------------------------------------------------------------------------------


def _make_folder(folder: Path) -> None:
    try:
        os.makedirs(folder.parent, exist_ok=True)
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass  # looked at below
    except OSError as error:
        raise CertificatesError(f"{folder}: cannot be made ({error.strerror})") from None
    status = os.stat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise CertificatesError(f"{folder}: is no folder; expected one, or a name that is free")
    if os.name == "posix" and status.st_uid not in (os.geteuid(), 0):
        # Who owns it can put a CA there whose key they hold.
        raise CertificatesError(f"{folder}: belongs to uid {status.st_uid}; expected a folder of this user's (uid {os.geteuid()})")
    if status.st_mode & 0o022:
        mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
        raise CertificatesError(f"{folder}: other users can write there ({mode}), and replace what is in it: chmod 700 {folder}")


def _write(path: Path, data: bytes, replace: bool = True) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            if replace:
                os.replace(temporary, path)
            else:
                os.link(temporary, path)
                os.unlink(temporary)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise CertificatesError(f"{path}: cannot be written ({error.strerror})") from None


# certificates ------------------------------------------------------------------------------------------------------------


def _authority(folder: Path) -> Tuple[Any, Any]:
    """The CA of a folder, its certificate and key; made if there is neither."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    paths = folder / "ca.pem", folder / "ca.key"
    found = [path for path in paths if os.path.lexists(path)]
    if not found:
        return _make_authority(*paths)
    if len(found) == 1:
        missing = paths[1 - paths.index(found[0])]
        raise CertificatesError(f"{missing}: no such file, beside {found[0].name}; expected both, or neither to make a CA")
    for path in paths:
        _check_own(path, secret=path == paths[1])
    try:
        certificate = x509.load_pem_x509_certificate(paths[0].read_bytes())
        key: Any = serialization.load_pem_private_key(paths[1].read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise CertificatesError(
            f"{folder}: the CA cannot be read ({error}); expected ca.pem and ca.key as this command makes them"
        ) from None
    if certificate.public_key() != key.public_key():
        raise CertificatesError(f"{paths[1]}: is not the key to {paths[0].name}; expected the two that belong together")
    return certificate, key


def _check_own(path: Path, *, secret: bool) -> None:
    """Refuse a file of a CA that others may know or change: all certificates would be worth as much."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise CertificatesError(f"{path}: cannot be read ({error.strerror})") from None
    if os.name != "posix":
        return
    if status.st_uid not in (os.geteuid(), 0):
        raise CertificatesError(f"{path}: belongs to uid {status.st_uid}; expected a file of this user's (uid {os.geteuid()})")
    if status.st_mode & (0o077 if secret else 0o022):
        mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
        what = "other users may have the key of the CA, and with it make members" if secret else "other users can replace it"
        raise CertificatesError(f"{path}: {what} ({mode}): chmod 600 {path}" + (", or make a new CA in another folder" if secret else ""))


def _make_authority(certificate_path: Path, key_path: Path) -> Tuple[Any, Any]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    # Its own number in the name: of two fleets of one user, the certificates of one must not look like the other's.
    name = _subject(f"xpc-instrument CA {os.urandom(4).hex()}")
    public = key.public_key()
    builder = (
        _builder(name, name, public, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    certificate = _signed(builder, key)
    _write(key_path, _private_pem(key), replace=False)
    _write(certificate_path, _public_pem(certificate), replace=False)
    print(f"{certificate_path.parent}: a new CA, ca.pem and ca.key")
    return certificate, key


def _issue(folder: Path, name: str, authority: Tuple[Any, Any], days: int) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    ca_certificate, ca_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    builder = (
        _builder(_subject(name), ca_certificate.subject, public, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        # A member dials and listens, as the case may be.
        .add_extension(x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH, x509.OID_CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    certificate = _signed(builder, ca_key)
    if _end(certificate) > _end(ca_certificate):
        raise CertificatesError(
            f"the CA holds until {_end(ca_certificate):%Y-%m-%d}, and a certificate of {days} days would outlive it: "
            "choose fewer --days, or make a new CA in another folder"
        )
    _make_folder(folder)
    _write(folder / "key.pem", _private_pem(key))
    _write(folder / "certificate.pem", _public_pem(certificate))
    _write(folder / "ca.pem", _public_pem(ca_certificate))


def _subject(name: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _builder(subject: Any, issuer: Any, public: Any, days: int) -> Any:
    from cryptography import x509

    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(**given: bool) -> Any:
    from cryptography import x509

    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})


def _signed(builder: Any, key: Any) -> Any:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _end(certificate: Any) -> datetime.datetime:
    # The time zone came with cryptography 42.
    end = getattr(certificate, "not_valid_after_utc", None)
    found: datetime.datetime = end if end is not None else certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)
    return found


def _public_pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(certificate.public_bytes(Encoding.PEM))


def _private_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
