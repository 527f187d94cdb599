"""Mistakes in a command line, each explained in one line that names what may be meant."""

from __future__ import annotations

import re
import sys
import traceback
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from inspect import signature
from pathlib import Path

from jsonargparse import ArgumentParser as JsonParser
from jsonargparse import Namespace

from gpa_lightning.commands.arguments import SHORT_FLAGS, flag_values, recipes
from gpa_lightning.commands.nearest import did_you_mean, nearest

_BASES = (  # of the classes that flags name
    *("lightning.pytorch.Callback", "lightning.pytorch.loggers.Logger"),
    *("torch.optim.lr_scheduler.LRScheduler", "torch.optim.Optimizer"),
)
_OF_OTHER_TYPES = (  # how reasons begin that say no more than that another type was meant
    *("Does not validate", "Expected a", "Import path", "Not a valid subclass"),
    *("a class path", "a dict"),
)
_FEW = 12  # names that are listed even where one is near
_TYPES = {
    r"class 'int'": "a whole number",
    r"PositiveInt": "a whole number above 0",
    r"NonNegativeInt": "a whole number from 0 on",
    r"Jobs": "-1 or a whole number above 0",
    r"class 'float'": "a number",
    r"class 'bool'": "true or false",
    r"class 'str'": "text",
    r"abc\.Sequence|class 'list'|class 'tuple'": "a list in brackets, such as [1,2]",
    r"class 'dict'": "a dictionary in braces, such as {1: 2}",
    r"Callable": "the path of a function",
    r"timedelta": "a time, such as 1:30:00",
    r"NoneType": "null",
}


def parse(parser: JsonParser, args: Sequence[str] | None) -> Namespace:
    """Parse a command line, by default the process's own; explain in one line what is wrong."""
    try:
        return parser.parse_args(args)
    except ArgumentError as error:
        given = sys.argv[1:] if args is None else args
        raise ArgumentError(None, explain(error, parser, given)) from error


def explain(
    error: BaseException,
    parser: ArgumentParser,
    given: Sequence[str],
    extra_flags: Iterable[str] = (),
) -> str:
    """Explain an error of parsing, or of making what was parsed, in one line.

    jsonargparse raises each error from the one that was its reason. Of a type that is one of
    several, the reason is that of the first, which is the one that was meant.

    Args:
        error: The error.
        parser: Parser of the command line.
        given: The command line as it was typed.
        extra_flags: Flags that the program takes out of it before the parser sees it.
    """
    message = str(error)
    if found := re.match(r"(?:unrecognized arguments|ambiguous option): (\S+)", message):
        return _no_such_flag(found[1], parser, extra_flags)
    if found := re.match(r"the following arguments are required: (.*)", message):
        usage = parser.format_usage()
        needed = [f"--{key}" if f"--{key}" in usage else key for key in found[1].split(", ")]
        return f"{', '.join(needed)} must be given; --help tells how"
    if found := re.match(r"argument \S*?--([\w.]+): expected (?:one|at least one) arg", message):
        return f"{_flag(found[1], given)} needs a value"
    if found := re.match(r"argument (\S+): invalid (\w+) value: '(.*)'", message):
        return _another_type(found[1], found[3], found[2], given)
    if found := re.match(r"argument \S+: invalid choice: '(.*)' \(choose (.*)\)", message):
        choices = re.findall(r"[\w-]+", found[2].removeprefix("from "))
        return f"there is no {found[1]}{did_you_mean(found[1], choices)}"
    if found := re.match(r'Linked "(\S+)" must be given via', message):
        return f"{_flag(found[1], given)} follows the data; leave it out"
    if re.match(r'Parser key "config"|Unexpected config|Problems parsing config', message):
        return _no_configuration(message, given)
    if found := re.match(r"(?:Group '(\S+)' does not accept option|Option) '(\S+?)'", message):
        key = ".".join(filter(None, found.groups()))
        near = did_you_mean(key, _keys(parser), listed=False)
        return f"{_file(key, given)}: there is no {key}{near}"
    return _wrong_value([*_causes(error)], given)


def failing_class(error: BaseException) -> str | None:
    """Return the name of the callback's, optimiser's or schedule's class that raised an error."""
    name = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, _bases()):
            name = type(owner).__name__
    return name


def no_such_metric(error: BaseException) -> str | None:
    """Explain an error on a metric to be monitored that is not logged; None for any other error."""
    found = re.search(
        r"(\w+)(?: conditioned on metric |\(monitor=)[`']?(\w+)[`')]* (?:which is|could) not(.*)",
        str(error),
    )
    if found is None:
        return None
    metrics = set(re.findall(r"['`](\w+)['`]", found[3])) - {"EarlyStopping", "monitor"}
    metrics -= {found[2], "epoch", "step", "log", "LightningModule"}
    kind = found[1].replace("stopping", "EarlyStopping")
    return f"{kind}: no metric {found[2]} is logged{did_you_mean(found[2], metrics)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _keys(parser: ArgumentParser) -> list[str]:
    """Return the keys of flags and files, those of the default classes' arguments included."""
    keys: Iterable[str] = parser.get_defaults().keys()  # type: ignore[attr-defined]
    return [key.replace(".init_args.", ".").removesuffix(".class_path") for key in keys]


def _no_such_flag(word: str, parser: ArgumentParser, extra_flags: Iterable[str]) -> str:
    flag, equals, value = word.partition("=")
    keys = _keys(parser)
    short = [name for name, long in SHORT_FLAGS.items() if long in keys]
    names = [*extra_flags, *short, *keys, "help", *["print_config"] * ("config" in keys)]
    near = nearest(flag, names)
    if not flag.startswith("-"):
        hint = f"did you mean --{near}={value}?" if equals and near else "flags begin with --"
        return f"{word} belongs to no flag; {hint}"
    plus = "+" if flag.endswith("+") else ""
    hint = f"did you mean --{near}{plus}?" if near else "--help lists them"
    return f"there is no {flag}; {hint}"


def _flag(key: str, given: Sequence[str]) -> str:
    """Return a key as the user wrote it: as a flag, in its short form, or as a key in a file."""
    flags = [flag for flag, _ in flag_values(given)]
    short = [name for name, long in SHORT_FLAGS.items() if long == key]
    if key not in flags and set(short) & set(flags):
        return f"--{short[0]}"
    if any(f"{key}.".startswith(f"{flag}.") for flag in flags):
        return f"--{key}"
    file = _file(key, given)
    return f"--{key}" if file == "--config" else f"{file}: {key}"


def _configurations(given: Sequence[str]) -> list[str]:
    """Return the recipes and files that were given, the last first, but no YAML in full."""
    named = [value for flag, value in flag_values(given) if flag in ("config", "c")]
    return [value for value in reversed(named) if "{" not in value]


def _file(key: str, given: Sequence[str]) -> str:
    """Return the configuration file that has a key, or else ``--config``."""
    for name in _configurations(given):
        path = Path(name)
        if path.is_file() and key.rpartition(".")[2] in path.read_text("utf-8", errors="replace"):
            return name
    return "--config"


def _no_configuration(message: str, given: Sequence[str]) -> str:
    names = _configurations(given)
    for name in names:
        if not name:
            return "--config needs a value"
        if name not in recipes() and not Path(name).is_file():
            return (
                f"--config {name}: there is no such recipe or file{did_you_mean(name, recipes())}"
            )
    reason = "not a file of flags, each a key of YAML"
    if message.startswith("Problems"):
        reason = message.partition(": ")[2].replace('in "<unicode string>", ', "in ")
    return f"{names[0] if names else '--config'}: {reason}"


def _wrong_value(causes: Sequence[BaseException], given: Sequence[str]) -> str:
    message, leaf = str(causes[0]), str(causes[-1])
    keys: list[str] = []
    kind, types, outer = "", leaf, leaf
    for text in map(str, causes):
        if found := re.match(r'\s*Parser key "([^"]+)"', text):
            keys += [found[1]] * (keys[-1:] != [found[1]])
            types = leaf
        elif found := re.match(r"Problem with given class_path '([^']+)'", text):
            kind, types, outer = found[1], leaf, types
        elif found := re.search(r"^ *Subtypes: \[(.*)\]$", text, re.M):
            types = found[1]
    if not keys:  # it was parsed, and could not be made
        classes = re.findall(r"class_path='(?:[\w.]*\.)?(\w+)'", message)
        maker = failing_class(causes[-1]) or (classes[-1] if classes else None)
        if leaf.startswith(_OF_OTHER_TYPES):  # the reason is that of a later one
            reasons = re.findall(r"^ *- (?:Problem with .*:\s+)?(.*)", message, re.M)
            leaf = next((each for each in reasons if not each.startswith(_OF_OTHER_TYPES)), leaf)
        return f"{maker}: {leaf}" if maker else _with_flag(leaf, given)
    flag = _flag(".".join(keys), given)
    if found := re.match(r"Option '(\S+)' is not accepted", leaf):
        return _no_such_argument(flag, found[1], kind)
    if found := re.match(r"the following arguments are required: (.*)", leaf):
        if _named(kind) in _bases():
            return f"{flag} needs the name of a class: {flag} NAME"
        needed = " and ".join(f"{flag}.{each}" for each in found[1].split(", "))
        return f"{kind.rpartition('.')[2]} needs {needed}"
    value = _value(message, leaf)
    if place := _place_in_users_module(causes[-1], value):
        return f"{flag} {value}: {place}"
    if found := re.search(r"Unable to load config ['\"](.*?)['\"]", message):
        return f"{flag} takes the path of a YAML file, not {found[1]}; else give {flag}.NAME VALUE"
    if found := re.match(r"invalid literal for int\(\) with base 10: '(.+)'", leaf):
        value, types = found[1], "class 'int'" if types == leaf else types
    elif found := re.match(r"(\S+) does not conform to restriction", leaf):
        value, types = found[1], message
    types = "Jobs" if "Not of type Jobs: " in message else types
    if not value:
        return f"{flag} needs a value" if " value: " in message else f"{flag}: {leaf}"
    types = outer if kind == value else types  # a class that could not be imported
    bases = [each for each in map(_named, re.findall(r"\w+(?:\.\w+)+", types)) if _is_base(each)]
    if bases and re.fullmatch(r"[\w.,]*", value):
        return _no_such_class(flag, value, leaf, bases, "NoneType" in types)
    return _another_type(flag, value, types, given)


def _with_flag(reason: str, given: Sequence[str]) -> str:
    """Replace the name of an argument, with which a message begins, by its flag."""
    name = reason.partition(" ")[0]
    long = SHORT_FLAGS.get(name)
    return f"{_flag(long, given)}{reason.removeprefix(name)}" if long else reason


def _value(message: str, leaf: str) -> str:
    if found := re.match(r"Expected a dot import path string: (\S*)", leaf):
        return found[1]
    if found := re.search(r"^ *Given value: NestedArg\(.*val='(.*)'\)$", message, re.M):
        return found[1]
    found = re.search(r"(?:Given|Got) value: (.*)", message)
    return found[1] if found else ""


def _named(path: str) -> object:
    """Return the class of a dotted path, or None if it is not imported."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _bases() -> tuple[type, ...]:
    """Return the base classes that are imported: predicting takes no Lightning."""
    return tuple(each for each in map(_named, _BASES) if isinstance(each, type))


def _is_base(each: object) -> bool:
    """Tell whether a flag of this type takes the name of a subclass."""
    owner = each.__module__.partition(".")[0] if isinstance(each, type) else ""
    return owner in ("gpa_lightning", "lightning", "torch") and each is not _named("torch.Tensor")


def _subclasses(base: type) -> Iterator[type]:
    yield base
    derived: list[type] = base.__subclasses__()
    for each in derived:
        yield from _subclasses(each)


def _no_such_argument(flag: str, name: str, kind: str) -> str:
    owner = _named(kind)
    if owner in _bases() or not isinstance(owner, type):
        return f"{flag}.{name} needs {flag} NAME before it, the class that it is for"
    names: list[str] = []
    for each in owner.__mro__[:-1]:
        parameters = signature(each.__init__).parameters.values()  # type: ignore[misc]
        names += [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break  # it hands nothing on to its base
    names = [each for each in names if each not in ("self", "params", "optimizer")]
    hint = did_you_mean(name, names) if names else ", and no other"
    return f"{flag}.{name}: {owner.__name__} has no such argument{hint}"


def _no_such_class(flag: str, value: str, leaf: str, bases: Sequence[object], or_null: bool) -> str:
    kind = flag.rpartition(".")[2].removeprefix("--").removesuffix("s")
    module, _, name = value.rpartition(".")
    if "," in value:
        return f"{flag} takes one name at a time, not {value}"
    if "subclass" in leaf:
        return f"{flag} {value}: that is no {kind}"
    if leaf.endswith(" is abstract"):
        return f"{flag} {value}: that class is abstract; name one that is derived from it"
    if module in sys.modules:
        near = nearest(name, vars(sys.modules[module]))
        hint = f"; did you mean {near}?" if near else ""
        return f"{flag} {value}: {module} has no {name}{hint}"
    classes = {each.__name__ for base in bases for each in _subclasses(base)}  # type: ignore[arg-type]
    known = {each for each in classes if not each.startswith("_")} - {e.__name__ for e in _bases()}
    if module:
        near = f"; did you mean {name}?" if name in known else ""
        return f"{flag} {value}: there is no module {module}, in this folder or installed{near}"
    near = did_you_mean(name, [*known, *["null"] * or_null], listed=len(known) <= _FEW)
    return f"{flag} {value}: there is no such {kind}{near}"


def _place_in_users_module(error: BaseException, value: str) -> str | None:
    """Say where the user's module failed on import, from which a class was to come."""
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or '').name}, line {error.lineno}: {error.msg}"
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if value.startswith(f"{module}.") and frame.f_code.co_name == "<module>":
            return f"{module}.py, line {line}: {type(error).__name__}: {error}"
    return None


def _another_type(flag: str, value: str, types: str, given: Sequence[str]) -> str:
    literals = re.findall(r"Literal\[(.*?)\]", types)
    choices = [each.strip().strip("'") for literal in literals for each in literal.split(",")]
    words = [*choices, *(words for of, words in _TYPES.items() if re.search(of, types))]
    if not words:
        return f"{flag} {value}: {types}"
    *others, last = dict.fromkeys(words)
    takes = f"{', '.join(others)} or {last}" if others else last
    typed = {f"--{name}": each for name, each in flag_values(given)}.get(flag, value)
    if typed.startswith("[") and typed != value:
        return f"{flag} {typed}: {value} is not {takes}"
    near = nearest(value, choices)
    return f"{flag} takes {takes}, not {value}" + (f"; did you mean {near}?" if near else "")
