"""Reads the models for the tests: elements by id, flows, FEEL; it must never resolve an entity or touch the net."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxml import etree

from workers.models import model_files

NS = {
    "bpmn": "http://www.omg.org/spec/BPMN/20100524/MODEL",
    "bpmndi": "http://www.omg.org/spec/BPMN/20100524/DI",
    "modeler": "http://camunda.org/schema/modeler/1.0",
    "zeebe": "http://camunda.org/schema/zeebe/1.0",
}
NODES = [
    "startEvent",
    "endEvent",
    "intermediateCatchEvent",
    "boundaryEvent",
    "exclusiveGateway",
    "parallelGateway",
    "eventBasedGateway",
    "serviceTask",
    "userTask",
    "callActivity",
    "subProcess",
]

_WORDS = {"if", "then", "else", "null", "true", "false", "and", "or", "not"}
_CALLS = re.compile(r"date and time\(|[a-z]\w*\(")

Element = etree._Element


def attr(element: Element, name: str) -> str:
    """An attribute that must be there."""
    value = element.get(name)
    assert value is not None, f"{element.tag} lacks {name}"
    return value


@dataclass(frozen=True)
class Model:
    """One .bpmn file; `name` is the file's, elements are lxml's."""

    name: str
    root: Element

    def find(self, path: str, element: Element | None = None) -> list[Element]:
        """The elements at this path of prefixed tags, below `element` or anywhere."""
        found = (self.root if element is None else element).xpath(path, namespaces=NS)
        assert isinstance(found, list)
        return [row for row in found if isinstance(row, etree._Element)]

    @property
    def process(self) -> Element:
        (process,) = self.find("//bpmn:process")
        return process

    @property
    def nodes(self) -> dict[str, Element]:
        """Everything a token passes, by id."""
        return {attr(node, "id"): node for tag in NODES for node in self.find(f"//bpmn:{tag}")}

    @property
    def flows(self) -> list[Element]:
        return self.find("//bpmn:sequenceFlow")

    def leaving(self, node: str) -> list[Element]:
        return [flow for flow in self.flows if attr(flow, "sourceRef") == node]

    def entering(self, node: str) -> list[Element]:
        return [flow for flow in self.flows if attr(flow, "targetRef") == node]

    @property
    def jobs(self) -> dict[str, str]:
        """Element id of every service task → its job type, FEEL with its equals sign."""
        return {
            attr(task, "id"): attr(self.find("bpmn:extensionElements/zeebe:taskDefinition", task)[0], "type")
            for task in self.find("//bpmn:serviceTask")
        }

    @property
    def calls(self) -> dict[str, Element]:
        return {
            attr(node, "id"): self.find("bpmn:extensionElements/zeebe:calledElement", node)[0]
            for node in self.find("//bpmn:callActivity")
        }

    @property
    def subscriptions(self) -> dict[str, str]:
        """Message name → FEEL of its correlation key."""
        return {
            attr(message, "name"): attr(
                self.find("bpmn:extensionElements/zeebe:subscription", message)[0], "correlationKey"
            )
            for message in self.find("//bpmn:message")
        }

    def mapped(self, direction: str, node: Element | None = None) -> set[str]:
        """Names that input or output mappings write, at one node or in the whole model."""
        path = f"bpmn:extensionElements/zeebe:ioMapping/zeebe:{direction}"
        found = self.find(path, node) if node is not None else self.find(f"//{path}")
        return {attr(mapping, "target") for mapping in found}

    def expressions(self) -> Iterator[str]:
        """Every FEEL expression, without its equals sign."""
        for element in self.root.iter():
            texts = [element.text or "", *map(str, element.attrib.values())]
            yield from (text.strip()[1:] for text in texts if text.strip().startswith("="))


def names_in(feel: str) -> set[str]:
    """The variables that an expression reads: `task.release` reads `task`."""
    bare = _CALLS.sub("(", re.sub(r'"[^"]*"', "", feel))
    return {name.split(".")[0] for name in re.findall(r"[A-Za-z_][\w.]*", bare)} - _WORDS


def has_definition(model: Model, node: Element, kind: str) -> bool:
    return bool(model.find(f"bpmn:{kind}EventDefinition", node))


def read_models() -> dict[str, Model]:
    """The models by file name without its ending."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
    models = {}
    for path in model_files():
        if path.suffix == ".bpmn":
            tree = etree.parse(path, parser)
            assert tree.docinfo.internalDTD is None, f"{path.name} declares a document type"
            models[path.stem] = Model(path.stem, tree.getroot())
    return models


def read_forms() -> dict[str, dict[str, Any]]:
    """The forms by file name without its ending."""
    return {path.stem: _read_form(path) for path in model_files() if path.suffix == ".form"}


def _read_form(path: Path) -> dict[str, Any]:
    form: dict[str, Any] = json.loads(path.read_text())
    return form
