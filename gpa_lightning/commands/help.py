"""``--help``: this project's flags, and those of Lightning's Trainer where they are asked for.

argparse has no public names for a parser's actions (`_actions`) nor for the action of ``--help``
(`_HelpAction`, which jsonargparse knows as one that parses nothing); `TestHelp` notices a change.
"""

from __future__ import annotations

import re
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, _HelpAction
from collections.abc import Sequence
from typing import Any, ClassVar

from lightning.pytorch.cli import LightningArgumentParser

from gpa_lightning.commands.arguments import SHORT_FLAGS
from gpa_lightning.commands.nearest import did_you_mean

LIGHTNINGS = "trainer"
"""The name that the flags of Lightning's Trainer begin with."""

_FILES = ("data", "model")  # flags that take a file of flags, as --config does
_KNOWN_CLASSES = re.compile(r",\s+known\s+subclasses:[^()]*\)")
_SHORT = [name for name, long in SHORT_FLAGS.items() if long.startswith(f"{LIGHTNINGS}.")]
_MORE = f"""--{", --".join(_SHORT)} are short for --{LIGHTNINGS}.{_SHORT[0]} and so on. '--help
{LIGHTNINGS}' shows all flags of Lightning's Trainer, '--help data' those of the data alone, and so
on; '--early_stopping.help' and '--optimizer.help AdamW' show what a class takes."""


class GroupedHelp(_HelpAction):
    """``--help``, or ``--help NAME`` for the flags that begin with a name."""

    def __init__(self, option_strings: Sequence[str], dest: str = SUPPRESS, **_: Any) -> None:
        text = f"Show this help, or the flags that begin with a name, as in '--help {LIGHTNINGS}'."
        super().__init__(option_strings, dest, help=text)
        self.nargs, self.metavar = "?", "NAME"

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print the help, and end the program."""
        assert isinstance(parser, HelpfulParser)
        parser.group = str(values) if values else None
        groups = {flag.dest.partition(".")[0] for flag in parser.flags}
        if parser.group and parser.group not in groups:
            parser.error(f"--help {values}: no flag begins so{did_you_mean(str(values), groups)}")
        parser.print_help()
        parser.exit()


class HelpfulParser(LightningArgumentParser):
    """Lightning's parser, with a help of this project's flags that fits on a few screens.

    Attributes:
        class_defaults: Defaults of classes' arguments, by flag, for the help of the class.
        group: Name that the flags in the help begin with; None for this project's flags.
        flags: All flags.
    """

    class_defaults: ClassVar[dict[str, Any]] = {}
    group: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"add_help": False, **kwargs})
        self.add_argument("-h", "--help", action=GroupedHelp)

    @property
    def flags(self) -> list[Action]:
        """All flags."""
        return self._actions

    def format_help(self, *args: Any) -> str:
        """Return the help, without what was not asked for."""
        names = {flag.dest for flag in self.flags}
        defaults = {name: self.class_defaults[name] for name in names & {*self.class_defaults}}
        self.set_defaults(defaults)
        usage, texts = self.usage, {flag: flag.help for flag in self.flags}
        try:
            if LIGHTNINGS in names:
                self.usage, self.epilog = "%(prog)s [flags]", _MORE
                for flag in self.flags:
                    flag.help = flag.help if self._shows(flag) else SUPPRESS
            text = super().format_help(*args)
        finally:
            self.usage = usage
            for flag, own in texts.items():
                flag.help = own
        for short, long in SHORT_FLAGS.items():
            text = text.replace(f"\n  --{long} ", f"\n  --{short}, --{long} ")
        return text if self.group else _KNOWN_CLASSES.sub(")", text)

    def _shows(self, flag: Action) -> bool:
        name = flag.dest.partition(".")[0]
        if self.group is not None:
            return name == self.group
        is_flag = any(each.startswith("-") for each in flag.option_strings)
        others = flag.dest in _FILES or flag.dest.endswith(".help")
        return is_flag and not others and name != LIGHTNINGS
