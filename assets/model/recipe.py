"""Recipes: how a model is trained, as a YAML file with every field checked."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from resources.yaml_file import YamlError, parsed

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(ValueError):
    """A recipe cannot be used; the message names the file, the field and the next step."""


def _number(default: Any, least: float, most: float = math.inf) -> Any:
    return field(default=default, metadata={"least": least, "most": most})


def _one_of(*names: str) -> Any:
    return field(default=names[0], metadata={"names": names})


@dataclass(frozen=True)
class Recipe:
    """The defaults are the brief's recipe; recipe files say what differs, and why."""

    task: str = _one_of("behavior")  # what is learnt: one of TASKS in assets/model/tasks.py
    encoder: str = "default"  # all-MiniLM-L6-v2: six layers train on a CPU in a night, BERT-base does not
    max_length: int = _number(128, 8, 8192)  # tokens; longer texts are cut. Few products have more words
    batch_size: int = _number(16, 1, 65536)  # texts a step; the smaller of the two of BERT's own recipe
    epochs: int = _number(5, 1, 1000)  # BERT's own is 2-4; behaviour is noisy and the rate low, so one more
    learning_rate: float = _number(2e-5, 0, 1)  # BERT's own middle value; at 1e-4 the pre-training is lost
    warmup: float = _number(
        0.1, 0, 1
    )  # share of the steps over which the rate rises from 0 to its full value
    weight_decay: float = _number(0.01, 0, 1)  # BERT's own; not on biases and layer norms
    clip: float = _number(1.0, 0)  # largest gradient norm; keeps one odd batch from undoing many
    class_weights: str = _one_of("none", "balanced")  # balanced: a rare label counts as much as a common one
    contrast: float = _number(0, 0)  # weight of the loss that draws together what shoppers bring together
    item_vectors: str = _one_of("native", "int8")  # int8 encodes faster on a CPU; needs nightshelf[int8]
    sequence_epochs: int = _number(30, 0, 1000)  # of the sequence model, at most; 0 for none
    sequence_width: int = _number(128, 8, 4096)  # of its vectors; twice that measured no better on Beauty
    rank_from: int = _number(5000, 1)  # shoppers of the dev day that the ranker learns from, at most
    seed: int = _number(7, 0, 2**31)  # the same seed, snapshot and machine give the same weights
    max_steps: int | None = _number(None, 1)  # stop after so many steps, whatever the epochs say
    max_examples: int | None = _number(None, 1)  # train on so many examples, drawn with the seed


def load_recipe(name: str, search: Path | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name: one of those that Nightshelf ships (`brief`, `nightly`, `demo`), or the path of a YAML file.
        search: folder to which a relative path is taken; the working directory where absent.

    Raises:
        RecipeError: there is no such recipe, or a field of it is unknown or wrong.
    """
    file = recipe_file(name, search)
    try:
        content = parsed(file, file.read_bytes())[0] or {}
    except YamlError as error:
        raise RecipeError(str(error)) from error
    if not isinstance(content, dict):
        raise RecipeError(f"{file}: a recipe is a list of `field: value` lines")
    return _checked(content, file)


def recipe_file(name: str, search: Path | None = None) -> Path:
    """Where a recipe lies.

    Raises:
        RecipeError: there is none of that name.
    """
    shipped = RECIPES / f"{name}.yaml"
    file = shipped if shipped.is_file() and "/" not in name else (search or Path()) / name
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise RecipeError(f"{name}: no such recipe. Write one of {known}, or the path of a YAML file")
    return file.resolve()


def _checked(content: dict[Any, Any], file: Path) -> Recipe:
    fields = {f.name: f for f in dataclasses.fields(Recipe)}
    unknown = [str(key) for key in content if key not in fields]
    if unknown:
        raise RecipeError(f"{file}: {unknown[0]}: no such field. The fields are {', '.join(fields)}")
    kinds = get_type_hints(Recipe)
    values = {key: _value(content[key], kinds[key], fields[key], file) for key in content}
    if values.get("encoder", "").startswith("."):
        values["encoder"] = str((file.parent / values["encoder"]).resolve())
    return Recipe(**values)


def _value(value: Any, kind: Any, field_: dataclasses.Field[Any], file: Path) -> Any:
    name, rule = field_.name, field_.metadata
    if kind is str:
        names = rule.get("names")
        if not isinstance(value, str) or not value or (names and value not in names):
            wanted = f"one of {', '.join(names)}" if names else "a name"
            raise RecipeError(f"{file}: {name}: must be {wanted}, not {value!r}")
        return value
    if value is None and kind == int | None:
        return None
    number = _as_number(value, whole=kind is not float)
    if number is None or not rule["least"] <= number <= rule["most"]:
        most = "" if rule["most"] == math.inf else f" and at most {rule['most']}"
        what = "a number" if kind is float else "a whole number"
        raise RecipeError(f"{file}: {name}: must be {what} of at least {rule['least']}{most}, not {value!r}")
    return number


def _as_number(value: Any, whole: bool) -> int | float | None:
    if isinstance(value, str) and not whole:
        # YAML 1.1 reads 2e-5, without a dot, as a word.
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if whole:
        return value if isinstance(value, int) else None
    return float(value)
