"""The three ways in which a provider call fails. An adapter raises these and nothing else."""

from app.domain.errors import ErrorCode


class ProviderError(Exception):
    """Base of the three. `detail` is our own sentence: never an SDK's text, a body or a secret."""

    def __init__(self, code: ErrorCode, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


class TransientError(ProviderError):
    """Nothing was changed and the same call may work later; `retry_after_s` is the provider's wish, if any."""


class RejectedError(ProviderError):
    """Nothing was changed and the same call will never work: undo."""


class UnknownOutcomeError(ProviderError):
    """The write may have happened, now or a little later: wait, and look before doing anything."""
