"""YAML that people write: whatever is wrong with it is told with file, line and the next step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


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


class _Loader(yaml.SafeLoader):
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
