"""What every table of a study is made of."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Table(BaseModel):
    """A frozen table of the study: unknown keys are refused, values are checked, not coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


def option(default: Any, text: str, *, paper: str = "", **bounds: Any) -> Any:
    """Declare one key of a study.

    Args:
        default: The value where the study is silent.
        text: One line for people, shown by `sonofed config show`.
        paper: Where the papers (P1, P2) set it: section, equation or table.
        bounds: pydantic's `ge`, `le`, `gt`, `lt`.

    Returns:
        The pydantic field.
    """
    extra: dict[str, Any] = {"paper": paper}
    if isinstance(default, (dict, list)) or callable(default):
        factory = default if callable(default) else default.copy
        return Field(default_factory=factory, description=text, json_schema_extra=extra, **bounds)
    return Field(default, description=text, json_schema_extra=extra, **bounds)
