"""Where everything lies, and what the shop has decided.

One folder, the *home* (`NIGHTSHELF_HOME`, else `home/` where the command is run), holds all data; `shop.yaml`
in it holds all business decisions. Nothing else in Nightshelf builds a path or reads an environment variable
for one.
"""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from resources.aside import replacing
from resources.yaml_file import YamlError, complaint, parsed

BEHAVIORS = ("browse", "click", "cart", "purchase")
"""The four behaviours, weakest first. The taxonomy seed in `dbt/seeds` names them in two languages."""
CURRENCY = re.compile("[A-Z]{3}")
"""An ISO 4217 code."""


class ShopError(ValueError):
    """`shop.yaml` cannot be used; the message names the file, the field and the next step."""


def _worth(value: object, read: ValidatorFunctionWrapHandler) -> float | str:
    """One complaint, where a union has one for each of its parts."""
    with suppress(ValidationError):
        worth: float | str = read(value)
        if isinstance(worth, str) or 0 <= worth < math.inf:
            return worth
    raise ValueError(f"must be a number of at least 0, or `price`, not {value!r}")


Worth = Annotated[float | Literal["price"], WrapValidator(_worth)]


class Values(BaseModel):
    """What one behaviour is worth to the shop: a number, or `price` for the item's own price.

    `score = Σ value(behaviour) · P(behaviour)` ranks the shelf, so this is the business objective.
    """

    model_config = ConfigDict(extra="forbid")

    browse: Worth = 0.05
    click: Worth = 0.2
    purchase: Worth = 1.0


class ShelfRules(BaseModel):
    """What a shelf has to obey beside its order by value. `docs/shelf-rules.md` tells what each one does."""

    model_config = ConfigDict(extra="forbid")

    most_per_brand: Annotated[int, Field(ge=1)] | None = None
    """Items of one brand on a shelf, at most; absent for no limit."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How unlike each other the items of a shelf shall be: 0 as it comes, 0.1 a little, 1 nothing else."""
    new_items: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Share of a shelf's places that is given to new items few have met yet: 0.05 is one of twenty."""
    bought_again: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Category → days for which an item is left off the shelf of a shopper who bought it, where they shall
    not be learnt from the shop's own log; `"*"` for all categories not named."""


class Toleration(BaseModel):
    """A taint of Kubernetes nodes that training pods put up with, in the words of Kubernetes."""

    model_config = ConfigDict(extra="forbid")

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @property
    def content(self) -> dict[str, str]:
        return self.model_dump(exclude_none=True)


class Training(BaseModel):
    """What a training asks of the machines. `docs/gpu.md` tells how for each executor."""

    model_config = ConfigDict(extra="forbid")

    devices: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs of one machine; where it has fewer, those or its CPU. 0 for the CPU in any case."""
    gpu_resource: str = "nvidia.com/gpu"
    """What the Kubernetes cluster calls a GPU."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the Kubernetes nodes to train on."""
    tolerations: list[Toleration] = [Toleration(key="nvidia.com/gpu", effect="NoSchedule")]
    """Taints of those nodes; the default is what GPU nodes usually carry."""


UNTIL_FIRST_NIGHT = timedelta(days=7)
"""From the first day with logs to the first model: enough to learn a first one from."""


class Shop(BaseModel):
    """The shop's decisions, one YAML file (`home/shop.yaml`)."""

    model_config = ConfigDict(extra="forbid")

    name: str = "My shop"
    timezone: str = "Europe/Berlin"
    """IANA zone in which a day begins and ends."""
    currency: str = "EUR"
    """ISO 4217 code of the catalogue's prices."""
    first_day: date = date(2026, 1, 5)
    """First day with logs: the first daily partition."""
    first_night: date | None = None
    """First day that gets a model and a shelf; a week after `first_day` where absent."""
    last_day: date | None = None
    """Last day with logs, for a data set that has ended. Absent for a shop that is open."""
    recipe: str = "nightly"
    """Training recipe: a name in `assets/model/recipes/`, or the path of a YAML file."""
    executor: Literal["devices", "k8s", "ray"] = "devices"
    """Where steps run: processes of this machine, pods of a Kubernetes cluster, jobs of a Ray one."""
    training: Training = Training()
    """Devices of a training."""
    values: Values = Values()
    rules: ShelfRules = ShelfRules()
    """Brands, diversity, new items, and what was bought already."""
    shelf_size: Annotated[int, Field(ge=1, le=1000)] = 20
    """Recommendations per shopper."""
    keep_shelves: Annotated[int, Field(ge=1)] = 7
    """Published shelves kept for undo."""
    history_days: Annotated[int, Field(ge=2)] = 28
    """Days of behaviour a model may look back on."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        if zone not in available_timezones():
            raise ValueError(f"{zone!r} is no IANA time zone; write one like Europe/Berlin")
        return zone

    @field_validator("currency")
    @classmethod
    def _iso_code(cls, code: str) -> str:
        if not CURRENCY.fullmatch(code):
            raise ValueError(f"{code!r} is no ISO 4217 code; write one like EUR")
        return code

    @model_validator(mode="after")
    def _first_night_follows(self) -> Shop:
        if self.first_night is None:
            self.first_night = self.first_day + UNTIL_FIRST_NIGHT
        if self.first_night <= self.first_day + timedelta(days=1):
            raise ValueError(
                "first_night must lie at least two days after first_day: a model needs days to learn from"
            )
        if self.last_day and self.last_day < self.first_night:
            raise ValueError(f"last_day must not lie before the first night, {self.first_night}")
        return self

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


@dataclass(frozen=True)
class Home:
    """The folder that holds all of a shop's data. Properties are paths; none is created by looking at it."""

    root: Path

    @classmethod
    def current(cls) -> Home:
        """The home that `NIGHTSHELF_HOME` names, else `home/` in the working directory."""
        return cls(Path(os.environ.get("NIGHTSHELF_HOME") or "home").resolve())

    @cached_property
    def shop(self) -> Shop:
        """The decisions in `shop.yaml`, or the defaults where there is no such file.

        Raises:
            ShopError: the file is no YAML mapping, or a field in it is wrong.
        """
        if not self.shop_file.exists():
            return Shop()
        try:
            values, tree = parsed(self.shop_file, self.shop_file.read_bytes())
            return Shop.model_validate(values or {})
        except YamlError as error:
            raise ShopError(str(error)) from error
        except ValidationError as error:
            faults = "\n".join(
                complaint(
                    self.shop_file,
                    tree,
                    fault["loc"],
                    "no such field" if fault["type"] == "extra_forbidden" else fault["msg"],
                )
                for fault in error.errors()
            )
            raise ShopError(f"{faults}. Correct the field and run the command again.") from error

    def write_shop(self, shop: Shop) -> None:
        """Put `shop.yaml` in place by one rename."""
        values = shop.model_dump(mode="json")
        if shop.first_night == shop.first_day + UNTIL_FIRST_NIGHT:
            del values["first_night"]  # so that it follows where somebody moves the first day
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        with replacing(self.shop_file) as aside:
            aside.write_text(text, encoding="utf-8")
        self.__dict__.pop("shop", None)

    @property
    def shop_file(self) -> Path:
        return self.root / "shop.yaml"

    @property
    def drop(self) -> Path:
        """Where publishers put files, one sub-folder per source."""
        return self.root / "drop"

    @property
    def sources(self) -> Path:
        """The shop's own source files, beside those that Nightshelf ships."""
        return self.root / "sources"

    @property
    def loads(self) -> Path:
        """The raw zone: one immutable folder per file taken in."""
        return self.root / "raw" / "loads"

    @property
    def warehouse(self) -> Path:
        return self.root / "warehouse.duckdb"

    @property
    def snapshots(self) -> Path:
        """Training snapshots, one folder per content hash."""
        return self.root / "snapshots"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def checkpoints(self) -> Path:
        """States of trainings that have not come to their end, one file per snapshot and recipe."""
        return self.root / "checkpoints"

    @property
    def vectors(self) -> Path:
        """Item vectors, cached by encoder version and text hash."""
        return self.root / "vectors"

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    @property
    def outcomes(self) -> Path:
        return self.root / "outcomes"

    @property
    def published(self) -> Path:
        """The file that people and tools read."""
        return self.root / "published.duckdb"

    @property
    def shelves(self) -> Path:
        """The last published shelves, for undo."""
        return self.root / "shelves"

    @property
    def keys(self) -> Path:
        """Identity keys: outside the warehouse, readable by the owner only."""
        return self.root / "keys"

    @property
    def leases(self) -> Path:
        """Lock files of devices and of the warehouse."""
        return self.root / "leases"

    @property
    def truth(self) -> Path:
        """What the simulator knows. The pipeline never reads it."""
        return self.root / "truth"

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"
