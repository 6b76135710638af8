"""A system behind Recourse, whole and small: it reserves at once, and ships after a while and calls back.

    python warehouse.py PORT BOOK API SECRET

BOOK is its database (SQLite), API the address of Recourse's API, SECRET what `RECOURSE_SYSTEMS` says for this system.
"""

import hashlib
import hmac
import json
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

AT_ONCE = {"reserve-inventory", "release-inventory"}
LATER = {"ship-device"}


class Book:
    """What was asked and what became of it, by effect id. It is written before anybody is answered."""

    def __init__(self, path):
        self.path = path
        with self.open() as book:
            columns = "id text primary key, task_type text, answer text, told int"
            book.execute(f"create table if not exists effect ({columns})")

    def open(self):
        return sqlite3.connect(self.path, timeout=10)

    def do_once(self, effect_id, task_type, answer):
        """The answer of the first time, however often the same effect is asked for."""
        with self.open() as book:
            book.execute("insert or ignore into effect values (?, ?, ?, 0)", (effect_id, task_type, json.dumps(answer)))
        return self.find(effect_id)

    def find(self, effect_id):
        with self.open() as book:
            row = book.execute("select answer from effect where id = ?", (effect_id,)).fetchone()
        return row and json.loads(row[0])

    def promised(self):
        """What was accepted and is not done yet."""
        with self.open() as book:
            rows = book.execute("select id from effect where task_type = 'ship-device' and told = 0")
            return [effect_id for (effect_id,) in rows]

    def finish(self, effect_id, answer):
        with self.open() as book:
            book.execute("update effect set answer = ? where id = ?", (json.dumps(answer), effect_id))

    def told(self, effect_id):
        with self.open() as book:
            book.execute("update effect set told = 1 where id = ?", (effect_id,))


def make_handler(book):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self):
            effect_id = self.path.rpartition("/")[2]
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            task_type = asked["taskType"]
            if task_type in AT_ONCE:
                answer = {"state": "CONFIRMED", "externalReference": f"W-{effect_id[:8]}", "output": {}}
            elif task_type in LATER:
                answer = {"state": "ACCEPTED"}
            else:
                answer = {"state": "NO_EFFECT", "reason": f"the warehouse does not {task_type}"}
            answer = book.do_once(effect_id, task_type, answer)
            self.answer({"CONFIRMED": 200, "ACCEPTED": 202, "NO_EFFECT": 422}[answer["state"]], answer)

        def do_GET(self):
            known = book.find(self.path.rpartition("/")[2])
            self.answer(200 if known else 404, known or {})

        def answer(self, status, body):
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    return Handler


def ship(book, api, secret):
    """Keep every promise, and say so until it was heard; a restart goes on where it was."""
    while True:
        for effect_id in book.promised():
            outcome = {"state": "CONFIRMED", "externalReference": f"DLV-{effect_id[:8]}"}
            book.finish(effect_id, outcome)
            if call_back(api, secret, effect_id, outcome) == 200:
                book.told(effect_id)
        time.sleep(1)


def call_back(api, secret, effect_id, outcome):
    body = json.dumps(outcome).encode()
    moment = str(int(time.time()))
    signature = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-Recourse-Timestamp": moment,
        "X-Recourse-Signature": f"sha256={signature}",
    }
    request = urllib.request.Request(f"{api}/api/v1/effects/{effect_id}/outcome", body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return None


if __name__ == "__main__":
    port, path, api, secret = sys.argv[1:]
    book = Book(path)
    threading.Thread(target=ship, args=(book, api, secret), daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(port)), make_handler(book)).serve_forever()
