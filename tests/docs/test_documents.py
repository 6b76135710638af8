"""What the documents name exists: links, commands, options, targets, routes; and nothing tells where it was written."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.docs.documents import PAGES, ROOT, anchors_of, block, code_of, find_in_code, links_of, name
from workers import tmf
from workers.api.identity import ROLES_OF, TMF_ROLES_OF
from workers.api.routes.effects import sign_callback
from workers.cli import app

# Where packages come from is a matter of whoever installs them; where this was written is nobody's. So what may be
# named is listed, and nothing else: loopback, names made for examples, groups and labels that Kubernetes and its
# operators prescribe, Kafka's own scripts; folders of a container and of an installed system, the product's own routes,
# pointers into an order or a manifest.
_HOST = re.compile(
    r"(?:\w://(?:[^\s/@]*@)?|(?<![\w.@/-]))"
    r"(?P<host>localhost|\d+(?:\.\d+){3}|(?:[a-z0-9-]+\.)+(?:ai|app|cloud|co|com|de|dev|eu|info|io|net|org|sh))"
    r"(?![\w-]|\.\w)(?::(?P<port>\d+))?"
)
_HOSTS = re.compile(
    r"127\.0\.0\.1|0\.0\.0\.0|(\w+\.)*example\.com|kafka-[a-z-]+\.sh|keda\.sh|monitoring\.coreos\.com"
    r"|((app|kustomize\.config|networking|pod-security|topology)\.)?(kubernetes|k8s)\.io"
)
_PASSING = 32768  # from here on a port is one that a machine gave away at that moment
_PATH = re.compile(r"(?:^|(?<=[\s\"'`(=:,|<>]))/(?P<root>[A-Za-z][\w-]*)[\w/-]*", re.MULTILINE)
_FOLDERS = re.compile(r"/(build|dev|opt|run|usr|var/lib|var/cache)(/.*)?|/tmp")
_POINTERS = {"appointment", "contact", "deliveryAddress", "deliveryNote", "items", "spec"}
_SERVED = {"actuator", "api", "book", "docs", "healthz", "issuer", "metrics", "openapi", "readyz", "tmf-api", "ui"}
# The ends of marked blocks, <!-- /story -->.
_MARKS = {"archive", "callback", "measured", "restore", "settings", "story", "tally", "tour"}
_OUTWARDS = re.compile(r"(?:\.\./)+[\w./-]*")


def foreign_names(text: str, folder: Path) -> list[str]:
    """The hosts, absolute paths and ways out of the project that a document in `folder` has no business with."""
    known = _POINTERS | _SERVED | _MARKS | {part for _, path in ROLES_OF for part in path.split("/")}
    hosts = [
        found[0]
        for found in _HOST.finditer(text)
        if not _HOSTS.fullmatch(found["host"]) or int(found["port"] or 0) >= _PASSING
    ]
    paths = [
        found[0] for found in _PATH.finditer(text) if found["root"] not in known and not _FOLDERS.fullmatch(found[0])
    ]
    outwards = [found for found in _OUTWARDS.findall(text) if not (folder / found).resolve().is_relative_to(ROOT)]
    return [*hosts, *paths, *outwards]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if fragment:
            assert fragment in anchors_of(target), link


def test_every_command_exists_with_its_options() -> None:
    seen = 0
    for page, found in find_in_code(r"(?:^|[ (&|])recourse ((?:[a-z]|--)[^`#|)…]*)"):
        where = f"{name(page)}: {found[0].strip()}"
        words = found[1].partition("&&")[0].partition(">")[0].split()
        command: Any = typer.main.get_command(app)
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands or words[0].startswith("--"), where
            command = command.commands.get(words.pop(0), command)
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= options, where
        seen += 1
    assert seen > 10


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {found[1] for _, found in find_in_code(r"(?:^|[ &])make ([a-z][a-z0-9-]*)")}
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_named_is_one(page: Path) -> None:
    from workers.settings import Settings, variable_name

    known = {variable_name(field) for field in Settings.model_fields}
    named = set(re.findall(r"RECOURSE_[A-Z_]+", page.read_text(encoding="utf-8")))
    assert {variable.removesuffix("_FILE") if variable not in known else variable for variable in named} <= known


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_route_named_is_served(page: Path) -> None:
    served = {_shape(path) for _, path in ROLES_OF} | {_shape("/effects/{effectId}/outcome")}
    served |= {_shape(tmf.BASE + path) for _, path in TMF_ROLES_OF}
    for line in code_of(page):
        for path in re.findall(r"(?:^|[ $])(?:GET|POST|PUT|PATCH|DELETE) (?:/api/v1)?(/[a-z][\w/{}-]*)", line):
            if not path.startswith(("/book", "/faults", "/effects/{effectId}")):
                assert _shape(path) in served, path


def _shape(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path).rstrip("/")


def test_nothing_tells_where_it_was_written() -> None:
    files = [*PAGES, ROOT / "docker-compose.yml", *(file for file in ROOT.glob("deploy/**/*") if file.is_file())]
    found = {name(file): foreign_names(file.read_text(encoding="utf-8"), file.parent) for file in files}
    assert not {file: words for file, words in found.items() if words}


@pytest.mark.parametrize(
    "planted",
    [
        "pip install --index-url https://packages.somewhere.org/simple recourse",
        "index = packages.somewhere.org",
        "image: registry.somewhere.io/team/recourse:1",
        "image: registry.k8s.io/recourse:1",
        "FROM mirror.somewhere.com:5000/python",
        "postgresql://owner:pw@db.somewhere.net/orders",
        "see http://10.1.2.3:8080/ui",
        "curl http://localhost:8080/readyz",
        "listening on 127.0.0.1:41234",
        "cd /home/somebody/recourse",
        "logs lie in `/srv/build/logs`",
        "mount: /mnt/data",
        "the tree in /tmp/build-17",
        "[notes](../../../notes/plan.md)",
    ],
)
def test_a_name_from_elsewhere_is_found(planted: str) -> None:
    assert foreign_names(f"A line.\n{planted}\n", ROOT / "docs")


def test_the_limits_that_the_readme_admits_are_still_there() -> None:
    """Whoever lifts one takes its line out of the README."""
    limits = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Known limits")[2]
    routes = " ".join(path for _, path in ROLES_OF)
    assert ("Supplemental orders have no route yet" in limits) == ("supplemental-orders" not in routes)


def test_decisions_are_numbered_and_of_one_shape() -> None:
    pages = sorted(ROOT.glob("docs/adr/*.md"))
    for number, page in enumerate(pages, start=1):
        text = page.read_text(encoding="utf-8")
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number} · ")
        for part in ("Question", "Decision", "Because", "Instead of", "We would notice that it is wrong"):
            assert f"**{part}" in text, f"{page.name}: {part}"
    assert len(pages) >= 6


def test_the_example_of_a_callback_signs_as_the_product_does() -> None:
    heard: list[tuple[str, dict[str, str], bytes]] = []

    class System(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.path, {key.lower(): value for key, value in self.headers.items()}, raw))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), System) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        scope: dict[str, Any] = {}
        exec(block(ROOT / "docs/api.md", "callback"), scope)
        told = scope["report"](f"http://127.0.0.1:{server.server_port}", "s3cret", "e-1", {"state": "CONFIRMED"})
    ((path, headers, raw),) = heard
    assert (told, path) == (200, "/api/v1/effects/e-1/outcome")
    assert headers["x-recourse-signature"] == sign_callback("s3cret", headers["x-recourse-timestamp"], raw)
