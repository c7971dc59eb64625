"""YAML that people write: whatever is wrong with it is told with file, line and the next step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


class YamlError(ValueError):
    """A file cannot be read as YAML; the message names file, line and the next step."""


def parsed(file: Path, content: bytes) -> tuple[Any, yaml.Node | None]:
    """What `content`, the bytes of `file`, says, and its nodes, which know their lines; None where it is
    empty.

    Raises:
        YamlError: it is not UTF-8 or no YAML, or a value in it cannot be, such as the date 2026-13-01.
    """
    try:
        loader = _Loader(content.decode("utf-8"))
        tree = loader.get_single_node()
        return (None if tree is None else loader.construct_document(tree)), tree
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise YamlError(f"{file}:{line}: not UTF-8 text. Save the file as UTF-8.") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YamlError(f"{file}:{line}: not valid YAML: {error.problem}. Correct that line.") from error
    except yaml.YAMLError as error:
        raise YamlError(f"{file}: not valid YAML: {error}. Correct it.") from error
    except RecursionError as error:
        raise YamlError(f"{file}: not valid YAML: nested too deeply. Correct it.") from error


def complaint(file: Path, tree: yaml.Node | None, where: tuple[int | str, ...], message: str) -> str:
    """`file:line: field: message`, of a field of the file that is wrong.

    Args:
        tree: nodes of the file, as `parsed` gives them.
        where: the way to the field, as pydantic's errors have it.
        message: pydantic's, or another.
    """
    field = ".".join(map(str, where)) or "the file"
    return f"{file}:{_line_of(tree, where)}: {field}: {message.removeprefix('Value error, ')}"


def _line_of(tree: yaml.Node | None, where: tuple[int | str, ...]) -> int:
    """Line of the deepest node on the way to a field, the first being 1."""
    line = 1
    node = tree
    for part in where:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
            continue
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if found:
                line = found[0][0].start_mark.line + 1
                node = found[0][1]
                continue
        break
    return line


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As ever, but the same field twice is an error; PyYAML takes the last and says nothing."""
        known: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in known:
                    problem = f"{key.value!s:.40} is there twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                known.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As ever, but a value that cannot be is an error of YAML, with its line. Of a wrong date, PyYAML
        tells by a bare ValueError; of others by a KeyError, an AttributeError and more.
        """
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{node.value!s:.40} cannot be read as {kind} ({error})"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error
