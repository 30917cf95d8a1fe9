"""Small Debian packages that tests write themselves."""

from __future__ import annotations

import io
import tarfile

from indattn.data.tuxpaint import PACKAGE

STAMPS = "./usr/share/tuxpaint/stamps/"


def write_deb(path, files, compression="xz", name="data.tar"):
    """The Debian package of the stamps: an ar archive of a version, a control archive and the archive of files."""

    def tar(content, kind):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                data = data.encode() if isinstance(data, str) else data
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return file.getvalue()

    copyright_ = {f"./usr/share/doc/{PACKAGE}/copyright": "GPL-2\n"}
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tar({"./control": f"Package: {PACKAGE}\nVersion: 1\nArchitecture: all\n"}, "gz"),
        f"{name}.{compression}": tar({**copyright_, **files}, compression if compression != "zst" else "xz"),
    }
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for part, data in parts.items():
            file.write(
                f"{part:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
                + data
                + b"\n" * (len(data) % 2)
            )
    return path
