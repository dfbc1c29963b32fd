"""Names of other tools, or of the Python functions, that users try as commands, and the commands that do it here."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup
from typing_extensions import override

_CHECK, _INFO, _BROWSE = "rcnn data check DIR", "rcnn data info DIR", "rcnn data browse DIR"
_FIX, _EVAL, _PREDICT = "rcnn data check DIR --fix OUT", "rcnn eval MODEL --data DIR", "rcnn predict MODEL IMAGES"
OTHER_NAMES: dict[str, dict[str, str]] = {  # command -> another name of one of its commands -> what to type
    "rcnn": {
        "evaluate": _EVAL, "test": _EVAL, "val": _EVAL, "validate": _EVAL, "score": _EVAL,
        "detect": _PREDICT, "infer": _PREDICT, "inference": _PREDICT,
        "finetune": "rcnn train CHECKPOINT --data DIR", "fine-tune": "rcnn train CHECKPOINT --data DIR",
        "resume": "rcnn train MODEL --data DIR --output RUN --resume",
        "check": f"{_CHECK} (a data set) or rcnn doctor (this machine)", "fix": _FIX, "info": _INFO, "describe": _INFO,
        "split": "rcnn data split DIR --fractions 0.8,0.2 --output OUT", "browse": _BROWSE,
        "list": "rcnn models (models) or rcnn runs (training runs)", "model": "rcnn models",
        "weights": "rcnn models weights", "recipes": "rcnn models recipes", "show": "rcnn models show MODEL",
        "draw": "rcnn visualize MODEL --data DIR", "plot": "rcnn visualize MODEL --data DIR",
        "upload": "rcnn push RUN OWNER/NAME", "import": "rcnn convert FILE", "speed": "rcnn benchmark MODEL",
    },
    "rcnn data": {
        "fix": _FIX, "repair": _FIX, "clean": _FIX, "convert": _FIX,
        "validate": _CHECK, "verify": _CHECK, "lint": _CHECK, "test": _CHECK,
        "describe": _INFO, "stats": _INFO, "statistics": _INFO, "summary": _INFO, "show": _INFO,
        "view": _BROWSE, "visualize": _BROWSE, "draw": _BROWSE, "preview": _BROWSE, "report": _BROWSE,
        "divide": "rcnn data split DIR --fractions 0.8,0.2 --output OUT",
        "get": "rcnn data download NAME", "fetch": "rcnn data download NAME", "list": "rcnn data download --help",
    },
    "rcnn models": {
        "info": "rcnn models show MODEL", "describe": "rcnn models show MODEL", "config": "rcnn models show MODEL",
        "settings": "rcnn models show MODEL", "download": "rcnn download NAME", "flops": "rcnn models cost MODEL",
        "parameters": "rcnn models cost MODEL",
    },
}  # fmt: skip


class NamedCommands(TyperGroup):
    """A group of commands; for a name of OTHER_NAMES, the error says what to type."""

    @override
    def resolve_command(self, ctx: Any, args: Any) -> Any:
        command = OTHER_NAMES.get(ctx.command_path, {}).get(args[0])
        if command is not None and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"{ctx.command_path} has no command {args[0]!r}; use: {command}")
        return super().resolve_command(ctx, args)
