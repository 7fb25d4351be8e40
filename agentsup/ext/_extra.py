"""One clear error where the package that an integration is for is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class extra:
    """``with extra("langchain"): import langchain_core``: what is missing is said with the cure.

    :param name: the extra of this package that installs it.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc, ModuleNotFoundError):
            missing = (exc.name or "").partition(".")[0]
            raise ModuleNotFoundError(
                f"{missing} is not installed: pip install 'agentsup[{self._name}]'", name=missing
            ) from None
