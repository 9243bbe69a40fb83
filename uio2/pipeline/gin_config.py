"""gin files and `--gin.X=Y` bindings, resolved into the frozen specs of stages.

    config = GinConfig.parse(["configs/pipelines/digits.gin"], ["STEPS=20", "train.TrainSpec.batch=8"])
    spec = config.spec(TrainSpec)

Config files use `from __gin__ import dynamic_registration`, so a class needs no decorator and is named through the
file's own imports; command line bindings see the same imports. Every name is checked before gin reads the text, so
an unknown parameter, class or macro, a value of the wrong type or a binding that nothing uses is an error that says
where it stands and what was probably meant. gin keeps its state in globals: each parse starts from nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import gin

from uio2.pipeline.gin_names import Names, check_values, scan, suggestion
from uio2.pipeline.stage import Pipeline, StageError, UsageError, flatten, spec_to_json

REPOSITORY = Path(__file__).resolve().parents[2]
REGISTRATION = "from __gin__ import dynamic_registration"
Spec = TypeVar("Spec")


def search(file: str) -> Path:
    """The gin file, looked for as given, below the working directory and below the repository."""
    places = [Path(file)] if Path(file).is_absolute() else [Path.cwd() / file, REPOSITORY / file]
    for place in places:
        if place.is_file():
            return place
    near = [str(path.relative_to(REPOSITORY)) for path in sorted((REPOSITORY / "configs").glob("**/*.gin"))]
    raise UsageError(f"--gin_file={file}: no such file in {[str(p.parent) for p in places]}{suggestion(file, near)}")


@dataclasses.dataclass
class GinConfig:
    """A parsed configuration; `spec` resolves dataclasses from it.

    gin holds one configuration per process, so a second `parse` replaces the first.
    """

    names: Names
    used: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    @classmethod
    def parse(cls, files: Sequence[str | Path], bindings: Sequence[str] = ()) -> GinConfig:
        """Reads gin files in order, then bindings (`X=Y`, without the leading `--gin.`). Raises UsageError."""
        names = Names()
        paths = [search(str(file)) for file in files]
        for path in paths:
            scan(names, path.read_text(), place=str(path), find=search)
        imports = [REGISTRATION, *names.import_lines]
        scan(names, "\n".join([*imports, *map(_binding_line, bindings)]), place="--gin", find=search)
        names.check_macros()
        gin.clear_config(clear_constants=True)
        if str(REPOSITORY) not in _search_path():
            gin.add_config_file_search_path(str(REPOSITORY))
        try:
            for path in paths:
                gin.parse_config_file(str(path))
            gin.parse_config([*imports, *map(_binding_line, bindings)])
            gin.finalize()
        except (ValueError, SyntaxError, NameError, AttributeError, ImportError, OSError) as error:
            raise UsageError(f"gin: {error}") from error
        return cls(names)

    def spec(self, cls: type[Spec], *, scope: str = "") -> Spec:
        """The spec dataclass with its bound values; `scope` picks bindings written as `scope/Class.field`.

        Raises UsageError naming a required field that has no value, or a value of the wrong type.
        """
        if not dataclasses.is_dataclass(cls):
            raise UsageError(f"{cls!r} is not a dataclass")
        bound = self.names.bound(cls, scope=scope)
        self.used.update((used_scope, name) for used_scope in self.names.scopes(scope) for name in [cls.__qualname__])
        required = [f.name for f in dataclasses.fields(cls) if _required(f) and f.name not in bound]
        if required:
            path = f"{scope + '/' if scope else ''}{self.names.alias(cls)}.{required[0]}"
            raise UsageError(f"{path} has no value and no default; give one with --gin.{path}=VALUE")
        try:
            with gin.config_scope(scope or None):
                # A class that no binding mentions is not registered with gin, and has its defaults.
                value = gin.get_configurable(cls)() if self.names.mentioned(cls) else cls()
        except (StageError, ValueError, TypeError) as error:
            raise UsageError(f"{self.names.alias(cls)}: {str(error).splitlines()[0]}") from error
        for inner, name in self.names.references:
            self.used.update((used_scope, name) for used_scope in self.names.scopes(inner))
        return check_values(value, path=self.names.alias(cls))

    def check_used(self, *, pipeline: str, own: str = "") -> None:
        """Raises UsageError if a binding belongs to a class or scope that no resolved spec used.

        Bindings of the pipeline's `own` file may stay unused: it also serves stages that some sources leave out.
        """
        exempt = f"{search(own)}:" if own else "\0"
        for scope, name, place in self.names.bindings():
            if (scope, name) not in self.used and not place.startswith(exempt):
                known = sorted({f"{s}/{n}" if s else n for s, n in self.used})
                key = f"{scope}/{name}" if scope else name
                raise UsageError(
                    f"{place}: remove the binding of {key}, no stage of {pipeline!r} reads it{suggestion(key, known)}"
                )


def operative_text(pipeline: Pipeline) -> str:
    """Every value of every stage, defaults included, one `stage.field = value` a line: the golden text."""
    lines = []
    for stage in pipeline.stages:
        lines.append(f"# {stage.name}: {stage.type.name}, code {stage.type.code_version}, version {stage.version}")
        lines += [f"{stage.name}.{key} = {value!r}" for key, value in flatten(spec_to_json(stage.spec)).items() if key]
        lines.append("")
    return "\n".join(lines)


def _binding_line(binding: str) -> str:
    key, equals, value = binding.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--gin.{binding}: expected --gin.NAME=VALUE")
    return f"{key.strip()} = {value.strip()}"


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and field.init


def _search_path() -> list[str]:
    return list(gin.config._LOCATION_PREFIXES)  # gin has no public way to ask; adding twice would grow it for ever
