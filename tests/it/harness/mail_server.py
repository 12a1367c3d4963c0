"""A mail server for tests: aiosmtpd, and what each test wants to go wrong.

usage: mail_server.py DIRECTORY PORT [smtps]

Every mail that is taken becomes DIRECTORY/<number>.json. Files in DIRECTORY say how to behave: `delay` (seconds before the
answer to a message), `silent` (take the next message, remove the file, never answer). `cert.pem` and `key.pem` offer
STARTTLS. Users log in with the password `opensesame`. Recipients whose name begins with `nobody` are refused. Ends with its standard input.
"""

import asyncio
import email
import email.policy
import json
import os
import pathlib
import ssl
import sys
import threading

from aiosmtpd.smtp import SMTP, AuthResult

directory = pathlib.Path(sys.argv[1])
port = int(sys.argv[2])
smtps = "smtps" in sys.argv[3:]


class Box:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return f"550 5.1.1 <{address}> is not known here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.take(session, envelope)
        silent = directory / "silent"
        if silent.exists():
            silent.unlink()
            await asyncio.sleep(3600)
        delay = directory / "delay"
        if delay.exists():
            await asyncio.sleep(float(delay.read_text()))
        return "250 OK"

    def take(self, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)

        def body(kind):
            return message.get_body(preferencelist=(kind,)).get_content().replace("\r\n", "\n")

        taken = {
            "envelope_from": envelope.mail_from,
            "envelope_to": envelope.rcpt_tos,
            "from": message["From"],
            "to": message["To"],
            "subject": message["Subject"],
            "message_id": message["Message-ID"],
            "date": message["Date"],
            "auto_submitted": message["Auto-Submitted"],
            "type": message.get_content_type(),
            "text": body("plain"),
            "html": body("html"),
            "helo": session.host_name,
            "tls": smtps or session.ssl is not None,
            "user": session.auth_data.login.decode() if session.auth_data else None,
        }
        number = len(list(directory.glob("*.json")))
        new = directory / f"{number:04}.new"
        new.write_text(json.dumps(taken))
        new.rename(directory / f"{number:04}.json")


def authenticate(server, session, envelope, mechanism, data):
    # Not handled: the server is to answer 535 itself.
    return AuthResult(success=data.password == b"opensesame", handled=False, auth_data=data)


async def main():
    tls = None
    if (directory / "cert.pem").exists():
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(directory / "cert.pem", directory / "key.pem")

    def session():
        return SMTP(
            Box(),
            hostname="mail.example",
            tls_context=None if smtps else tls,
            authenticator=authenticate,
            auth_require_tls=not smtps,
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(session, "127.0.0.1", port, ssl=tls if smtps else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
asyncio.run(main())
